"""Public k-reciprocal encoding: validation and choice of the backend."""

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.k_reciprocal import reference
from vireid_fast.ops.k_reciprocal.op import (
    expand_query_op,
    k_reciprocal_sets_op,
    reciprocal_weights_op,
)
from vireid_fast.ops.sparse_rows import (
    SparseRows,
    require_indices,
    require_offsets,
    require_sparse_rows,
)


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


def _require_lists(what: str, indices: Tensor) -> None:
    _checks.require_dtype(what, "indices", indices, (torch.int64,))
    _checks.require_shape(what, "indices", indices, ("N", "K"))
    _checks.require(
        indices.shape[1] > 0, what, "indices", "have at least one column", tuple(indices.shape)
    )
    require_indices(what, "indices", indices, indices.shape[0])
