"""Contrast between two sets of features whose rows carry identity labels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid_fast._checks import require


def supervised_contrast(
    anchors: Tensor,
    others: Tensor,
    anchor_labels: Tensor,
    other_labels: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Supervised contrast of every anchor against all rows of the other set.

    L = -mean_i 1/|P(i)| sum_{j in P(i)} log softmax_j(a_i . b_j / temperature),
    P(i) = {j : y_j = y_i}      (CLIP-ReID stage 1; CSDN stages 1 and 2)

    Features enter as they are: CLIP-ReID and CSDN do not normalise them.

    Args:
        anchors: Shape (A, D).
        others: Shape (B, D).
        anchor_labels: Shape (A,), int64. Every anchor label occurs among `other_labels`.
        other_labels: Shape (B,), int64.
        temperature: Divisor of the scores.

    Returns:
        Scalar.
    """
    scores = anchors.float() @ others.float().T / temperature
    positive = anchor_labels[:, None] == other_labels[None, :]
    log_probability = F.log_softmax(scores, dim=1)
    count = positive.sum(1)
    return -((log_probability * positive).sum(1) / count).mean()


def scale_for_scores(features: Tensor, temperature: float) -> Tensor:
    """Features whose dot products are the scores of an image-text loss.

    Args:
        features: Shape (B, D).
        temperature: 0 leaves the features, so that scores are plain dot products. Otherwise rows
            are L2-normalised and divided by sqrt(temperature), so that scores of two scaled sets
            are cosines divided by the temperature.

    Returns:
        Shape (B, D), float32.
    """
    require(temperature >= 0, "scale_for_scores", "temperature", "be 0 or more", temperature)
    if temperature == 0:
        return features.float()
    return F.normalize(features.float()) / math.sqrt(temperature)


def image_to_text(features: Tensor, text_bank: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of images against the texts of all identities.

    L = CE(features @ text_bank^T, labels), no temperature, no normalisation
    (CLIP-ReID stage 2; CSDN's high-level semantic embedding)

    Args:
        features: Projected image features. Shape (B, d).
        text_bank: One text per identity. Shape (C, d).
        labels: Shape (B,), int64 in 0..C-1.

    Returns:
        Scalar.
    """
    require(
        features.shape[1] == text_bank.shape[1], "image_to_text", "text_bank",
        f"have {features.shape[1]} columns", text_bank.shape[1],
    )  # fmt: skip
    return F.cross_entropy(features.float() @ text_bank.float().T, labels)


def cross_modal_contrast(
    visible: Tensor,
    infrared: Tensor,
    visible_labels: Tensor,
    infrared_labels: Tensor,
    temperature: float = 0.07,
) -> Tensor:
    """Symmetric supervised contrast between L2-normalised visible and infrared features.

    Args:
        visible: Shape (A, D).
        infrared: Shape (B, D).
        visible_labels: Shape (A,), int64.
        infrared_labels: Shape (B,), int64, the same identities.
        temperature: Divisor of the cosines.

    Returns:
        Scalar, the mean of both directions.
    """
    v, r = F.normalize(visible.float()), F.normalize(infrared.float())
    forward = supervised_contrast(v, r, visible_labels, infrared_labels, temperature)
    backward = supervised_contrast(r, v, infrared_labels, visible_labels, temperature)
    return torch.stack((forward, backward)).mean()
