"""Readable torch oracle of the Jaccard distance."""

import torch
from torch import Tensor


def jaccard_distance(crow: Tensor, col: Tensor, weight: Tensor, num_query: int) -> Tensor:
    """1 - m / (2 - m) with m = sum of the minima of the two sparse rows, query by query."""
    num_items = crow.shape[0] - 1
    first = crow[num_query]
    gallery_row = torch.repeat_interleave(crow[num_query:].diff())
    gallery_col, gallery_weight = col[first:], weight[first:]
    overlap = weight.new_zeros((num_query, num_items - num_query))
    for query in range(num_query):
        entries = slice(crow[query], crow[query + 1])
        dense = weight.new_zeros(num_items)
        dense[col[entries]] = weight[entries]
        overlap[query].index_add_(0, gallery_row, dense[gallery_col].minimum(gallery_weight))
    return _jaccard(overlap)


def invert_rows(
    crow: Tensor, col: Tensor, weight: Tensor, first_row: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows from `first_row` on by column: column offsets, rows as int32, weights."""
    entry = int(crow[first_row])
    row = torch.repeat_interleave(crow[first_row:].diff()).int()
    order = col[entry:].sort(stable=True)
    columns = torch.arange(crow.shape[0], device=crow.device)
    first = torch.searchsorted(order.values, columns)
    return first, row[order.indices], weight[entry:][order.indices]


def blend_jaccard(
    crow: Tensor,
    col: Tensor,
    weight: Tensor,
    first: Tensor,
    row: Tensor,
    row_weight: Tensor,
    farthest: Tensor,
    first_query: int,
    lambda_value: float,
    distances: Tensor,
) -> None:
    """Replace squared distances by (1 - lambda) Jaccard + lambda d / farthest, in place."""
    column = torch.repeat_interleave(first.diff())
    for index in range(distances.shape[0]):
        query = first_query + index
        entries = slice(crow[query], crow[query + 1])
        dense = weight.new_zeros(first.shape[0] - 1)
        dense[col[entries]] = weight[entries]
        overlap = weight.new_zeros(distances.shape[1])
        overlap.index_add_(0, row.long(), dense[column].minimum(row_weight))
        original = distances[index] / farthest[index]
        distances[index] = _jaccard(overlap) * (1 - lambda_value) + original * lambda_value


def _jaccard(overlap: Tensor) -> Tensor:
    # Rows that sum to 1 only up to rounding could fall below 0 by as much.
    return (1 - overlap / (2 - overlap)).clamp_min(0)
