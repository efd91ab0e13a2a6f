"""Public merging of neighbour lists: validation and choice of the backend."""

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.merge_lists import reference
from vireid_fast.ops.merge_lists.op import merge_lists_op

_WHAT = "merge_lists"


def merge_lists(
    x: Tensor,
    y: Tensor,
    coarse: Tensor,
    slack: Tensor,
    distances: Tensor,
    indices: Tensor,
    farthest: Tensor,
    first_index: int,
    k: int,
    *,
    backend: Backend = "fused",
) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest items of each row of x: of those listed so far and of the rows of y.

    Coarse distances decide which rows of y are measured: those that the error may hide among the k
    nearest, or beyond the farthest.

    Args:
        x: Rows. Shape (R, D), float32 or float64.
        y: Further items. Shape (M, D), dtype and device of x.
        coarse: Squared distances of x and y up to an error. Shape (R, M), dtype of x.
        slack: Largest error of `coarse` in each row. Shape (R,), dtype of x.
        distances: Of the listed items, ascending, as `knn` gives them. Shape (R, K), dtype of x.
        indices: The listed items, others than those of y. Shape (R, K), int64.
        farthest: Largest distance of each row so far. Shape (R,), dtype of x.
        first_index: Index of y[0]; those of the others follow it.
        k: Length of the merged lists, from 1 to K + M. The lists must hold k items, or all that
            there are beside y.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        Distances (R, k), indices (R, k) and farthest (R,) of a search in both, bitwise those of
        `knn` (kernels).

    Not differentiable. Deterministic. Memory: O(R k).

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: An input requires a gradient.
    """
    _checks.require_choice(_WHAT, "backend", backend, BACKENDS)
    _checks.require_dtype(_WHAT, "x", x, (torch.float32, torch.float64))
    _checks.require_shape(_WHAT, "x", x, ("R", "D"))
    rows = x.shape[0]
    floats: dict[str, tuple[Tensor, tuple[int | str, ...]]] = {
        "y": (y, ("M", x.shape[1])),
        "coarse": (coarse, (rows, y.shape[0])),
        "slack": (slack, (rows,)),
        "distances": (distances, (rows, "K")),
        "farthest": (farthest, (rows,)),
    }
    for name, (value, shape) in floats.items():
        _checks.require_dtype(_WHAT, name, value, (x.dtype,))
        _checks.require_shape(_WHAT, name, value, shape)
        _checks.require_no_grad(_WHAT, **{name: value})
    _checks.require_no_grad(_WHAT, x=x)
    _checks.require_dtype(_WHAT, "indices", indices, (torch.int64,))
    _checks.require_shape(_WHAT, "indices", indices, tuple(distances.shape))
    _checks.require_same_device(
        _WHAT, x=x, y=y, coarse=coarse, slack=slack, distances=distances, indices=indices,
        farthest=farthest,
    )  # fmt: skip
    k = _checks.positive_int(_WHAT, "k", k)
    most = distances.shape[1] + y.shape[0]
    _checks.require(k <= most, _WHAT, "k", f"be at most the number of known items, {most}", k)
    merge = reference.merge_lists if backend == "reference" else merge_lists_op
    return merge(x, y, coarse, slack, distances, indices, farthest, first_index, k)
