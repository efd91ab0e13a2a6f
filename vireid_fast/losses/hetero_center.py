"""Hetero-centre triplet loss: identities as the centres of their features in each modality."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid_fast._checks import may_read_values, require
from vireid_fast.losses.gram import euclidean_distances
from vireid_fast.losses.precision import common_precision, without_autocast

_LOSS = "hetero_center_triplet"


def hetero_center_triplet(
    visible: Tensor,
    infrared: Tensor,
    visible_labels: Tensor,
    infrared_labels: Tensor,
    margin: float = 0.3,
) -> Tensor:
    """Hinge between an identity's two centres and the nearest centre of another identity.

    L = sum_y max(0, margin + |c_V^y - c_R^y| - min_{z != y, n in {V, R}} |c_V^y - c_n^z|)
    + the same with V and R exchanged      (Liu et al., TMM 2020)

    It takes features, not a gram, since centres are none of its rows.

    Args:
        visible: Shape (A, D).
        infrared: Shape (B, D).
        visible_labels: Shape (A,), int64.
        infrared_labels: Shape (B,), int64, the same identities. While a graph is traced or
            captured this is not checked, and an identity without a partner gives NaN.
        margin: Margin m.

    Returns:
        Scalar, float64 for float64 features, else float32. One identity alone gives 0.

    Raises:
        ValueError: The two sets do not hold the same identities.
    """
    _validate(visible_labels, infrared_labels)
    visible, infrared = common_precision(visible, infrared)
    # Each row stands for its identity with weight 1 / count, so that no shape depends on how
    # many identities there are.
    own = _means(visible, visible_labels, visible_labels)
    other = _means(infrared, infrared_labels, infrared_labels)
    partner = _means(infrared, infrared_labels, visible_labels)
    forth = _hinges(own, partner, other, visible_labels, infrared_labels, margin)
    partner = _means(visible, visible_labels, infrared_labels)
    back = _hinges(other, partner, own, infrared_labels, visible_labels, margin)
    return forth + back


def _means(features: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """Mean of the features of each wanted label, (W, D)."""
    member = (wanted[:, None] == labels[None, :]).to(features.dtype)
    with without_autocast(features):
        return (member / member.sum(1, keepdim=True)) @ features


def _hinges(
    centers: Tensor,
    partners: Tensor,
    others: Tensor,
    labels: Tensor,
    other_labels: Tensor,
    margin: float,
) -> Tensor:
    """Sum over identities of one direction; row i of `partners` is the partner of centre i."""
    positive = euclidean_distances(centers, partners).diagonal()
    negatives = torch.cat(
        [
            euclidean_distances(centers, rows).masked_fill(
                labels[:, None] == of[None, :], float("inf")
            )
            for rows, of in ((centers, labels), (others, other_labels))
        ],
        dim=1,
    )
    count = (labels[:, None] == labels[None, :]).sum(1)
    return (F.relu(margin + positive - negatives.amin(1)) / count).sum()


def _validate(visible_labels: Tensor, infrared_labels: Tensor) -> None:
    if not may_read_values():
        return
    first, second = (set(labels.tolist()) for labels in (visible_labels, infrared_labels))
    require(
        first == second, _LOSS, "visible_labels and infrared_labels",
        "hold the same identities", f"{sorted(first ^ second)} in one of them only",
        "Draw the same identities for both modalities.",
    )  # fmt: skip
