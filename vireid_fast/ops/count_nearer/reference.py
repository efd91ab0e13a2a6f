"""Readable torch oracle of the counting."""

import torch
from torch import Tensor

# Elements of the (bounds, G) comparison that one step may hold.
_STEP_ELEMENTS = 1 << 20


def count_nearer(
    distances: Tensor, crow: Tensor, bound: Tensor, index: Tensor, first: int
) -> Tensor:
    """For each bound, the entries of its row that are smaller, or equal and of lower index."""
    row = torch.repeat_interleave(crow.diff())
    step = max(1, _STEP_ELEMENTS // max(1, distances.shape[1]))
    place = torch.arange(first, first + distances.shape[1], device=distances.device)
    counts = []
    for part in torch.arange(len(bound), device=bound.device).split(step):
        entries, limit = distances[row[part]], bound[part, None]
        before = (entries < limit) | ((entries == limit) & (place < index[part, None]))
        counts.append(before.sum(1))
    return torch.cat(counts)
