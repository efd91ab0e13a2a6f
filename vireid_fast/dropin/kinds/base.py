"""What a kind of module tells `accelerate`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vireid_fast.dropin.swap import FastModule

# (the module, the model it was found in)
Prepare = Callable[[nn.Module, nn.Module], Any]


Probe = tuple[str, tuple[Any, ...], dict[str, Any]]
"""A method of a module, with arguments and keyword arguments of a call."""


class UnsuitableError(Exception):
    """A module of a known kind that must stay as it is; the message is the reason."""


@dataclass(frozen=True)
class Kind:
    """One kind of module.

    Attributes:
        name: For the report.
        detail: What is done, for the report.
        methods: Methods that are replaced.
        fast: Class that is put in front of the module's.
        matches: Whether a module looks like this kind.
        prepare: State of the fast class, made before the swap; raises `UnsuitableError`.
        probes: Pairs of a method's name and its arguments, for the comparison with the original.
        result: The tensor to compare, from what the method returns; raises `UnsuitableError`.
        inner: Modules that the methods run, perhaps with the module itself.
    """

    name: str
    detail: str
    methods: tuple[str, ...]
    fast: type[FastModule]
    matches: Callable[[nn.Module], bool]
    prepare: Prepare
    probes: Callable[[nn.Module], list[Probe]]
    result: Callable[[Any], Tensor]
    inner: Callable[[nn.Module], Iterable[nn.Module]] = nn.Module.modules


def tensor_result(value: Any) -> Tensor:
    """The value, if it is a tensor."""
    if not isinstance(value, Tensor):
        raise UnsuitableError(f"it returns a {type(value).__name__}, of which all may be read")
    return value


def has_linear(module: nn.Module, *names: str) -> bool:
    """Whether all of these children are plain linear maps."""
    return all(type(getattr(module, name, None)) is nn.Linear for name in names)


def no_state(_module: nn.Module, _model: nn.Module) -> None:
    """Nothing to prepare, and nothing that speaks against the module."""
