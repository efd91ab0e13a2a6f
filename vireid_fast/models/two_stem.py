"""A CLIP image encoder with one stem per modality and shared layers above."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vireid_fast._checks import require
from vireid_fast.nn import GeMPooling


class ImageFeatures(NamedTuple):
    """Pre-projection feature f and CLIP-projected feature p of the same images."""

    pooled: Tensor
    projected: Tensor


class TwoStemEncoder(nn.Module):
    """Separate visible and infrared stems, one shared trunk (CSDN, SAMCL).

    A convolutional trunk is pooled by GeM for f; a ViT gives its class token. p is CLIP's own
    projection (attention pool or class token). The infrared stem starts as a copy of CLIP's.

    Args:
        visual: A CLIP visual tower with `.stem`, `.trunk`, `.feature_width`, `.projected_width`.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.infrared_stem = copy.deepcopy(visual.stem)
        self.pooling = GeMPooling() if visual.convolutional else None
        self.feature_width: int = visual.feature_width
        self.projected_width: int = visual.projected_width

    def forward(self, visible: Tensor | None, infrared: Tensor | None) -> ImageFeatures:
        """Encode visible and infrared images in one pass of the shared layers.

        Args:
            visible: Shape (A, 3, H, W) or None.
            infrared: Shape (B, 3, H, W) or None; not both None.

        Returns:
            f (A + B, feature_width) and p (A + B, projected_width), visible rows first.
        """
        require(
            visible is not None or infrared is not None, "TwoStemEncoder", "visible or infrared",
            "be given", "neither",
        )  # fmt: skip
        maps = []
        if visible is not None:
            maps.append(self.visual.stem(visible))
        if infrared is not None:
            maps.append(self.infrared_stem(infrared))
        out = self.visual.trunk(torch.cat(maps) if len(maps) > 1 else maps[0])
        pooled = out.pooled if self.pooling is None else self.pooling(out.map)
        return ImageFeatures(pooled, out.projected)
