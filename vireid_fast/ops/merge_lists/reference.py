"""Readable torch oracle of merging lists. Imports nothing of ours."""

import torch
from torch import Tensor

# Elements of the differences that one step may hold: 16 MB in float32.
_STEP_ELEMENTS = 1 << 22


def merge_lists(
    x: Tensor,
    y: Tensor,
    coarse: Tensor,
    slack: Tensor,
    distances: Tensor,
    indices: Tensor,
    farthest: Tensor,
    first_index: int,
    k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest of the lists and of y, by (distance, index); the coarse values are not used."""
    step = max(1, _STEP_ELEMENTS // max(1, y.numel()))
    parts = [(rows[:, None] - y).square().sum(-1) for rows in x.split(step)]
    measured = torch.cat(parts)
    new = torch.arange(first_index, first_index + y.shape[0], device=y.device)
    values = torch.cat([distances, measured], 1)
    items = torch.cat([indices, new.expand(x.shape[0], -1)], 1)
    by_index = items.argsort(1)
    values, items = values.gather(1, by_index), items.gather(1, by_index)
    order = values.sort(dim=1, stable=True)
    largest = torch.cat([farthest[:, None], measured], 1).amax(1)
    return (
        order.values[:, :k].contiguous(),
        items.gather(1, order.indices)[:, :k].contiguous(),
        largest,
    )
