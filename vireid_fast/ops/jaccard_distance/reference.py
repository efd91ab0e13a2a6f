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
    # Rows that sum to 1 only up to rounding could fall below 0 by as much.
    return (1 - overlap / (2 - overlap)).clamp_min(0)
