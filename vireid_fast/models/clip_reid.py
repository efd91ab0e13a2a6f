"""CLIP-ReID at test time: the network that published CLIP-ReID checkpoints hold.

Li, Sun, Li: "CLIP-ReID: Exploiting Vision-Language Model for Image Re-identification without
Concrete Text Labels", AAAI 2023. Written after Syliz517/CLIP-ReID@4c0eb20
`model/make_model_clipreid.py`, whose checkpoints `engine.imports.clip_reid` reads. It is for
features: the package does not train it.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid_fast._checks import (
    require,
    require_choice,
    require_dtype,
    require_shape,
    sentence,
)
from vireid_fast.clip import ResNetVisual, ViTVisual
from vireid_fast.models.agw import NECKS
from vireid_fast.models.two_stem import MODALITIES
from vireid_fast.nn import BNNeck
from vireid_fast.ops import Backend


class CLIPReID(nn.Module):
    """CLIP's image tower, the same for both modalities, and the necks of its two features.

    Args:
        visual: CLIP's image tower for the size of the images.
        num_identities: Training identities C.
        neck: Which features are given: "before" batch normalisation (published results) or "after".
        cameras: Number of camera (or view) embeddings of a ViT trained with SIE; 0 without.
        camera: With SIE, what stands for the camera where none is told: a row from 0 on, "mean" of
            all rows, or "none".
        coefficient: Factor of the camera embeddings (SIE_COE; published runs: 1).
        backend: "fused" computes what is read alone: one query in the attention pool, the class
            token in the last block of a ViT. "reference" is the plain path of both.

    Raises:
        ValueError: A choice does not fit.
    """

    def __init__(
        self,
        visual: ViTVisual | ResNetVisual,
        num_identities: int,
        *,
        neck: str = "before",
        cameras: int = 0,
        camera: int | str = "none",
        coefficient: float = 1.0,
        backend: Backend = "fused",
    ) -> None:
        super().__init__()
        require_choice("CLIPReID", "neck", neck, NECKS)
        require(
            cameras == 0 or not visual.convolutional, "CLIPReID", "cameras",
            "be 0 for an image tower without a class token", cameras,
        )  # fmt: skip
        require(
            camera == "none" or (camera == "mean" and cameras > 0)
            or (isinstance(camera, int) and 0 <= camera < cameras),
            "CLIPReID", "camera", f"be one of {cameras} cameras from 0 on, 'mean' or 'none'",
            repr(camera),
        )  # fmt: skip
        self.neck_feature = neck
        self.camera = camera
        self.coefficient = coefficient
        self.backend = backend
        if isinstance(visual, ResNetVisual):
            visual.trunk.attnpool.backend = backend
        self.visual = visual
        self.pooled_neck = BNNeck(visual.feature_width, num_identities)
        self.projected_neck = BNNeck(visual.projected_width, num_identities)
        self.camera_embedding: nn.Parameter | None = None
        if cameras:
            self.camera_embedding = nn.Parameter(torch.zeros(cameras, visual.feature_width))

    @property
    def feature_width(self) -> int:
        """Width of `test_features`."""
        return self.visual.feature_width + self.visual.projected_width

    @torch.no_grad()
    def test_features(
        self, images: Tensor, modality: str, cameras: Tensor | None = None
    ) -> Tensor:
        """Features for retrieval: norm([f, p]), or norm([BN(f), BN(p)]) with neck "after".

        f is the class token, or the mean over the map of a ResNet; p is CLIP's projection.

        Args:
            images: Normalised images. Shape (B, 3, H, W).
            modality: "visible" or "infrared"; both are encoded alike.
            cameras: Camera of each image from 0 on, for a network with SIE; None: what the network
                was built with. Shape (B,), int64.

        Returns:
            Shape (B, feature_width), float32, rows of length 1.

        Raises:
            ValueError: A choice or shape does not fit, or the network has no SIE.
        """
        require_choice("CLIPReID.test_features", "modality", modality, MODALITIES)
        require_shape("CLIPReID", "images", images, ("B", 3, *self.visual.image_size))
        pooled, projected = self._encode(images, self._shift(images, cameras))
        if self.neck_feature == "after":
            pooled, projected = self.pooled_neck.norm(pooled), self.projected_neck.norm(projected)
        return F.normalize(torch.cat((pooled, projected), dim=1).float())

    def _encode(self, images: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        stem_map = self.visual.stem(images)
        if isinstance(self.visual, ResNetVisual):
            out = self.visual.trunk(stem_map)
            return out.pooled, out.projected
        trunk = self.visual.trunk
        if self.backend == "fused":
            pooled, projected = trunk.encode_class(stem_map, shift)
            return pooled, projected
        out = trunk(stem_map, shift)
        return out.pooled, out.projected

    def _shift(self, images: Tensor, cameras: Tensor | None) -> Tensor | None:
        """What is added to the class token of each image. Shape (B, D), or None."""
        rows = self.camera_embedding
        if cameras is not None:
            if rows is None:
                raise ValueError(sentence(
                    "CLIPReID.test_features", "cameras",
                    "be None for a network without camera embeddings", "a tensor"))  # fmt: skip
            require_dtype("CLIPReID.test_features", "cameras", cameras, (torch.int64,))
            require_shape("CLIPReID.test_features", "cameras", cameras, (images.shape[0],))
            return self.coefficient * rows[cameras]
        if rows is None or self.camera == "none":
            return None
        row = rows.mean(0) if self.camera == "mean" else rows[cast(int, self.camera)]
        return (self.coefficient * row).expand(images.shape[0], -1)
