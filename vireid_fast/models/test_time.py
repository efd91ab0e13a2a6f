"""Test-time features from two features of an image and of its mirror image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid_fast._checks import require_choice
from vireid_fast.models.two_stem import MODALITIES


@torch.no_grad()
def joint_features(model: Any, images: Tensor, modality: str) -> Tensor:
    """[norm(BN(f)), norm(p)] of images and of their mirror images (CSDN's released code).

    The dot product of two such rows is the sum of four cosines; the joint row is not normalised
    again.

    Args:
        model: Has `encode_images` and `pooled_neck`.
        images: Normalised images of one modality. Shape (B, 3, H, W).
        modality: "visible" or "infrared".

    Returns:
        Shape (B, 2 (feature width + projected width)), float32.
    """
    require_choice("test_features", "modality", modality, MODALITIES)
    parts = []
    for view in (images, images.flip(3)):
        pair = (view, None) if modality == "visible" else (None, view)
        pooled, projected = model.encode_images(*pair)
        parts.append(F.normalize(model.pooled_neck.norm(pooled).float()))
        parts.append(F.normalize(projected.float()))
    return torch.cat(parts, dim=1)
