"""Public Jaccard distance: validation and choice of the backend."""

from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.jaccard_distance import reference
from vireid_fast.ops.jaccard_distance.op import jaccard_distance_op
from vireid_fast.ops.sparse_rows import require_sparse_rows

_WHAT = "jaccard_distance"


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
