"""Public centred distance: validation and choice of the backend."""

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.centred_distance import reference
from vireid_fast.ops.centred_distance.op import centred_distance_op

_WHAT = "centred_distance"
# Products that the kernels sum unbroken: kPiece of csrc/cpu/rerank_kernels.inc.h.
_PIECE = 128


def centred_distance(
    x: Tensor,
    y: Tensor,
    centre: Tensor | None,
    *,
    out: Tensor | None = None,
    backend: Backend = "fused",
) -> Tensor:
    """Squared Euclidean distances by the product of centred rows: the fastest way to all pairs.

    With x' = x - c and y' = y - c:  d[i, j] = max(0, (|x'[i]|^2 + |y'[j]|^2) - 2 x'[i] . y'[j])

    Rounding leaves an error of up to `centred_error` (|x'| + |y'|)^2, where `pairwise_distance`
    leaves one in proportion to the distance. Let c be any row among all that are compared, and M
    the largest distance of row i to these. Then |x'[i]|^2 <= M and |y'[j]| <= |x'[i]| +
    |x[i] - y[j]| <= 2 sqrt(M), so that the error is at most 9 `centred_error` M: what is divided by
    the row's maximum is right to a few eps, however far from the origin the features lie.

    Args:
        x: Rows. Shape (N, D), float32 or float64.
        y: Shape (M, D), dtype and device of x.
        centre: c. Shape (D,), dtype and device of x. None: the rows are x' and y' already.
        out: Where to write. Shape (N, M), contiguous; a new tensor if None.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        The distances. Shape (N, M), dtype of x. Equal rows are at distance 0.

    Not differentiable. Deterministic: a distance depends on its two rows and `centre` alone, not on
    other rows, threads or the instruction set. Memory: O(N D) besides the output.

    Raises:
        ValueError: A shape or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: An input requires a gradient.
    """
    _checks.require_choice(_WHAT, "backend", backend, BACKENDS)
    _checks.require_dtype(_WHAT, "x", x, (torch.float32, torch.float64))
    _checks.require_shape(_WHAT, "x", x, ("N", "D"))
    if out is None:
        out = x.new_empty((x.shape[0], y.shape[0]))
    others: dict[str, tuple[Tensor, tuple[int | str, ...]]]
    others = {"y": (y, ("M", x.shape[1])), "out": (out, (x.shape[0], y.shape[0]))}
    if centre is not None:
        others["centre"] = centre, (x.shape[1],)
    for name, (value, shape) in others.items():
        _checks.require_dtype(_WHAT, name, value, (x.dtype,))
        _checks.require_shape(_WHAT, name, value, shape)
    _checks.require(out.is_contiguous(), _WHAT, "out", "be contiguous", f"strides {out.stride()}")
    tensors = {"x": x, **{name: value for name, (value, _) in others.items()}}
    _checks.require_same_device(_WHAT, **tensors)
    _checks.require_no_grad(_WHAT, **tensors)
    measure = reference.centred_distance if backend == "reference" else centred_distance_op
    measure(x, y, centre, out)
    return out


def centred_error(width: int, dtype: torch.dtype) -> float:
    """Bound e of the rounding in `centred_distance`: |d - true| <= e (|x'| + |y'|)^2.

    Let u = eps / 2. A sum of n products, each rounded into the sum, is off by at most n u / (1 - n
    u) times the sum of their magnitudes. Here the longest way of a product goes through a piece of
    128 and the sum of the pieces; the last two additions, the centring (which moves x' and y' by u
    of their length each) and the roundings of the norms add less than 8 more.

    Args:
        width: D.
        dtype: float32 or float64.
    """
    terms = min(width, _PIECE) + -(-width // _PIECE) + 8
    product = terms * torch.finfo(dtype).eps / 2
    return product / (1 - product)
