"""Readable torch oracle of the neighbour search."""

import torch
from torch import Tensor

# Elements of the (rows, N, D) difference tensor that one step may hold: 4 MB in float32.
_STEP_ELEMENTS = 1 << 20


def smallest_k(distances: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """k smallest values of each row in (value, index) order, their indices, and the row maximum."""
    # A stable sort keeps equal values in index order and puts NaN last.
    ordered, indices = distances.sort(dim=1, stable=True)
    k = min(k, distances.shape[1])
    return ordered[:, :k].contiguous(), indices[:, :k].contiguous(), distances.amax(1)


def knn(query: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """`smallest_k` of the squared Euclidean distances, block of query rows by block."""
    step = max(1, _STEP_ELEMENTS // max(1, database.numel()))
    blocks = [
        smallest_k((rows[:, None] - database).square().sum(-1), k)
        for rows in query.split(step)  # an empty query still yields one empty block
    ]
    distances, indices, farthest = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return distances, indices, farthest


def pair_distance(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Squared Euclidean distance of the rows x[row] and x[column], block by block."""
    step = max(1, _STEP_ELEMENTS // max(1, x.shape[1]))
    parts = [
        (x[r] - x[c]).square().sum(-1)
        for r, c in zip(row.split(step), column.split(step), strict=True)
    ]
    return torch.cat(parts)
