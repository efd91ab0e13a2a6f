"""Public k-reciprocal encoding: validation and choice of the backend."""

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.k_reciprocal import reference
from vireid_fast.ops.k_reciprocal.op import (
    entry_distance_op,
    expand_query_op,
    k_reciprocal_sets_op,
    rank_normalised_op,
    reciprocal_weights_op,
)
from vireid_fast.ops.sparse_rows import (
    SparseRows,
    require_indices,
    require_offsets,
    require_sparse_rows,
)


def rank_normalised(
    distances: Tensor,
    indices: Tensor,
    farthest: Tensor,
    k: int,
    *,
    backend: Backend = "fused",
) -> tuple[Tensor, Tensor]:
    """The first k of each list in the order (distance / farthest of the row, index).

    The published code ranks normalised distances. The division keeps the order, but can round two
    distances to one value, which the index then orders. Where the k-th value is also the last one
    of the list, such a tie may go on beyond it: the row is open.

    Args:
        distances: Of the listed items, ascending in each row. Shape (R, K), float32 or float64.
        indices: The items, distinct in each row. Shape (R, K), int64.
        farthest: Largest distance of each row over all items; of 0 all items tie. Shape (R,), dtype
            of `distances`.
        k: Items to keep, from 1 to K.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        The items (R, k), int64, and which rows are open (R,), bool. The rows of a list that holds
        all items are complete, open or not.

    Not differentiable. Deterministic. Memory: O(R k).

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: An input requires a gradient.
    """
    what = "rank_normalised"
    _checks.require_choice(what, "backend", backend, BACKENDS)
    _require_candidates(what, distances, indices)
    _checks.require_dtype(what, "farthest", farthest, (distances.dtype,))
    _checks.require_shape(what, "farthest", farthest, (distances.shape[0],))
    _checks.require_same_device(what, distances=distances, indices=indices, farthest=farthest)
    _checks.require_no_grad(what, distances=distances, farthest=farthest)
    k = _checks.positive_int(what, "k", k)
    width = distances.shape[1]
    _checks.require(k <= width, what, "k", f"be at most the length of the lists, {width}", k)
    rank = reference.rank_normalised if backend == "reference" else rank_normalised_op
    return rank(distances, indices, farthest, k)


def entry_distance(
    query: Tensor,
    gallery: Tensor,
    crow: Tensor,
    col: Tensor,
    distances: Tensor,
    indices: Tensor,
    *,
    backend: Backend = "fused",
) -> Tensor:
    """Squared Euclidean distance of each entry of sparse rows: d[e] = |x[row of e] - x[col[e]]|^2.

    x are the N = Q + G rows of query and gallery. Most entries stand in the neighbour list of their
    row; only the others are computed.

    Args:
        query: Features. Shape (Q, D), float32 or float64.
        gallery: Features. Shape (G, D), dtype and device of `query`.
        crow: Row offsets. Shape (N + 1,), int64.
        col: Column ids in [0, N). Shape (nnz,), int64.
        distances: What `pair_distance` gives for the listed items. Shape (N, K), dtype of `query`.
        indices: The listed items, in [0, N). Shape (N, K), int64.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        Distances, bitwise those of `pair_distance` (kernels). Shape (nnz,), dtype of `query`.

    Not differentiable. Deterministic. Memory: O(N + nnz).

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: An input requires a gradient.
    """
    what = "entry_distance"
    _checks.require_choice(what, "backend", backend, BACKENDS)
    _checks.require_dtype(what, "query", query, (torch.float32, torch.float64))
    _checks.require_shape(what, "query", query, ("Q", "D"))
    _checks.require_dtype(what, "gallery", gallery, (query.dtype,))
    _checks.require_shape(what, "gallery", gallery, ("G", query.shape[1]))
    num_items = query.shape[0] + gallery.shape[0]
    _checks.require_dtype(what, "distances", distances, (query.dtype,))
    _require_candidates(what, distances, indices)
    _checks.require_shape(what, "indices", indices, (num_items, "K"))
    require_indices(what, "indices", indices, num_items)
    _checks.require_shape(what, "col", col, ("nnz",))
    require_offsets(what, crow, col.shape[0])
    _checks.require_shape(what, "crow", crow, (num_items + 1,))
    require_indices(what, "col", col, num_items)
    _checks.require_same_device(
        what, query=query, gallery=gallery, crow=crow, col=col, distances=distances,
        indices=indices,
    )  # fmt: skip
    _checks.require_no_grad(what, query=query, gallery=gallery, distances=distances)
    measure = reference.entry_distance if backend == "reference" else entry_distance_op
    return measure(query, gallery, crow, col, distances, indices)


def k_reciprocal_sets(
    indices: Tensor, k1: int, *, backend: Backend = "fused"
) -> tuple[Tensor, Tensor]:
    """Expanded k-reciprocal neighbour sets (Zhong et al., CVPR 2017, eq. 3 to 4).

    R(i) = {j in first k1 + 1 of i : i in first k1 + 1 of j}; H(c) alike with
    round_half_even(k1 / 2) + 1. The set of i is R(i) and every H(c), c in R(i), of which more than
    two thirds lie in R(i). The lists count the item itself, as the published code does.

    Args:
        indices: Neighbour lists, nearest first, distinct in each row. Shape (N, K), int64 in
            [0, N). Columns beyond k1 + 1 are not used; a shorter list clips.
        k1: Neighbours beside the item itself, at least 1.
        backend: "fused" (kernel of the tensor's device) or "reference" (plain torch).

    Returns:
        Row offsets (N + 1,) and column ids (nnz,) ascending in each row, both int64.

    Not differentiable. Deterministic. Memory: O(N K + nnz), nnz <= N (k1 + 1) (k1 / 2 + 2).

    Raises:
        ValueError: A shape or range does not fit. TypeError: A dtype does not fit.
    """
    _checks.require_choice("k_reciprocal_sets", "backend", backend, BACKENDS)
    _require_lists("k_reciprocal_sets", indices)
    k1 = _checks.positive_int("k_reciprocal_sets", "k1", k1)
    # From here on both the lists and the half lists are full.
    k1 = min(k1, 2 * indices.shape[1])
    encode = reference.k_reciprocal_sets if backend == "reference" else k_reciprocal_sets_op
    return encode(indices, k1)


def reciprocal_weights(crow: Tensor, distances: Tensor, *, backend: Backend = "fused") -> Tensor:
    """Weights of the entries of sparse rows: w = exp(-d) / sum over the row of exp(-d).

    Args:
        crow: Row offsets. Shape (N + 1,), int64, from 0 to nnz.
        distances: Normalised distance of each entry. Shape (nnz,), float32 or float64.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        Weights, the sum of each non-empty row is 1. Shape (nnz,), dtype of `distances`.

    Not differentiable. Deterministic: each row is summed in order, on any number of threads.

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: `distances` requires a gradient.
    """
    what = "reciprocal_weights"
    _checks.require_choice(what, "backend", backend, BACKENDS)
    _checks.require_dtype(what, "distances", distances, (torch.float32, torch.float64))
    _checks.require_shape(what, "distances", distances, ("nnz",))
    require_offsets(what, crow, distances.shape[0])
    _checks.require_same_device(what, crow=crow, distances=distances)
    _checks.require_no_grad(what, distances=distances)
    weigh = reference.reciprocal_weights if backend == "reference" else reciprocal_weights_op
    return weigh(crow, distances)


def expand_query(
    crow: Tensor,
    col: Tensor,
    weight: Tensor,
    indices: Tensor,
    k2: int,
    *,
    backend: Backend = "fused",
) -> SparseRows:
    """Local query expansion: each sparse row becomes the mean over its first k2 neighbours.

    V'[i] = mean over n in the first k2 of `indices[i]` of V[n]      (Zhong et al., CVPR 2017)

    Args:
        crow: Row offsets of V. Shape (N + 1,), int64.
        col: Column ids of V in [0, N), ascending in each row. Shape (nnz,), int64.
        weight: Entries of V. Shape (nnz,), float32 or float64.
        indices: Neighbour lists, nearest first. Shape (N, K), int64 in [0, N).
        k2: Rows in the mean, at least 1; clips to K. 1 returns the input, as published.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        V' in the same form.

    Not differentiable. Deterministic: the rows are added in list order. Memory: O(N + nnz of V').

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: `weight` requires a gradient.
    """
    what = "expand_query"
    _checks.require_choice(what, "backend", backend, BACKENDS)
    require_sparse_rows(what, crow, col, weight)
    _require_lists(what, indices)
    _checks.require_shape(what, "indices", indices, (crow.shape[0] - 1, "K"))
    _checks.require_same_device(what, weight=weight, indices=indices)
    k2 = _checks.positive_int(what, "k2", k2)
    if k2 == 1:
        return SparseRows(crow, col, weight)
    k2 = min(k2, indices.shape[1])
    expand = reference.expand_query if backend == "reference" else expand_query_op
    return SparseRows(*expand(crow, col, weight, indices, k2))


def _require_candidates(what: str, distances: Tensor, indices: Tensor) -> None:
    _checks.require_dtype(what, "distances", distances, (torch.float32, torch.float64))
    _checks.require_shape(what, "distances", distances, ("R", "K"))
    _checks.require_dtype(what, "indices", indices, (torch.int64,))
    _checks.require_shape(what, "indices", indices, tuple(distances.shape))


def _require_lists(what: str, indices: Tensor) -> None:
    _checks.require_dtype(what, "indices", indices, (torch.int64,))
    _checks.require_shape(what, "indices", indices, ("N", "K"))
    _checks.require(
        indices.shape[1] > 0, what, "indices", "have at least one column", tuple(indices.shape)
    )
    require_indices(what, "indices", indices, indices.shape[0])
