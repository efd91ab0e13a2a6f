"""CLIP: an image tower and a text tower with one joint space."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vireid_fast.clip.architectures import Architecture, architecture
from vireid_fast.clip.resnet import ResNetVisual
from vireid_fast.clip.text import TextTower
from vireid_fast.clip.vit import ViTVisual


class CLIP(nn.Module):
    """Image and text encoders with a shared space (Radford et al., ICML 2021).

    Attributes:
        architecture: The sizes it was built with.
        visual: `ResNetVisual` or `ViTVisual`, each split in `stem` and `trunk`.
        text: `TextTower`.
        logit_scale: Logarithm of the inverse temperature, a scalar parameter.

    The state dict names the split (`visual.stem.conv1.weight`, `text.ln_final.weight`);
    `clip.weights` translates to and from OpenAI's flat names.

    Args:
        sizes: What `architectures.architecture` returns.
    """

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        self.architecture = sizes
        self.visual = _build_visual(sizes)
        assert sizes.vocabulary_size is not None  # `architecture` asks for it
        self.text = TextTower(
            vocabulary_size=sizes.vocabulary_size, context_length=sizes.context_length,
            width=sizes.text_width, layers=sizes.text_layers, heads=sizes.text_heads,
            projected_width=sizes.joint_width, activation=sizes.activation,
        )  # fmt: skip
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(self, images: Tensor) -> Tensor:
        """Project images of shape (B, 3, H, W) to features of shape (B, d), not normalised."""
        return self.visual.project(images)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Project token ids of shape (B, L), int64, to features of shape (B, d), not normalised."""
        return self.text.encode_tokens(ids)


def _build_visual(sizes: Architecture) -> ResNetVisual | ViTVisual:
    layers: Any = sizes.visual_layers
    assert sizes.visual_heads is not None  # `architecture` fills it in
    if sizes.family == "vit":
        assert sizes.patch_size is not None
        return ViTVisual(
            image_size=sizes.image_size, patch_size=sizes.patch_size, width=sizes.visual_width,
            layers=layers, heads=sizes.visual_heads,
            projected_width=sizes.joint_width, activation=sizes.activation,
        )  # fmt: skip
    return ResNetVisual(
        image_size=sizes.image_size, width=sizes.visual_width, layers=layers,
        heads=sizes.visual_heads, projected_width=sizes.joint_width,
        layer4_stride=sizes.layer4_stride, stem_relu=sizes.stem_relu,
    )  # fmt: skip


def build_clip(name: str, **overrides: Any) -> CLIP:
    """Build a CLIP model with random weights, drawn from torch's global generator.

    Args:
        name: "ViT-B/16", "ViT-B/32", "ViT-L/14", "RN50", or one of the pair that trains on a CPU,
            "ViT-small" and "RN-small".
        overrides: Any field of `Architecture`, most often `image_size=(H, W)`,
            `layer4_stride=1`, `stem_relu="csdn"`, `activation="gelu"` and `vocabulary_size`, which
            the small pair requires.

    Returns:
        The model in training mode, float32, on the CPU (or torch's default device).

    Raises:
        ValueError: A name or size does not fit; an unknown field names the nearest one.
    """
    return CLIP(architecture(name, **overrides))
