"""The one place where error sentences are made.

Form: `<what>: <argument> must <requirement>, got <value>. <what to do>`
"""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def sentence(what: str, argument: str, requirement: str, got: object, remedy: str = "") -> str:
    """Compose one error sentence in the house form."""
    tail = f" {remedy}" if remedy else ""
    return f"{what}: {argument} must {requirement}, got {got}.{tail}"


def require(
    condition: bool,
    what: str,
    argument: str,
    requirement: str,
    got: object,
    remedy: str = "",
    error: type[Exception] = ValueError,
) -> None:
    """Raise `error` with the house sentence unless `condition` holds."""
    if not condition:
        raise error(sentence(what, argument, requirement, got, remedy))


def require_tensor(what: str, argument: str, value: object) -> None:
    """Raise TypeError unless `value` is a tensor."""
    require(
        isinstance(value, Tensor), what, argument, "be a torch.Tensor", type(value).__name__,
        "Call torch.as_tensor(...) first.", TypeError,
    )  # fmt: skip


def require_dtype(what: str, argument: str, value: Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """Raise TypeError unless the tensor has one of `dtypes`."""
    # The sentence is made on failure only: these checks stand before every call of an op.
    if isinstance(value, Tensor) and value.dtype in dtypes:
        return
    require_tensor(what, argument, value)
    names = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
    require(
        False, what, argument, f"be {names}", value.dtype,
        f"Convert with {argument}.to(torch.{names.split(' or ')[0]}).", TypeError,
    )  # fmt: skip


def require_shape(what: str, argument: str, value: Tensor, shape: Sequence[int | str]) -> None:
    """Raise ValueError unless the tensor has `shape`; a string entry names a free size."""
    if not isinstance(value, Tensor):
        require_tensor(what, argument, value)
    sizes = value.shape
    if len(sizes) == len(shape):
        for want, have in zip(shape, sizes, strict=True):
            if want != have and not isinstance(want, str):
                break
        else:
            return
    # The sentence is made on failure only: torch.compile cannot print a symbolic size.
    text = "(" + ", ".join(str(s) for s in shape) + ("," if len(shape) == 1 else "") + ")"
    require(False, what, argument, f"have shape {text}", tuple(value.shape))


def require_same_device(what: str, **tensors: Tensor) -> None:
    """Raise ValueError unless all tensors live on one device."""
    devices = {name: t.device for name, t in tensors.items()}
    require(
        len(set(devices.values())) <= 1, what, " and ".join(devices), "be on one device",
        ", ".join(str(d) for d in devices.values()), "Move them with .to(device).",
    )  # fmt: skip


def require_finite(what: str, argument: str, value: Tensor) -> None:
    """Raise ValueError naming the first row that holds NaN or infinity."""
    # One cheap pass is enough for most: a sum is finite only if every term is.
    if bool(torch.isfinite(value.sum())):
        return
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite)[0].tolist()
        require(
            False, what, argument, "be finite", f"{value[tuple(bad)].item()} at row {bad[0]}",
            "Remove or repair that row.",
        )  # fmt: skip


def may_read_values() -> bool:
    """Whether the host may read tensors now: not while a graph is traced or captured."""
    if torch.compiler.is_compiling():
        return False
    return not (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())


def require_class_labels(
    what: str, argument: str, labels: Tensor, num_classes: int, remedy: str
) -> None:
    """Raise ValueError unless labels lie in [0, num_classes); unchecked where none may be read."""
    if labels.numel() == 0 or not may_read_values():
        return
    low, high = (int(bound) for bound in torch.aminmax(labels))
    require(
        low >= 0 and high < num_classes, what, argument, f"be in [0, {num_classes})",
        low if low < 0 else high, remedy,
    )  # fmt: skip


def require_choice(what: str, argument: str, value: object, choices: Iterable[object]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    options = choices if isinstance(choices, tuple) else list(choices)
    if value not in options:
        require(False, what, argument, f"be one of {list(options)}", repr(value))


def require_no_grad(what: str, **tensors: Tensor) -> None:
    """Raise RuntimeError if a gradient would silently be lost in an op that has none."""
    for name, value in tensors.items():
        if torch.is_grad_enabled() and value.requires_grad:
            raise RuntimeError(
                f"{what}: {name} must not require a gradient, since {what} is not differentiable, "
                f"got requires_grad=True. Pass {name}.detach()."
            )


def require_number(what: str, argument: str, value: object) -> None:
    """Raise TypeError unless `value` is a Python number; a tensor might want a gradient."""
    if not isinstance(value, (int, float)):
        require(False, what, argument, "be a number", repr(value), error=TypeError)


def positive_int(what: str, argument: str, value: Any) -> int:
    """`value` as an int of at least 1; anything with `__index__` is taken.

    Raises:
        TypeError: `value` is no integer. ValueError: It is less than 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(sentence(what, argument, "be an integer", repr(value))) from None
    require(number >= 1, what, argument, "be at least 1", number)
    return number


class WriteError(OSError):
    """A file or folder that could not be written; the message names it and says why."""

    def __str__(self) -> str:
        return (
            f"write: {self.filename} must be written, got {self.strerror}. Free space or name "
            "another place; no file was left half written."
        )
