"""Contrast between two sets of features whose rows carry identity labels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid_fast._checks import require
from vireid_fast.losses.gram import Features, cosine_similarities
from vireid_fast.losses.precision import at_least_float32, common_precision, without_autocast


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
        Scalar, float64 for float64 features, else float32.
    """
    anchors, others = common_precision(anchors, others)
    with without_autocast(anchors):
        scores = anchors @ others.T / temperature
    return _contrast(scores, anchor_labels[:, None] == other_labels[None, :])


def scale_for_scores(features: Tensor, temperature: float) -> Tensor:
    """Features whose dot products are the scores of an image-text loss.

    Args:
        features: Shape (B, D).
        temperature: 0 leaves the features, so that scores are plain dot products. Otherwise rows
            are L2-normalised and divided by sqrt(temperature), so that scores of two scaled sets
            are cosines divided by the temperature.

    Returns:
        Shape (B, D), float64 for float64 features, else float32.
    """
    require(temperature >= 0, "scale_for_scores", "temperature", "be 0 or more", temperature)
    features = at_least_float32(features)
    return features if temperature == 0 else F.normalize(features) / math.sqrt(temperature)


def cross_modal_contrast(
    visible: Features,
    infrared: Features,
    visible_labels: Tensor,
    infrared_labels: Tensor,
    temperature: float = 0.07,
) -> Tensor:
    """Symmetric supervised contrast between L2-normalised visible and infrared features.

    Args:
        visible: Shape (A, D), or rows of a `FeatureGram`.
        infrared: Shape (B, D), or rows of the same gram.
        visible_labels: Shape (A,), int64.
        infrared_labels: Shape (B,), int64, the same identities.
        temperature: Divisor of the cosines.

    Returns:
        Scalar, the mean of both directions, float64 for float64 features, else float32.
    """
    with without_autocast(visible_labels):
        scores = cosine_similarities(visible, infrared) / temperature
    positive = visible_labels[:, None] == infrared_labels[None, :]
    return torch.stack((_contrast(scores, positive), _contrast(scores.T, positive.T))).mean()


def _contrast(scores: Tensor, positive: Tensor) -> Tensor:
    log_probability = F.log_softmax(scores, dim=1)
    return -((log_probability * positive).sum(1) / positive.sum(1)).mean()
