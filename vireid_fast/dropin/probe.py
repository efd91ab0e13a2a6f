"""A module's own method against its replacement, on a tiny input."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Share of the largest value by which the two may differ: what reordered sums of a deep tower give.
_TOLERANCES = {torch.float64: 1e-11, torch.float32: 5e-5}
_HALF_TOLERANCE = 5e-2


def random_input(*shape: int, like: Tensor) -> Tensor:
    """Normal values in the dtype and on the device of `like`, without any global random state."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return values.to(device=like.device, dtype=like.dtype)


def run_quietly(call: Callable[[], Any], device: torch.device) -> Any:
    """Result of a call that builds no graph and leaves the random state as it was."""
    with torch.no_grad(), _own_state(device):
        return call()


def value_and_gradients(
    call: Callable[[], Tensor], module: nn.Module, device: torch.device
) -> list[Tensor]:
    """A call's value and the gradient that it gives to each parameter of a module, in order.

    The gradients tell of parameters whose part is still zero, a gate or an adapter say. Parameters
    with hooks of their own are passed by, and `.grad` and the random state stay as they are. What
    was made in inference mode has no gradients.
    """
    leaves = [p for p in module.parameters() if p.is_floating_point() and not p._backward_hooks]
    if any(p.is_inference() for p in leaves):
        return [run_quietly(call, device)]
    frozen = [p for p in leaves if not p.requires_grad]
    with torch.enable_grad(), _own_state(device):
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            value = call()
            # Of length 1, so that gradients of half precision do not overflow.
            weights = random_input(*value.shape, like=value).div_(max(1, value.numel()) ** 0.5)
            grads = torch.autograd.grad(
                value, leaves, weights, allow_unused=True, materialize_grads=True
            )
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
    # Of one scale, so that the gradient of a key's bias, rounding alone, is compared to the others.
    return [value.detach(), torch.cat([grad.flatten() for grad in grads])]


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Set training or evaluation mode for a while; batch norms evaluate, to learn nothing."""
    before = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in before:
            part.training = training and not isinstance(part, nn.modules.batchnorm._NormBase)
        yield
    finally:
        for part, mode in before:
            part.training = mode


@contextmanager
def _own_state(device: torch.device) -> Iterator[None]:
    """No autocast of the caller's inside, and the caller's random state afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.autocast(device.type, enabled=False), torch.random.fork_rng(devices=devices):
        yield


def tolerance(module: nn.Module) -> float:
    """By which share of the largest value two ways to compute the module's function may differ."""
    dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
    return max(_TOLERANCES.get(dtype, _HALF_TOLERANCE) for dtype in dtypes)


def compare(actual: Tensor, expected: Tensor, allowed: float) -> str | None:
    """Why the two are not the same function's values up to rounding; None if they are."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return (
            f"the probe gave {tuple(actual.shape)} {actual.dtype}, "
            f"not {tuple(expected.shape)} {expected.dtype}"
        )
    if not bool(torch.isfinite(expected).all()):
        return "the probe's outputs are not finite"
    scale = float(expected.abs().max())
    if scale == 0:
        return "the probe's outputs are all zero and prove nothing"
    error = float((actual.double() - expected.double()).abs().max()) / scale
    if not error <= allowed:
        return f"the probe's outputs differ by {error:.1e} of their largest value"
    return None


def placement_problem(module: nn.Module) -> str | None:
    """Why the module cannot be run now."""
    tensors = [*module.parameters(), *module.buffers()]
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return "its parameters are of a tensor subclass (quantised or sharded)"
    devices = {t.device.type for t in tensors}
    if devices - {"cpu", "cuda"} or len(devices) != 1:
        return f"its parameters are on {', '.join(sorted(devices)) or 'no device'}"
    return None
