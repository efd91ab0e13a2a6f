"""Exchange of a module's class, in place and undoable."""

import copyreg
import types
from functools import cache
from typing import Any, cast

from torch import nn

# Not registered with the module: neither the state dict nor `children()` shows it.
_STATE = "_vireid_fast"


class FastModule:
    """Base of what is put in front of a module's class.

    A subclass overrides the methods that it can compute faster and calls `super()` wherever it
    cannot. Parameters, buffers, hooks and `isinstance` stay as they were.
    """

    _vireid_original: type[nn.Module]

    @property
    def _fast(self) -> Any:
        """What the kind prepared for this module."""
        return self.__dict__[_STATE]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # A class made at run time has no name by which pickle could find it.
        made, arguments, *rest = cast(tuple[Any, ...], super().__reduce_ex__(protocol))
        if made is not copyreg.__newobj__ or arguments != (type(self),):  # type: ignore[attr-defined]
            return made, arguments, *rest
        cls = type(self)
        return _new_module, (cls._vireid_original, cls.__mro__[1]), *rest


def swap(module: nn.Module, fast: type[FastModule], state: Any) -> None:
    """Put `fast` in front of the module's class.

    Raises:
        TypeError: The class does not allow it, for instance because of `__slots__`.
    """
    module.__class__ = _fast_class(type(module), fast)  # type: ignore[arg-type]
    module.__dict__[_STATE] = state


def restore(module: nn.Module) -> bool:
    """Give the module its own class back; tell whether it had been swapped."""
    if not isinstance(module, FastModule):
        return False
    module.__class__ = module._vireid_original  # type: ignore[assignment]
    del module.__dict__[_STATE]
    return True


@cache
def _fast_class(original: Any, fast: Any) -> type[nn.Module]:
    names = {
        "_vireid_original": original, "__module__": original.__module__,
        "__qualname__": original.__qualname__, "__doc__": original.__doc__,
    }  # fmt: skip
    return types.new_class(original.__name__, (fast, original), {}, lambda ns: ns.update(names))


def _new_module(original: type[nn.Module], fast: type[FastModule]) -> nn.Module:
    cls = _fast_class(original, fast)  # type: ignore[arg-type]  # classes are hashable
    return cls.__new__(cls)
