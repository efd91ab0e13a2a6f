"""Public counting: validation and choice of the backend."""

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.count_nearer import reference
from vireid_fast.ops.count_nearer.op import count_nearer_op
from vireid_fast.ops.sparse_rows import require_offsets

_WHAT = "count_nearer"


def count_nearer(
    distances: Tensor,
    crow: Tensor,
    bound: Tensor,
    index: Tensor,
    first: int = 0,
    *,
    backend: Backend = "fused",
) -> Tensor:
    """How many columns of a row stand before each of some items, which need not be among them.

    counts[p] = #{g : (distances[q, g], first + g) < (bound[p], index[p])}, pairs compared first by
    distance, then by index, where q is the row with crow[q] <= p < crow[q + 1]. Summed over the
    shards of a gallery this is the rank of the item.

    Args:
        distances: Rows of queries, columns are the gallery items first, first + 1, ... Shape
            (Q, G), float32 or float64. NaN stands before nothing.
        crow: Where the items of each row begin. Shape (Q + 1,), int64, from 0 to P.
        bound: Distance of each item from its query, not NaN. Shape (P,), dtype of `distances`.
        index: Gallery index of each item. Shape (P,), int64.
        first: Gallery index of the first column.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        Counts. Shape (P,), int64.

    Not differentiable. Deterministic. Memory: O(P).

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: An input requires a gradient.
    """
    _checks.require_choice(_WHAT, "backend", backend, BACKENDS)
    _checks.require_dtype(_WHAT, "distances", distances, (torch.float32, torch.float64))
    _checks.require_shape(_WHAT, "distances", distances, ("Q", "G"))
    _checks.require_dtype(_WHAT, "bound", bound, (distances.dtype,))
    _checks.require_shape(_WHAT, "bound", bound, ("P",))
    _checks.require_dtype(_WHAT, "index", index, (torch.int64,))
    _checks.require_shape(_WHAT, "index", index, (bound.shape[0],))
    _checks.require_shape(_WHAT, "crow", crow, (distances.shape[0] + 1,))
    require_offsets(_WHAT, crow, bound.shape[0])
    _checks.require_same_device(_WHAT, distances=distances, crow=crow, bound=bound, index=index)
    _checks.require_no_grad(_WHAT, distances=distances, bound=bound)
    count = reference.count_nearer if backend == "reference" else count_nearer_op
    return count(distances, crow, bound, index, first)
