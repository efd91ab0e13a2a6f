"""What must hold for a method of a module to be replaced."""

import inspect
from collections.abc import Iterable

from torch import nn

from vireid_fast.nn.hooks import has_hooks, has_own_forward


def method_problem(module: nn.Module, method: str) -> str | None:
    """Why the module's method may not be the one its class is known by."""
    if method in module.__dict__:
        return f"{method} is patched on the instance"
    owners = [
        cls for cls in type(module).__mro__ if method in cls.__dict__ and cls is not nn.Module
    ]
    if len(owners) > 1:
        return f"{method} is overridden by a subclass ({owners[0].__name__})"
    return None


def untouched(modules: Iterable[nn.Module]) -> bool:
    """Whether nothing but the modules' own forward runs when they are called."""
    return not any(_is_touched(module) for module in modules)


def touched_names(root: nn.Module, inner: Iterable[nn.Module]) -> list[str]:
    """Names of those `inner` modules of `root` that have hooks or a patched forward."""
    concerned = set(inner)
    return [
        name
        for name, module in root.named_modules()
        if name and module in concerned and _is_touched(module)
    ]


def active_dropout(root: nn.Module) -> bool:
    """Whether a dropout in `root` would act in training."""
    for module in root.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return True
        if isinstance(module, nn.MultiheadAttention) and module.dropout > 0:
            return True
    return False


def attention_problems(attention: nn.MultiheadAttention) -> list[str]:
    """What makes it more than softmax attention with three projections of one width."""
    reasons = {
        "keys or values have another width": not attention._qkv_same_embed_dim,
        "it has bias_k and bias_v": attention.bias_k is not None,
        "it adds a zero key": attention.add_zero_attn,
    }
    return [reason for reason, holds in reasons.items() if holds]


def positional_arguments(module: nn.Module) -> int:
    """How many arguments `forward` asks for."""
    parameters = inspect.signature(type(module).forward).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return len(required) - 1


def _is_touched(module: nn.Module) -> bool:
    return has_own_forward(module) or has_hooks(module)
