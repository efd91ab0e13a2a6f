"""Weights and Jaccard distance with the float16 roundings of TransReID's and CLIP-ReID's code.

That code keeps the weights and the sums of the minima in float16; its results differ from those of
float32 by a few 1e-3. Here the same roundings are made on the sparse rows.
"""

import numpy as np
import torch
from torch import Tensor

from vireid_fast.ops import SparseRows

# Elements of a (queries, gallery) block whose columns may all be shared: 8 MB in float16.
_BLOCK_ELEMENTS = 1 << 22


def half_weights(crow: Tensor, distances: Tensor) -> Tensor:
    """exp(-d) / sum over the row of exp(-d), rounded to float16.

    numpy computes them, as it does in that code: the last bit of its exponentials and sums decides
    which way some weights round.

    Args:
        crow: Row offsets. Shape (N + 1,), int64.
        distances: Normalised distances. Shape (nnz,), float32 or float64.

    Returns:
        Weights. Shape (nnz,), float16, on the device of `distances`.
    """
    weight = np.exp(-distances.cpu().numpy())
    offsets = crow.tolist()
    for begin, end in zip(offsets[:-1], offsets[1:], strict=True):
        weight[begin:end] /= np.sum(weight[begin:end])
    return torch.from_numpy(weight).half().to(distances.device)


def half_jaccard_distance(rows: SparseRows, num_query: int) -> Tensor:
    """1 - m / (2 - m) in float16, m summed in float16 over the columns of the query, ascending.

    Args:
        rows: Rows of queries, then gallery. (N, N) with float16 weights, columns ascending.
        num_query: Q; the first Q rows are queries.

    Returns:
        Distances. Shape (Q, N - Q), float16. Deterministic: no sum has two terms in one step.
    """
    crow, col, weight = rows
    num_gallery = crow.shape[0] - 1 - num_query
    overlap = weight.new_zeros((num_query, num_gallery))
    columns = _gallery_columns(rows, num_query)
    block = max(1, _BLOCK_ELEMENTS // num_gallery)
    for begin in range(0, num_query, block):
        offsets = crow[begin : min(begin + block, num_query) + 1]
        _add_minima(overlap[begin : begin + block], offsets, col, weight, columns)
    return 1 - overlap / (2 - overlap)


def _gallery_columns(rows: SparseRows, num_query: int) -> SparseRows:
    """The gallery's rows by column: of each column the gallery items that have it, ascending."""
    crow, col, weight = rows
    begin = int(crow[num_query])
    item = torch.repeat_interleave(crow[num_query:].diff())
    order = col[begin:].argsort(stable=True)
    counts = torch.bincount(col[begin:], minlength=crow.shape[0] - 1)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return SparseRows(offsets, item[order], weight[begin:][order])


def _add_minima(
    overlap: Tensor, offsets: Tensor, col: Tensor, weight: Tensor, columns: SparseRows
) -> None:
    """Add min(query's weight, item's weight) column after column, rounding after each.

    Step s takes the s-th entry of every query, so that a pair occurs at most once in a step.
    """
    lengths = offsets.diff()
    flat = overlap.view(-1)
    for step in range(int(lengths.max())):
        query = (lengths > step).nonzero().flatten()
        entry = offsets[query] + step
        first, size = columns.crow[col[entry]], columns.crow.diff()[col[entry]]
        owner = torch.repeat_interleave(size)
        before = size.cumsum(0) - size
        place = first[owner] + torch.arange(owner.shape[0], device=owner.device) - before[owner]
        pair = query[owner] * overlap.shape[1] + columns.col[place]
        flat[pair] = flat[pair] + torch.minimum(weight[entry][owner], columns.weight[place])
