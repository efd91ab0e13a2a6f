"""Resizing of learned position grids."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vireid_fast._checks import require


def resize_positions(
    positions: Tensor, target: tuple[int, int], source: tuple[int, int] | None = None
) -> Tensor:
    """Resize a position grid bilinearly and keep the first row (class or mean token) as it is.

    Args:
        positions: Embeddings of the first token, then of the grid row by row.
            Shape (1 + h w, W), floating point.
        target: Wanted grid (h, w).
        source: Grid (h, w) of `positions`; None means the square grid of CLIP's pre-training.

    Returns:
        Embeddings of shape (1 + target h * target w, W), in the dtype of `positions`. Pixel centres
        correspond (`align_corners=False`), without anti-aliasing, as in CLIP-ReID and CSDN.

    Raises:
        ValueError: The number of rows does not fit the source grid.
    """
    count = positions.shape[0] - 1
    if source is None:
        side = math.isqrt(max(count, 0))
        source = (side, side)
    require(
        positions.dim() == 2 and count == source[0] * source[1] and count > 0,
        "resize_positions", "positions", f"have 1 + {source[0]} * {source[1]} rows",
        tuple(positions.shape), "Pass source=(h, w) where the grid is not square.",
    )  # fmt: skip
    if source == target:
        return positions
    width = positions.shape[1]
    grid = positions[1:].reshape(1, *source, width).permute(0, 3, 1, 2)
    # Half precision has no CPU kernel on every platform, and rounding once at the end is better.
    resized = F.interpolate(
        grid if grid.dtype.itemsize >= 4 else grid.float(),
        size=target, mode="bilinear", align_corners=False,
    )  # fmt: skip
    rows = resized.permute(0, 2, 3, 1).reshape(-1, width).to(positions.dtype)
    return torch.cat([positions[:1], rows])
