"""Public neighbour searches: validation and choice of the backend."""

from typing import NamedTuple

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.knn import reference
from vireid_fast.ops.knn.op import knn_op, pair_distance_op, smallest_k_op
from vireid_fast.ops.sparse_rows import require_indices

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class KNN(NamedTuple):
    """Nearest items of each row.

    Attributes:
        distances: Ascending distances. Shape (Q, k), float.
        indices: Their positions; equal distances by the lower index. Shape (Q, k), int64.
        farthest: Largest distance of the row over all items. Shape (Q,), float.
    """

    distances: Tensor
    indices: Tensor
    farthest: Tensor


def knn(
    query: Tensor,
    database: Tensor,
    k: int,
    *,
    backend: Backend = "fused",
) -> KNN:
    """The k nearest rows of `database` by squared Euclidean distance, exact.

    d[q, n] = sum_d (query[q, d] - database[n, d])^2; the lists are in (d, n) order.

    Args:
        query: Rows to search for. Shape (Q, D), float32 or float64 (16-bit is widened to float32).
        database: Rows to search in. Shape (N, D), N >= 1, dtype of `query`.
        k: Length of the lists, at least 1; clips to N.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        Lists of min(k, N) columns, and the largest distance of each row.

    Not differentiable. Deterministic: the result depends on neither thread count nor blocking, and
    a distance is bitwise that of `pairwise_distance` and `pair_distance` of the same rows, on a CPU
    and on a GPU (kernels). Equal rows have distance 0. Memory: O(Q k), the distance matrix is never
    stored; on a GPU bfloat16 copies of the features and up to 0.3 GB besides.

    Raises:
        ValueError: A shape, range or device does not fit, or a value is NaN or infinite.
        TypeError: A dtype does not fit.
        RuntimeError: An input requires a gradient.
    """
    _checks.require_choice("knn", "backend", backend, BACKENDS)
    _checks.require_dtype("knn", "query", query, _FLOATS)
    _checks.require_shape("knn", "query", query, ("Q", "D"))
    _checks.require_dtype("knn", "database", database, (query.dtype,))
    _checks.require_shape("knn", "database", database, ("N", query.shape[1]))
    _checks.require_same_device("knn", query=query, database=database)
    _checks.require_no_grad("knn", query=query, database=database)
    _checks.require(
        database.shape[0] > 0, "knn", "database", "have at least one row", tuple(database.shape)
    )
    k = _checks.positive_int("knn", "k", k)
    _checks.require_finite("knn", "query", query)
    _checks.require_finite("knn", "database", database)
    search = reference.knn if backend == "reference" else knn_op
    return KNN(*search(_widen(query), _widen(database), min(k, database.shape[0])))


def smallest_k(distances: Tensor, k: int, *, backend: Backend = "fused") -> KNN:
    """The k smallest entries of each row of a distance matrix, in (distance, index) order.

    Args:
        distances: Shape (Q, N), N >= 1, float32 or float64 (16-bit is widened to float32). NaN
            counts as larger than everything.
        k: Length of the lists, at least 1; clips to N.
        backend: "fused" (kernel of the tensor's device) or "reference" (plain torch).

    Returns:
        Lists of min(k, N) columns, and the largest entry of each row (NaN if the row has one).

    Not differentiable. Deterministic. Memory: O(Q k).

    Raises:
        ValueError: A shape or range does not fit. TypeError: A dtype does not fit.
        RuntimeError: The input requires a gradient.
    """
    _checks.require_choice("smallest_k", "backend", backend, BACKENDS)
    _checks.require_dtype("smallest_k", "distances", distances, _FLOATS)
    _checks.require_shape("smallest_k", "distances", distances, ("Q", "N"))
    _checks.require_no_grad("smallest_k", distances=distances)
    _checks.require(
        distances.shape[1] > 0, "smallest_k", "distances", "have at least one column",
        tuple(distances.shape),
    )  # fmt: skip
    k = _checks.positive_int("smallest_k", "k", k)
    select = reference.smallest_k if backend == "reference" else smallest_k_op
    return KNN(*select(_widen(distances), min(k, distances.shape[1])))


def pair_distance(
    x: Tensor,
    row: Tensor,
    column: Tensor,
    *,
    backend: Backend = "fused",
) -> Tensor:
    """Squared Euclidean distances of chosen pairs of rows: d[p] = |x[row[p]] - x[column[p]]|^2.

    Args:
        x: Features. Shape (N, D), float32 or float64 (16-bit is widened to float32).
        row: First row of each pair, in [0, N). Shape (P,), int64.
        column: Second row of each pair, in [0, N). Shape (P,), int64.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        Distances, bitwise those of `knn` for the same rows (kernels). Shape (P,), float.

    Not differentiable. Deterministic. Memory: O(P).

    Raises:
        ValueError: A shape, index or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: `x` requires a gradient.
    """
    _checks.require_choice("pair_distance", "backend", backend, BACKENDS)
    _checks.require_dtype("pair_distance", "x", x, _FLOATS)
    _checks.require_shape("pair_distance", "x", x, ("N", "D"))
    _checks.require_no_grad("pair_distance", x=x)
    for name, index in (("row", row), ("column", column)):
        require_indices("pair_distance", name, index, x.shape[0])
    _checks.require_shape("pair_distance", "row", row, ("P",))
    _checks.require_shape("pair_distance", "column", column, (row.shape[0],))
    _checks.require_same_device("pair_distance", x=x, row=row, column=column)
    measure = reference.pair_distance if backend == "reference" else pair_distance_op
    return measure(_widen(x), row, column)


def _widen(value: Tensor) -> Tensor:
    """16-bit floats as float32, in which they are exact."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
