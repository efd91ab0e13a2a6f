"""Hooks on modules, which a shortcut past these modules would leave out."""

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Hugging Face leaves these behind after a call that asked for more outputs; they record nothing in
# calls that do not.
_IDLE_HOOKS = "transformers.utils.output_capturing"


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks that do something run when `module` is called."""
    return any(
        getattr(hook, "__module__", None) != _IDLE_HOOKS
        for name in _HOOKS
        for hook in getattr(module, name).values()
    )


def has_own_forward(module: nn.Module) -> bool:
    """Whether the `forward` of `module` is not its class's, since somebody replaced it."""
    return "forward" in vars(module)
