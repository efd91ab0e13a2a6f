"""Checkpoints of CLIP-ReID and its baseline (Syliz517/CLIP-ReID@4c0eb20).

Saved as `ViT-B-16_<epoch>.pth` or `RN50_<epoch>.pth`: `model/make_model_clipreid.py` with prompts
and text tower, `model/make_model.py` without. `cv_embed` are the camera or view embeddings of SIE;
a stride of 12 for patches of 16 pixels is OLP.
"""

from typing import Any

from torch import nn

from vireid_fast.clip import ResNetVisual, ViTVisual
from vireid_fast.clip.transformer import ACTIVATIONS
from vireid_fast.engine.imports.format import CheckpointFormat
from vireid_fast.engine.imports.settings import (
    IMAGENET,
    ImportOptions,
    NetworkDescription,
    NetworkSettings,
    Shapes,
)
from vireid_fast.engine.model_card import ROW_NORMALISED, ModelCard, Preprocessing
from vireid_fast.models.agw import NECKS
from vireid_fast.models.clip_reid import CLIPReID
from vireid_fast.ops import Backend

# configs/person/vit_clipreid.yml; the ResNets have ImageNet's (cnn_clipreid.yml).
_VIT_NORMALISATION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_MOST_CAMERAS = 100_000


class CLIPReIDFormat(CheckpointFormat):
    """See the module."""

    name = "clip-reid"
    repository = "Syliz517/CLIP-ReID"
    marks = ("image_encoder.conv1.weight", "bottleneck.weight", "bottleneck_proj.weight")
    names = (
        (r"visual\.(stem|trunk)\.", "image_encoder."),
        (r"pooled_neck\.norm\.", "bottleneck."),
        (r"pooled_neck\.classifier\.", "classifier."),
        (r"projected_neck\.norm\.", "bottleneck_proj."),
        (r"projected_neck\.classifier\.", "classifier_proj."),
        (r"camera_embedding$", "cv_embed"),
    )
    dropped = (
        (r"prompt_learner\.", "learned prompts"),
        (r"text_encoder\.", "CLIP's text tower"),
    )

    def describe(self, shapes: Shapes, options: ImportOptions) -> NetworkDescription:
        """See `CheckpointFormat.describe`."""
        vit = "image_encoder.class_embedding" in shapes.tensors
        network, size, architecture = (_vit if vit else _resnet)(shapes, options)
        network["neck"] = neck = options.neck or "before"
        parts = "f; p" if neck == "before" else "BN(f); BN(p)"
        words = {"features": f"norm([{parts}])", "mirror image": "not used"}
        if network.get("cameras"):
            words["camera embedding"] = str(network["camera"])
        mean, std = _VIT_NORMALISATION if vit else IMAGENET
        return NetworkDescription(
            network=network,
            preprocessing=Preprocessing(
                height=size[0], width=size[1], mean=mean, std=std, interpolation="bilinear"
            ),
            processing=words,
            normalisation=ROW_NORMALISED,
            metric="euclidean",
            architecture=architecture,
            activation="quick_gelu" if vit else "",
            num_identities=shapes.of("classifier.weight", 2)[0],
            assumed=(
                "images resized bilinearly",
                f"features {neck} batch normalisation",
                "one head for 64 channels",
            ),
        )

    def module(self, card: ModelCard, backend: Backend) -> nn.Module:
        """See `CheckpointFormat.module`."""
        settings = NetworkSettings(card)
        size = (card.preprocessing.height, card.preprocessing.width)
        identities, neck = card.num_identities or 1, settings.choice("neck", NECKS)
        if settings.choice("family", ("vit", "resnet")) == "resnet":
            tower = ResNetVisual(
                image_size=size,
                width=settings.whole("width", 2, 512),
                layers=settings.four("layers", 1, 64),
                heads=settings.whole("heads", 1, 512),
                projected_width=settings.whole("joint_width", 1, 8192),
                layer4_stride=1,
            )
            return CLIPReID(tower, identities, neck=neck, backend=backend)
        patch = settings.whole("patch", 1, 64)
        visual = ViTVisual(
            image_size=size,
            patch_size=patch,
            stride=settings.whole("stride", 1, patch),
            width=settings.whole("width", 1, 4096),
            layers=settings.whole("layers", 1, 128),
            heads=settings.whole("heads", 1, 512),
            projected_width=settings.whole("joint_width", 1, 8192),
            activation=settings.choice("activation", tuple(ACTIVATIONS)),
        )
        cameras = settings.whole("cameras", 0, _MOST_CAMERAS)
        return CLIPReID(
            visual, identities, neck=neck, cameras=cameras,
            camera=settings.choice("camera", ("none", "mean", *range(cameras))),
            coefficient=settings.number("coefficient"), backend=backend,
        )  # fmt: skip


def _vit(shapes: Shapes, options: ImportOptions) -> tuple[dict[str, Any], tuple[int, int], str]:
    """Settings, image size and name of a ViT."""
    width, _, patch, _ = shapes.of("image_encoder.conv1.weight", 4)
    layers = shapes.count(r"image_encoder\.transformer\.resblocks\.(\d+)\.")
    strides = (patch, patch * 3 // 4) if patch >= 4 else (patch,)
    size, stride = shapes.image_size(
        "image_encoder.positional_embedding", patch, strides, options.size
    )
    cameras, camera = 0, options.camera
    if "cv_embed" in shapes.tensors:
        cameras = shapes.of("cv_embed", 2)[0]
        fits = camera in ("none", "mean") or (type(camera) is int and 0 <= camera < cameras)
        if not fits:
            shapes.refuse(
                "cv_embed", "come with a choice of what stands for the camera, which is not known "
                "of other images", f"{cameras} camera embeddings and --camera {camera}",
                f"Give --camera mean, --camera none, or one of 0..{cameras - 1}.",
            )  # fmt: skip
    elif camera is not None:
        shapes.refuse("cv_embed", "be in the checkpoint for --camera", "no such tensor",
                      "Leave --camera out.")  # fmt: skip
    network = {
        "family": "vit", "patch": patch, "stride": stride, "width": width, "layers": layers,
        "heads": max(width // 64, 1), "joint_width": shapes.of("image_encoder.proj", 2)[1],
        "activation": "quick_gelu", "cameras": cameras,
        "camera": "none" if camera is None else camera, "coefficient": options.coefficient,
    }  # fmt: skip
    published = (width, layers, patch) == (768, 12, 16)
    name = "ViT-B/16" if published else f"ViT {layers} x {width}, patch {patch}"
    return network, size, name if stride == patch else f"{name}, stride {stride}"


def _resnet(shapes: Shapes, options: ImportOptions) -> tuple[dict[str, Any], tuple[int, int], str]:
    """Settings, image size and name of a ResNet."""
    width = shapes.of("image_encoder.conv3.weight", 4)[0]
    layers = [shapes.count(rf"image_encoder\.layer{k}\.(\d+)\.") for k in range(1, 5)]
    size, _ = shapes.image_size(
        "image_encoder.attnpool.positional_embedding", 16, (16,), options.size
    )
    if options.camera is not None:
        shapes.refuse("cv_embed", "be in the checkpoint for --camera", "a ResNet, which has none",
                      "Leave --camera out.")  # fmt: skip
    network = {
        "family": "resnet", "width": width, "layers": layers, "heads": max(32 * width // 64, 1),
        "joint_width": shapes.of("image_encoder.attnpool.c_proj.weight", 2)[0],
    }  # fmt: skip
    published = width == 64 and layers == [3, 4, 6, 3]
    return network, size, "RN50" if published else f"RN {layers}, stem {width}"
