"""A CLIP image encoder with one stem per modality and shared layers above."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vireid_fast._checks import require, require_choice
from vireid_fast.nn import GeMPooling
from vireid_fast.ops import BACKENDS


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
        backend: "fused" computes what is read: one query in the attention pool, the class token
            alone in the last block of a ViT. "reference" is the plain path of both.
    """

    def __init__(self, visual: nn.Module, *, backend: str = "fused") -> None:
        super().__init__()
        require_choice("TwoStemEncoder", "backend", backend, BACKENDS)
        self.backend = backend
        self.visual = visual
        if visual.convolutional:
            visual.trunk.attnpool.backend = backend
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
        stem_map = torch.cat(maps) if len(maps) > 1 else maps[0]
        if self.pooling is None and self.backend == "fused":
            return ImageFeatures(*self.visual.trunk.encode_class(stem_map))
        out = self.visual.trunk(stem_map)
        pooled = out.pooled if self.pooling is None else self.pooling(out.map)
        return ImageFeatures(pooled, out.projected)
