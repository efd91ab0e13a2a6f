"""Whether the parts of a text tower's blocks are what the text encoder computes.

Each function appends to `problems` what it does not understand, so that a refusal names everything.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vireid_fast.nn.quick_gelu import quick_gelu

_NAMED_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
}
# float16's most negative numbers; masks of half towers hold these where others hold -inf.
_HIDDEN = -6e4


def has_parts(module: nn.Module, *paths: str) -> bool:
    """Whether attributes such as "mlp.c_fc" exist."""
    for path in paths:
        value = module
        for name in path.split("."):
            value = getattr(value, name, None)
        if value is None:
            return False
    return True


def check_parts(name: str, module: nn.Module, parts: Sequence[str], problems: list[str]) -> bool:
    """Whether a module has these children, and nothing else that could act on its output."""
    missing = [part for part in parts if not has_parts(module, part)]
    extra = [
        part
        for part, child in module.named_children()
        if part not in parts and not isinstance(child, (nn.Identity, nn.Dropout))
    ]
    extra += [part for part, _ in module.named_parameters(recurse=False)]
    if missing:
        problems.append(f"unknown structure: {name} has no {', '.join(missing)}")
    if extra:
        problems.append(f"unknown structure: {name} has {', '.join(extra)} besides")
    return not missing and not extra


def check_linear(name: str, module: nn.Module, problems: list[str]) -> None:
    """A layer that replaces a linear map (low-rank adapters, quantisation) is not read through."""
    if not isinstance(module, nn.Linear) or type(module).forward is not nn.Linear.forward:
        problems.append(f"unknown structure: {name} is a {type(module).__name__}, not a Linear")


def check_causal_mask(name: str, mask: object, length: int, problems: list[str]) -> None:
    """The mask of an OpenAI block must hide the later tokens, all of them and no others."""
    if not isinstance(mask, Tensor):
        problems.append(f"no causal mask: {name}.attn_mask is {mask}")
        return
    if mask.shape != (length, length):
        problems.append(
            f"no causal mask: {name}.attn_mask has shape {tuple(mask.shape)}, not "
            f"({length}, {length})"
        )
        return
    if mask.is_meta:
        return
    later = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(1)
    hidden = mask if mask.dtype == torch.bool else mask <= _HIDDEN
    shown = mask.masked_fill(later, 0)
    if not bool((hidden == later).all()) or bool(shown.any()):
        problems.append(f"no causal mask: {name}.attn_mask is not the causal one")


def read_packed_heads(name: str, attention: nn.Module, problems: list[str]) -> int:
    """Number of heads of `nn.MultiheadAttention` or of our `Attention`."""
    if not isinstance(getattr(attention, "in_proj_weight", None), Tensor):
        problems.append(f"unknown structure: {name} has no packed in_proj_weight")
    elif isinstance(attention, nn.MultiheadAttention) and (
        attention.bias_k is not None or attention.add_zero_attn
    ):
        problems.append(f"unknown structure: {name} adds keys of its own")
    check_linear(f"{name}.out_proj", getattr(attention, "out_proj", None), problems)
    return getattr(attention, "num_heads", None) or getattr(attention, "heads", 1)


def read_activation(
    name: str, mlp: nn.Module, linear: tuple[str, str], problems: list[str]
) -> Callable[[Tensor], Tensor]:
    """The activation between the two linear maps of `mlp`, which it checks as well."""
    for part in linear:
        if has_parts(mlp, part):
            check_linear(f"{name}.{part}", getattr(mlp, part), problems)
        else:
            problems.append(f"unknown structure: {name} has no {part}")
    others = {
        part: child
        for part, child in mlp.named_children()
        if part not in linear and not isinstance(child, (nn.Identity, nn.Dropout))
    }
    named = getattr(mlp, "activation", None)
    if not others and isinstance(named, str) and named in _NAMED_ACTIVATIONS:
        return _NAMED_ACTIVATIONS[named]
    if len(others) == 1:
        return _fused(next(iter(others.values())))
    problems.append(
        f"unknown structure: {name} has {', '.join(others) or 'nothing'} as its activation"
    )
    return nn.Identity()


def _fused(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    """Our `quick_gelu` in place of a module that computes the same."""
    if any(True for _ in (*activation.parameters(), *activation.buffers())):
        return activation
    sample = torch.linspace(-4, 4, 17, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        same = torch.equal(activation(sample), sample * torch.sigmoid(1.702 * sample))
    return quick_gelu if same else activation
