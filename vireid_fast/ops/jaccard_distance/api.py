"""Public Jaccard distances: validation and choice of the backend."""

from typing import NamedTuple

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.jaccard_distance import reference
from vireid_fast.ops.jaccard_distance.op import (
    blend_jaccard_op,
    invert_rows_op,
    jaccard_distance_op,
)
from vireid_fast.ops.sparse_rows import SparseRows, require_sparse_rows

_WHAT = "jaccard_distance"


class InvertedRows(NamedTuple):
    """The gallery's part of sparse rows, by column.

    Attributes:
        first: Where each column starts among the entries. Shape (N + 1,), int64.
        row: Gallery item of each entry, ascending in each column. Shape (nnz,), int32.
        weight: Entries. Shape (nnz,), float32 or float64.
    """

    first: Tensor
    row: Tensor
    weight: Tensor


def jaccard_distance(
    crow: Tensor,
    col: Tensor,
    weight: Tensor,
    num_query: int,
    *,
    backend: Backend = "fused",
) -> Tensor:
    """Jaccard distance between the k-reciprocal weight rows of queries and gallery.

    d[q, g] = 1 - m / (2 - m),  m = sum_n min(V[q, n], V[Q + g, n])      (Zhong et al., CVPR 2017)

    Since every row sums to 1, 2 - m is the sum of the maxima. An empty row is at distance 1.

    Args:
        crow: Row offsets of V in CSR form. Shape (N + 1,), int64, N = Q + G.
        col: Column ids in [0, N), ascending in each row. Shape (nnz,), int64.
        weight: Positive weights, each row sums to 1. Shape (nnz,), float32 or float64.
        num_query: Q; the first Q rows are queries.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        Distances in [0, 1]; NaN where a shared weight is NaN. Shape (Q, G), dtype of `weight`.

    Not differentiable. Deterministic: the result does not depend on the thread count.
    Memory: O(Q G) for the output, O(N + nnz) besides.

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: `weight` requires a gradient.
    """
    _checks.require_choice(_WHAT, "backend", backend, BACKENDS)
    require_sparse_rows(_WHAT, crow, col, weight)
    num_items = crow.shape[0] - 1
    _checks.require(
        0 <= num_query <= num_items, _WHAT, "num_query", f"lie in [0, {num_items}]", num_query
    )
    measure = reference.jaccard_distance if backend == "reference" else jaccard_distance_op
    return measure(crow, col, weight, num_query)


def invert_rows(rows: SparseRows, first_row: int, *, backend: Backend = "fused") -> InvertedRows:
    """The rows from `first_row` on, counted from 0, by column instead of by row.

    Args:
        rows: Shape (N, N), see `SparseRows`.
        first_row: Where they begin, in [0, N]: the number of queries.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        The index that `blend_jaccard` reads.

    Not differentiable. Deterministic. Memory: O(N + nnz).

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: The weights require a gradient.
    """
    what = "invert_rows"
    _checks.require_choice(what, "backend", backend, BACKENDS)
    require_sparse_rows(what, *rows)
    size = rows.crow.shape[0] - 1
    _checks.require(0 <= first_row <= size, what, "first_row", f"lie in [0, {size}]", first_row)
    invert = reference.invert_rows if backend == "reference" else invert_rows_op
    return InvertedRows(*invert(*rows, first_row))


def blend_jaccard(
    rows: SparseRows,
    gallery: InvertedRows,
    distances: Tensor,
    farthest: Tensor,
    first_query: int,
    lambda_value: float,
    *,
    backend: Backend = "fused",
) -> Tensor:
    """Turn squared distances into re-ranked ones, in place.

    out[b, g] = (1 - lambda) jaccard(V[first_query + b], V[Q + g]) + lambda d[b, g] / farthest[b]

    Args:
        rows: The queries' rows of V, or all of V; see `SparseRows`.
        gallery: `invert_rows(V, Q)`.
        distances: d of the queries first_query .. first_query + B to the gallery; overwritten by
            the result. Shape (B, G), contiguous, dtype of the weights.
        farthest: What each query's distances are divided by. Shape (B,), same dtype.
        first_query: Row of V of the first query.
        lambda_value: Share of the distance, in [0, 1].
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        `distances`.

    Not differentiable. Deterministic: the result depends on neither thread count nor blocking.
    Memory: O(N + G) besides.

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: An input requires a gradient, or the index points beyond its arrays.
    """
    what = "blend_jaccard"
    _checks.require_choice(what, "backend", backend, BACKENDS)
    _checks.require_dtype(what, "distances", distances, (torch.float32, torch.float64))
    _checks.require_shape(what, "distances", distances, ("B", "G"))
    _checks.require(
        distances.is_contiguous(), what, "distances", "be contiguous, since it is overwritten",
        f"strides {distances.stride()}",
    )  # fmt: skip
    for name, value in (("weight", rows.weight), ("farthest", farthest)):
        _checks.require_dtype(what, name, value, (distances.dtype,))
    _checks.require_shape(what, "farthest", farthest, (distances.shape[0],))
    last = rows.crow.shape[0] - 1 - distances.shape[0]
    _checks.require(
        0 <= first_query <= last, what, "first_query", f"lie in [0, {last}]", first_query
    )
    _checks.require(0 <= lambda_value <= 1, what, "lambda_value", "lie in [0, 1]", lambda_value)
    _checks.require_same_device(
        what, weight=rows.weight, gallery=gallery.weight, distances=distances, farthest=farthest
    )
    _checks.require_no_grad(what, weight=rows.weight, distances=distances, farthest=farthest)
    blend = reference.blend_jaccard if backend == "reference" else blend_jaccard_op
    blend(*rows, *gallery, farthest, first_query, float(lambda_value), distances)
    return distances
