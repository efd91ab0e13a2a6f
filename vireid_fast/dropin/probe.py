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
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        return call()


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


def compare(actual: Tensor, expected: Tensor) -> str | None:
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
    if not error <= _TOLERANCES.get(expected.dtype, _HALF_TOLERANCE):
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
