"""MSEL, the modality-shared enhancement loss (CSDN)."""

import torch
from torch import Tensor

from vireid_fast._checks import may_read_values, require
from vireid_fast.losses.gram import Features, euclidean_distances

_LOSS = "modality_shared_enhancement"


def modality_shared_enhancement(
    visible: Features, infrared: Features, labels: Tensor, *, normalized: bool = False
) -> Tensor:
    """Squared gap between an image's mean distance within and across modalities.

    intra_i = mean distance to the other images of its identity in its own modality,
    cross_i = mean distance to the images of its identity in the other modality,
    L = 1/2 (mean_{i in V} (cross_i - intra_i)^2 + mean_{i in R} (cross_i - intra_i)^2)

    Args:
        visible: Shape (B, D), or rows of a `FeatureGram`.
        infrared: Shape (B, D), or rows of the same gram; row i has the identity of row i of
            `visible`.
        labels: Identity of every row pair. Shape (B,), int64; each identity at least twice. While
            a graph is traced or captured this is not checked, and a single row gives NaN.
        normalized: L2-normalise the rows first; CSDN does not.

    Returns:
        Scalar, float64 for float64 features, else float32.
    """
    _validate(visible, infrared, labels)
    across = euclidean_distances(visible, infrared, normalized=normalized)
    require(
        across.shape[0] == across.shape[1] == labels.shape[0], _LOSS, "visible and infrared",
        f"have a row per label ({labels.shape[0]})", tuple(across.shape),
    )  # fmt: skip
    same = (labels[:, None] == labels[None, :]).to(across.dtype)
    count = same.sum(1)
    terms = []
    for features, cross_distance in ((visible, across), (infrared, across.T)):
        # The diagonal is exactly 0, so only the divisor leaves the image itself out.
        within = euclidean_distances(features, features, normalized=normalized)
        intra = (within * same).sum(1) / (count - 1)
        cross = (cross_distance * same).sum(1) / count
        terms.append((cross - intra).square().mean())
    return 0.5 * (terms[0] + terms[1])


def _validate(visible: Features, infrared: Features, labels: Tensor) -> None:
    if isinstance(visible, Tensor) and isinstance(infrared, Tensor):
        require(
            visible.shape == infrared.shape, _LOSS, "infrared",
            f"have the shape of visible {tuple(visible.shape)}", tuple(infrared.shape),
        )  # fmt: skip
    if not may_read_values():
        return
    single = int((torch.unique(labels, return_counts=True)[1] == 1).sum())
    require(
        single == 0, _LOSS, "labels", "hold each identity at least twice", f"{single} single rows",
        "Set two or more instances per identity in the sampler.",
    )  # fmt: skip
