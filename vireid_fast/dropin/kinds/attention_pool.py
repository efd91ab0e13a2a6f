"""CLIP's attention pool: one query, keys and values absorbed."""

from typing import Any

from torch import Tensor, nn

from vireid_fast.dropin.guards import untouched
from vireid_fast.dropin.kinds.base import (
    Kind,
    Probe,
    UnsuitableError,
    has_linear,
    no_state,
    tensor_result,
)
from vireid_fast.dropin.probe import random_input
from vireid_fast.dropin.swap import FastModule
from vireid_fast.nn.attention_pool import absorbed_pool

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "c_proj")


class FastAttentionPool(FastModule):
    """Pools with the mean token as the only query."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Pool a map (B, C, h, w) to (B, d)."""
        count, width = self.positional_embedding.shape
        fits = not args and not kwargs and x.dim() == 4 and x.shape[1] == width
        if not fits or x.shape[2] * x.shape[3] != count - 1 or not untouched(self.children()):
            return super().forward(x, *args, **kwargs)
        return absorbed_pool(self, x)


def _matches(module: nn.Module) -> bool:
    return (
        has_linear(module, *_PROJECTIONS)
        and isinstance(getattr(module, "positional_embedding", None), nn.Parameter)
        and isinstance(getattr(module, "num_heads", None), int)
    )


def _probes(module: nn.Module) -> list[Probe]:
    count, width = module.positional_embedding.shape
    x = random_input(2, width, count - 1, 1, like=module.q_proj.weight)
    return [("forward", (x,), {})]


def _result(value: Any) -> Tensor:
    pooled = tensor_result(value)
    if pooled.dim() == 3:
        raise UnsuitableError("it returns the outputs of all tokens, so every query is read")
    return pooled


ATTENTION_POOL = Kind(
    name="attention pool",
    detail="one query; key and value projections absorbed",
    methods=("forward",),
    fast=FastAttentionPool,
    matches=_matches,
    prepare=no_state,
    probes=_probes,
    result=_result,
)
