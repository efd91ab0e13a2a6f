"""MMA, the multi-modality alignment loss (M3-ReID)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid_fast.losses.gram import Features, cosine_similarities
from vireid_fast.losses.precision import without_autocast


def multi_modality_alignment(
    visible: Features, infrared: Features, visible_labels: Tensor, infrared_labels: Tensor
) -> Tensor:
    """Softplus of the gap between mean positive and mean negative distance across modalities.

    d_ij = (1 - cos_ij) / 2,  L = mean_i softplus(mean_{j: y_j = y_i} d_ij - mean_{j: y_j != y_i}
    d_ij), averaged over both directions      (M3-ReID, Liang et al., TIFS 2025;
    workingcoder/M3-ReID@9d82aa8, losses/mma_loss.py)

    A row without positives or without negatives in the other modality is left out, and so is a
    direction of such rows only; without any row the loss is 0.

    Args:
        visible: Shape (A, D), or rows of a `FeatureGram`.
        infrared: Shape (B, D), or rows of the same gram.
        visible_labels: Shape (A,), int64.
        infrared_labels: Shape (B,), int64.

    Returns:
        Scalar, float64 for float64 features, else float32.
    """
    with without_autocast(visible_labels):
        distance = (1 - cosine_similarities(visible, infrared)) / 2
    positive = visible_labels[:, None] == infrared_labels[None, :]
    terms = [_one_direction(distance, positive), _one_direction(distance.T, positive.T)]
    means, present = (torch.stack(parts) for parts in zip(*terms, strict=True))
    return (means * present).sum() / present.sum().clamp(min=1)


def _one_direction(distance: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the rows that count, and whether there are any."""
    positives, negatives = positive.sum(1), (~positive).sum(1)
    counts = (positives > 0) & (negatives > 0)
    near = (distance * positive).sum(1) / positives.clamp(min=1)
    far = (distance * ~positive).sum(1) / negatives.clamp(min=1)
    total = (F.softplus(near - far) * counts).sum()
    return total / counts.sum().clamp(min=1), counts.any()
