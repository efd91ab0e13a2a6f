"""Public function `pairwise_distance`."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vireid_fast._checks import (
    require_choice,
    require_dtype,
    require_same_device,
    require_shape,
)
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.pairwise_distance import reference
from vireid_fast.ops.pairwise_distance.op import Metric, pairwise_distance_op

_OP = "pairwise_distance"
_METRICS = {
    "euclidean": Metric.EUCLIDEAN,
    "squared_euclidean": Metric.SQUARED_EUCLIDEAN,
    "cosine": Metric.NEGATIVE_DOT,
    "dot": Metric.NEGATIVE_DOT,
}
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def pairwise_distance(
    x: Tensor,
    y: Tensor,
    *,
    metric: Literal["euclidean", "squared_euclidean", "cosine", "dot"] = "euclidean",
    backend: Backend = "fused",
) -> Tensor:
    """Distance between every row of x and every row of y; small means near.

    euclidean: sqrt(sum_d (x[i, d] - y[j, d])^2)      squared_euclidean: without the root
    cosine: 1 - x[i] . y[j] / (|x[i]| |y[j]|)         dot: -x[i] . y[j]

    The Euclidean metrics are computed from differences, so equal rows have distance exactly 0. The
    cosine distance of a zero row is 1.

    Args:
        x: Shape (N, D), float32, float64, float16 or bfloat16.
        y: Shape (M, D), dtype and device of x.
        metric: Which distance.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        Distances. Shape (N, M), float64 for float64 inputs, else float32 (halves are computed in
        float32).

    Differentiable once, with respect to x and y. The gradient of the Euclidean distance at
    distance 0 is 0. On the CPU the fused values do not depend on thread count, instruction set or
    on the other rows. Memory: O(N M) for the output and its gradient, O((N + M) D) besides.

    Raises:
        ValueError: A shape, device, metric or backend does not fit.
        TypeError: A dtype does not fit.
    """
    _validate(x, y, metric, backend)
    if x.dtype in (torch.float16, torch.bfloat16):
        x, y = x.float(), y.float()
    if metric == "cosine":
        return 1 + _PairwiseDistance.apply(_unit(x), _unit(y), _METRICS[metric], backend)
    return _PairwiseDistance.apply(x, y, _METRICS[metric], backend)


class _PairwiseDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, metric: int, backend: str) -> Tensor:
        run = reference.pairwise_distance if backend == "reference" else pairwise_distance_op
        distances = run(x, y, metric)
        ctx.metric = metric
        ctx.save_for_backward(x, y, *([distances] if metric == Metric.EUCLIDEAN else []))
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *rest = ctx.saved_tensors
        grad_x = grad_y = None
        if ctx.metric == Metric.NEGATIVE_DOT:
            if ctx.needs_input_grad[0]:
                grad_x = -(grad @ y)
            if ctx.needs_input_grad[1]:
                grad_y = -(grad.T @ x)
            return grad_x, grad_y, None, None
        # d |x - y|^2 / dx = 2 (x - y);  d |x - y| / dx = (x - y) / |x - y|, and 0 where x = y.
        weight = _inverse_weight(grad, rest[0]) if rest else 2 * grad
        # Differences do not change when both sides move, and near the origin they lose least.
        centre = y.mean(0) if y.shape[0] else y.new_zeros(y.shape[1])
        x, y = x - centre, y - centre
        if ctx.needs_input_grad[0]:
            grad_x = torch.addmm(weight.sum(1, keepdim=True) * x, weight, y, alpha=-1)
        if ctx.needs_input_grad[1]:
            grad_y = torch.addmm(weight.sum(0)[:, None] * y, weight.T, x, alpha=-1)
        return grad_x, grad_y, None, None


def _inverse_weight(grad: Tensor, distances: Tensor) -> Tensor:
    return torch.where(distances > 0, grad / distances, 0)


def _unit(x: Tensor) -> Tensor:
    """Rows scaled to length 1; zero rows stay zero."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / torch.where(norm > 0, norm, 1)


def _validate(x: Tensor, y: Tensor, metric: str, backend: str) -> None:
    require_choice(_OP, "metric", metric, _METRICS)
    require_choice(_OP, "backend", backend, BACKENDS)
    require_dtype(_OP, "x", x, _DTYPES)
    require_dtype(_OP, "y", y, [x.dtype])
    require_shape(_OP, "x", x, ("N", "D"))
    require_shape(_OP, "y", y, ("M", x.shape[1]))
    require_same_device(_OP, x=x, y=y)
