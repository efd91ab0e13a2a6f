"""MMD, the maximum mean discrepancy between the features of two modalities."""

import torch
from torch import Tensor

from vireid_fast._checks import require
from vireid_fast.losses.gram import Features, euclidean_distances

# Bandwidths around the mean squared distance, a multi-kernel as in DAN (Long et al., ICML 2015).
_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def maximum_mean_discrepancy(visible: Features, infrared: Features) -> Tensor:
    """Squared distance of the mean embeddings of two sets of features; no labels.

    L = mean_{VV} k + mean_{RR} k - 2 mean_{VR} k,
    k(a, b) = mean_q exp(-|a - b|^2 / (2 q sigma^2)), q in {1/4, 1/2, 1, 2, 4}
    (Gretton et al., JMLR 2012, biased V-statistic)

    sigma^2 is the mean squared distance of all pairs of different rows, of both sets together. It
    is a constant to the gradient: otherwise spreading all features would lower the loss.

    Args:
        visible: Shape (A, D), A >= 1, or rows of a `FeatureGram`.
        infrared: Shape (B, D), B >= 1, or rows of the same gram.

    Returns:
        Scalar, 0 or more but for rounding, float64 for float64 features, else float32.

    Raises:
        ValueError: A set is empty.
    """
    across = euclidean_distances(visible, infrared).square()
    first, second = across.shape
    require(
        first > 0 and second > 0, "maximum_mean_discrepancy", "visible and infrared",
        "hold a row each", f"{first} and {second} rows",
    )  # fmt: skip
    within = [euclidean_distances(rows, rows).square() for rows in (visible, infrared)]
    pairs = (first + second) * (first + second - 1)
    total = sum(part.detach().sum() for part in within) + 2 * across.detach().sum()
    variance = total / pairs
    # Where all rows are equal, every kernel is 1 whatever the bandwidth.
    variance = torch.where(variance == 0, 1.0, variance)
    same = sum(_kernel(part, variance).mean() for part in within)
    return same - 2 * _kernel(across, variance).mean()


def _kernel(squared: Tensor, variance: Tensor) -> Tensor:
    scaled = squared / (2 * variance)
    return torch.stack([torch.exp(-scaled / q) for q in _BANDWIDTHS]).mean(0)
