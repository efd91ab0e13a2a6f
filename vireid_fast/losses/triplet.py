"""WRT, the weighted regularised triplet loss (AGW)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid_fast.losses.gram import Features, euclidean_distances


def weighted_regularized_triplet(
    features: Features, labels: Tensor, *, parity: bool = False
) -> Tensor:
    """Softplus of softmax-weighted positive minus softmax-weighted negative distance.

    w+_ij = softmax over positives of D_ij,  w-_ij = softmax over negatives of -D_ij,
    L = mean_i softplus(sum_j w+_ij D_ij - sum_j w-_ij D_ij)      (AGW, Ye et al., TPAMI 2021)

    D is Euclidean over the whole batch, self included, features not normalised.

    Args:
        features: Shape (B, D), or a `FeatureGram` of them.
        labels: Shape (B,), int64.
        parity: True computes the weights as the published code does: the subtracted maximum is
            taken over the masked matrix (so it is 0 for negatives) and 1e-6 joins the
            denominator, which makes the negative weights vanish when all negatives are farther
            than about 14. False (default) is the formula above.

    Returns:
        Scalar, float64 for float64 features, else float32.
    """
    distance = euclidean_distances(features, features)
    positive = labels[:, None] == labels[None, :]
    weigh = _weights_as_published if parity else _weights
    hardest_positive = (weigh(distance, positive) * distance).sum(1)
    hardest_negative = (weigh(-distance, ~positive) * distance).sum(1)
    return F.softplus(hardest_positive - hardest_negative).mean()


def _weights(score: Tensor, mask: Tensor) -> Tensor:
    # A row without valid entries (one identity in the batch) has zero weights, not NaN.
    weights = torch.softmax(score.masked_fill(~mask, float("-inf")), dim=1)
    return torch.where(mask.any(1, keepdim=True), weights, torch.zeros_like(weights))


def _weights_as_published(score: Tensor, mask: Tensor) -> Tensor:
    masked = score * mask
    exponential = torch.exp(masked - masked.max(1, keepdim=True).values) * mask
    return exponential / (exponential.sum(1, keepdim=True) + 1e-6)
