"""Hugging Face outputs whose token states are computed when somebody reads them."""

from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_PENDING = "_vireid_pending"


def lazy_output(base: type, pooled: Tensor, states: Callable[[], Tensor]) -> Any:
    """An output of type `base` that has `pooler_output`, and `last_hidden_state` on demand.

    Args:
        base: The output type, a `transformers` ModelOutput with these two fields.
        pooled: `pooler_output`.
        states: Gives `last_hidden_state`; called at most once, with the gradient, inference and
            autocast modes of now, whenever anything but `pooler_output` is read.
    """
    output = _lazy_class(base)(pooler_output=pooled)
    output.__dict__[_PENDING] = _in_these_modes(states, pooled.device.type)
    return output


class _LazyStates:
    """Completes the output before anything but `pooler_output` is read."""

    def __getattribute__(self, name: str) -> Any:
        if name != "pooler_output" and not name.startswith("_"):
            _complete(self)
        return super().__getattribute__(name)

    def __getitem__(self, key: Any) -> Any:
        return _complete(self).__getitem__(key)

    def __iter__(self) -> Any:
        return _complete(self).__iter__()

    def __len__(self) -> int:
        return _complete(self).__len__()

    def __contains__(self, key: object) -> bool:
        return _complete(self).__contains__(key)

    def __eq__(self, other: object) -> Any:
        return _complete(self).__eq__(other)

    def __repr__(self) -> str:
        return _complete(self).__repr__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _complete(self).__reduce_ex__(protocol)

    # Values are tensors, so that outputs have no hash to begin with.
    __hash__ = None  # type: ignore[assignment]


def _complete(output: Any) -> Any:
    """Compute the token states if that is still to be done, and give the plain output's view."""
    states = output.__dict__.pop(_PENDING, None)
    if states is not None:
        output.last_hidden_state = states()
        OrderedDict.move_to_end(output, "pooler_output")
    return super(_LazyStates, output)


@cache
def _lazy_class(base: type) -> type:
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (_LazyStates, base), names)


def _in_these_modes(call: Callable[[], Tensor], device: str) -> Callable[[], Tensor]:
    gradient, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    autocast, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def run() -> Tensor:
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(gradient),
            torch.autocast(device, dtype=dtype, enabled=autocast),
        ):
            return call()

    return run
