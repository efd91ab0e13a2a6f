"""A CLIP image encoder with one stem per modality and shared layers above."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vireid_fast._checks import require, require_choice
from vireid_fast.nn import GeMPooling
from vireid_fast.ops import BACKENDS, Backend

MODALITIES = ("visible", "infrared")


class ImageFeatures(NamedTuple):
    """Pre-projection feature f and CLIP-projected feature p of the same images."""

    pooled: Tensor
    projected: Tensor


class TokenFeatures(NamedTuple):
    """Features f and p of images, and all their tokens in the space of p.

    Attributes:
        pooled: f, shape (B, feature_width).
        projected: p, shape (B, d).
        tokens: u, shape (B, 1 + h w, d), one token of the whole image first. ViT: the tokens after
            `ln_post`, projected; the first is p. ResNet: see `AttentionPool2d.project_tokens`.
    """

    pooled: Tensor
    projected: Tensor
    tokens: Tensor


class TwoStemEncoder(nn.Module):
    """Separate visible and infrared stems, one shared trunk (CSDN, SAMCL).

    A convolutional trunk is pooled by GeM for f; a ViT gives its class token. p is CLIP's own
    projection (attention pool or class token). The infrared stem starts as a copy of CLIP's.

    Args:
        visual: A CLIP visual tower with `.stem`, `.trunk`, `.feature_width`, `.projected_width`.
        backend: "fused" computes what is read: one query in the attention pool, the class token
            alone in the last block of a ViT. "reference" is the plain path of both.
        shared_stem: One stem for both modalities.
    """

    def __init__(
        self, visual: Any, *, backend: Backend = "fused", shared_stem: bool = False
    ) -> None:
        super().__init__()
        require_choice("TwoStemEncoder", "backend", backend, BACKENDS)
        self.backend = backend
        self.visual: Any = visual
        if visual.convolutional:
            visual.trunk.attnpool.backend = backend
        self.infrared_stem = None if shared_stem else copy.deepcopy(visual.stem)
        self.pooling = GeMPooling() if visual.convolutional else None
        self.feature_width: int = visual.feature_width
        self.projected_width: int = visual.projected_width

    def forward(
        self,
        visible: Tensor | None,
        infrared: Tensor | None,
        modality_embedding: Tensor | None = None,
    ) -> ImageFeatures:
        """Encode visible and infrared images in one pass of the shared layers.

        Args:
            visible: Shape (A, 3, H, W) or None.
            infrared: Shape (B, 3, H, W) or None; not both None.
            modality_embedding: Added to the class tokens of a ViT: one row for visible images, one
                for infrared ones. Shape (2, feature_width).

        Returns:
            f (A + B, feature_width) and p (A + B, projected_width), visible rows first.
        """
        stem_map, extra = self._enter(visible, infrared, modality_embedding)
        if self.pooling is None and self.backend == "fused":
            return ImageFeatures(*self.visual.trunk.encode_class(stem_map, *extra))
        out = self.visual.trunk(stem_map, *extra)
        pooled = out.pooled if self.pooling is None else self.pooling(out.map)
        return ImageFeatures(pooled, out.projected)

    def encode_tokens(
        self,
        visible: Tensor | None,
        infrared: Tensor | None,
        modality_embedding: Tensor | None = None,
    ) -> TokenFeatures:
        """Encode images as `forward` does, and give all their tokens in the space of p.

        Args:
            visible: As of `forward`.
            infrared: As of `forward`.
            modality_embedding: As of `forward`.

        Returns:
            f, p, and u of shape (A + B, 1 + h w, projected_width), visible rows first.
        """
        stem_map, extra = self._enter(visible, infrared, modality_embedding)
        trunk = self.visual.trunk
        out = trunk(stem_map, *extra)
        if self.pooling is None:
            return TokenFeatures(out.pooled, out.projected, out.map @ trunk.proj)
        tokens = trunk.attnpool.project_tokens(out.map)
        return TokenFeatures(self.pooling(out.map), out.projected, tokens)

    def _enter(
        self, visible: Tensor | None, infrared: Tensor | None, modality_embedding: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Stem maps of all images, and what else the trunk takes."""
        require(
            visible is not None or infrared is not None, "TwoStemEncoder", "visible or infrared",
            "be given", "neither",
        )  # fmt: skip
        maps = []
        if visible is not None:
            maps.append(self.visual.stem(visible))
        if infrared is not None:
            stem = self.visual.stem if self.infrared_stem is None else self.infrared_stem
            maps.append(stem(infrared))
        stem_map = torch.cat(maps) if len(maps) > 1 else maps[0]
        if modality_embedding is None:
            return stem_map, ()
        require(
            self.pooling is None, "TwoStemEncoder", "modality_embedding",
            "be None for an image tower without a class token", "a tensor",
        )  # fmt: skip
        counts = [0 if images is None else images.shape[0] for images in (visible, infrared)]
        rows = [
            row.expand(count, -1) for row, count in zip(modality_embedding, counts, strict=True)
        ]
        return stem_map, (torch.cat(rows),)
