"""Vision transformer of CLIP, split into a patch stem and a trunk."""

import torch
from torch import Tensor, nn

from vireid_fast._checks import require, require_shape
from vireid_fast.clip.features import ClassFeatures, VisualFeatures
from vireid_fast.clip.transformer import LayerNorm, Transformer


class PatchStem(nn.Module):
    """Patch convolution without bias; patches overlap where the stride is below their side."""

    def __init__(self, patch_size: int, width: int, stride: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=stride or patch_size, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into a map of patch embeddings (B, D, h, w)."""
        return self.conv1(images)


class ViTTrunk(nn.Module):
    """Class token, positions, transformer and projection.

    Args:
        grid: Patch grid (h, w).
        width: Token width D.
        layers: Number of blocks.
        heads: Number of heads.
        projected_width: Joint width d.
        activation: "quick_gelu" or "gelu".
    """

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        width: int,
        layers: int,
        heads: int,
        projected_width: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.grid = grid
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + grid[0] * grid[1], width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, projected_width))

    def forward(self, stem_map: Tensor, class_shift: Tensor | None = None) -> VisualFeatures:
        """Encode a patch map.

        Args:
            stem_map: Shape (B, D, h, w); h and w are the grid of construction.
            class_shift: Added to the class token of each image. Shape (B, D).
        """
        tokens = self.ln_post(self.transformer(self.embed(stem_map, class_shift)))
        pooled = tokens[:, 0]
        return VisualFeatures(tokens, pooled, pooled @ self.proj)

    def encode_class(self, stem_map: Tensor, class_shift: Tensor | None = None) -> ClassFeatures:
        """`pooled` and `projected` of `forward`; the last block skips all other rows."""
        tokens = self.embed(stem_map, class_shift)
        pooled = self.ln_post(self.transformer.forward_first(tokens))
        return ClassFeatures(pooled, pooled @ self.proj)

    def embed(self, stem_map: Tensor, class_shift: Tensor | None = None) -> Tensor:
        """Input of the first block, class token first: (B, D, h, w) to (B, 1 + h w, D)."""
        width = self.class_embedding.shape[0]
        require_shape("ViTTrunk", "stem_map", stem_map, ("B", width, *self.grid))
        patches = stem_map.flatten(2).transpose(1, 2)
        first = self.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        if class_shift is not None:
            require_shape("ViTTrunk", "class_shift", class_shift, (patches.shape[0], width))
            first = first + class_shift.to(patches.dtype)[:, None]
        tokens = torch.cat([first, patches], dim=1)
        return self.ln_pre(tokens + self.positional_embedding.to(tokens.dtype))


class ViTVisual(nn.Module):
    """Vision transformer image tower: `stem` (patch convolution), then `trunk`.

    Args:
        image_size: (H, W) in pixels; both multiples of `patch_size`, or with a `stride` at least
            as large.
        patch_size: Side of a patch in pixels.
        width: Token width D.
        layers: Number of blocks.
        heads: Number of heads.
        projected_width: Joint width d.
        activation: "quick_gelu" or "gelu".
        stride: Step between patches in pixels, where they overlap (CLIP-ReID's OLP, 12 for 16);
            None: they do not.

    Raises:
        ValueError: The image is no whole number of patches, or the heads do not divide the width.
    """

    convolutional = False
    """The map is a list of tokens whose first is the class token."""

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        projected_width: int,
        activation: str,
        stride: int | None = None,
    ) -> None:
        super().__init__()
        if stride is None:
            require(
                all(side > 0 and side % patch_size == 0 for side in image_size),
                "ViTVisual", "image_size", f"be positive multiples of the patch size {patch_size}",
                image_size,
            )  # fmt: skip
            stride = patch_size
        require(0 < stride <= patch_size, "ViTVisual", "stride", f"lie in 1..{patch_size}", stride)
        require(
            min(image_size) >= patch_size, "ViTVisual", "image_size",
            f"be at least the patch size {patch_size}", image_size,
        )  # fmt: skip
        self.image_size = image_size
        height, breadth = ((side - patch_size) // stride + 1 for side in image_size)
        self.grid = (height, breadth)
        self.feature_width = width
        self.projected_width = projected_width
        self.stem = PatchStem(patch_size, width, stride)
        self.trunk = ViTTrunk(
            grid=self.grid, width=width, layers=layers, heads=heads,
            projected_width=projected_width, activation=activation,
        )  # fmt: skip

    def forward(self, images: Tensor) -> VisualFeatures:
        """Encode images of shape (B, 3, H, W), floating point, normalised."""
        require_shape("ViTVisual", "images", images, ("B", 3, *self.image_size))
        return self.trunk(self.stem(images))

    def project(self, images: Tensor) -> Tensor:
        """`projected` of `forward(images)` alone: the last block computes the class token only."""
        require_shape("ViTVisual", "images", images, ("B", 3, *self.image_size))
        return self.trunk.encode_class(self.stem(images)).projected
