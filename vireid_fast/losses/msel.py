"""MSEL, the modality-shared enhancement loss (CSDN)."""

from torch import Tensor

from vireid_fast._checks import require
from vireid_fast.ops import pairwise_distance


def modality_shared_enhancement(visible: Tensor, infrared: Tensor, labels: Tensor) -> Tensor:
    """Squared gap between an image's mean distance within and across modalities.

    intra_i = mean distance to the other images of its identity in its own modality,
    cross_i = mean distance to the images of its identity in the other modality,
    L = 1/2 (mean_{i in V} (cross_i - intra_i)^2 + mean_{i in R} (cross_i - intra_i)^2)

    Args:
        visible: Shape (B, D).
        infrared: Shape (B, D); row i has the identity of row i of `visible`.
        labels: Identity of every row pair. Shape (B,), int64; each identity at least twice.

    Returns:
        Scalar.
    """
    require(
        visible.shape == infrared.shape, "modality_shared_enhancement", "infrared",
        f"have the shape of visible {tuple(visible.shape)}", tuple(infrared.shape),
    )  # fmt: skip
    same = (labels[:, None] == labels[None, :]).float()
    count = same.sum(1)
    require(
        bool((count > 1).all()), "modality_shared_enhancement", "labels",
        "hold each identity at least twice", f"{int((count == 1).sum())} single rows",
        "Set two or more instances per identity in the sampler.",
    )  # fmt: skip
    v, r = visible.float(), infrared.float()
    across = pairwise_distance(v, r)
    terms = []
    for features, cross_distance in ((v, across), (r, across.T)):
        # The diagonal is exactly 0, so only the divisor leaves the image itself out.
        intra = (pairwise_distance(features, features) * same).sum(1) / (count - 1)
        cross = (cross_distance * same).sum(1) / count
        terms.append((cross - intra).square().mean())
    return 0.5 * (terms[0] + terms[1])
