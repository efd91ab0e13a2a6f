"""Peers of the losses: each computes its own distances by `torch.cdist`."""

import torch
import torch.nn.functional as F
from torch import Tensor


def separate_losses(features: Tensor, labels: Tensor) -> Tensor:
    """WRT + MSEL + cross-modal contrast of [visible; exchanged; infrared] rows.

    Args:
        features: Shape (3 B, D).
        labels: Shape (B,).
    """
    count = len(labels)
    visible, infrared = features[:count], features[2 * count :]
    return (
        _triplet(features, labels.repeat(3))
        + _shared_enhancement(visible, infrared, labels)
        + _contrast(features[: 2 * count], infrared, labels.repeat(2), labels)
    )


def whole_cross_entropy(features: Tensor, text_bank: Tensor, labels: Tensor) -> Tensor:
    """Image-to-text loss over the whole score matrix."""
    return F.cross_entropy(features @ text_bank.T, labels)


def _triplet(features: Tensor, labels: Tensor) -> Tensor:
    distance = torch.cdist(features, features)
    positive = labels[:, None] == labels
    near = torch.softmax(distance.masked_fill(~positive, -torch.inf), dim=1)
    far = torch.softmax((-distance).masked_fill(positive, -torch.inf), dim=1)
    return F.softplus((near * distance).sum(1) - (far * distance).sum(1)).mean()


def _shared_enhancement(visible: Tensor, infrared: Tensor, labels: Tensor) -> Tensor:
    same = (labels[:, None] == labels).to(visible.dtype)
    count = same.sum(1)
    total = 0.0
    for own, other in ((visible, infrared), (infrared, visible)):
        intra = (torch.cdist(own, own) * same).sum(1) / (count - 1)
        cross = (torch.cdist(own, other) * same).sum(1) / count
        total = total + 0.5 * (cross - intra).square().mean()
    return total


def _contrast(
    visible: Tensor, infrared: Tensor, visible_labels: Tensor, infrared_labels: Tensor
) -> Tensor:
    scores = F.normalize(visible) @ F.normalize(infrared).T / 0.07
    positive = visible_labels[:, None] == infrared_labels
    terms = [
        -((F.log_softmax(s, dim=1) * p).sum(1) / p.sum(1)).mean()
        for s, p in ((scores, positive), (scores.T, positive.T))
    ]
    return 0.5 * (terms[0] + terms[1])
