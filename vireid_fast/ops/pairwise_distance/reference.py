"""Pairwise distances in plain torch: the oracle of the kernels. Imports nothing of ours."""

from torch import Tensor

# Rows of x whose differences to all of y are held at once: bounds the memory, not the result.
_BLOCK_ELEMENTS = 1 << 22


def pairwise_distance(x: Tensor, y: Tensor, metric: int) -> Tensor:
    """Distances of the raw op: metric 0 Euclidean, 1 squared Euclidean, 2 negative dot product.

    Args:
        x: Shape (N, D).
        y: Shape (M, D), dtype of x.
        metric: Code of the metric.

    Returns:
        Shape (N, M), dtype of x.
    """
    if metric == 2:
        return -(x @ y.T)
    out = x.new_empty((x.shape[0], y.shape[0]))
    block = max(1, _BLOCK_ELEMENTS // max(1, y.numel()))
    for first in range(0, x.shape[0], block):
        difference = x[first : first + block, None] - y
        out[first : first + block] = difference.square().sum(-1)
    return out.sqrt_() if metric == 0 else out
