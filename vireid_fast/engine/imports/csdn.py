"""Checkpoints of CSDN's released code (nengdong96/CSDN@4ceb172 `network/model.py`, `core/base.py`).

Saved as `model_<epoch>.pth`, the state dict of a `DataParallel` model. Its features need the image
encoder and the necks; the text side is left out, as it lacks the table of token embeddings.
"""

from torch import nn

from vireid_fast.clip import ResNetVisual
from vireid_fast.clip.resnet import STEM_RELU
from vireid_fast.engine.imports.format import CheckpointFormat
from vireid_fast.engine.imports.settings import (
    IMAGENET,
    ImportOptions,
    NetworkDescription,
    NetworkSettings,
    Shapes,
)
from vireid_fast.engine.model_card import PARTS_NORMALISED, ModelCard, Preprocessing
from vireid_fast.models.csdn_images import CSDNImages
from vireid_fast.ops import Backend

_STEM = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")


class CSDNFormat(CheckpointFormat):
    """See the module."""

    name = "csdn"
    repository = "nengdong96/CSDN"
    marks = ("image_encoder1.0.weight", "image_encoder2.0.weight",
             "image_encoder.0.0.conv1.weight")  # fmt: skip
    names = (
        *((rf"encoder\.visual\.stem\.{part}\.", f"image_encoder1.{index}.")
          for index, part in enumerate(_STEM)),
        *((rf"encoder\.infrared_stem\.{part}\.", f"image_encoder2.{index}.")
          for index, part in enumerate(_STEM)),
        *((rf"encoder\.visual\.trunk\.layer{index + 1}\.", f"image_encoder.{index}.")
          for index in range(4)),
        (r"encoder\.visual\.trunk\.attnpool\.", "attnpool."),
        (r"encoder\.pooling\.exponent$", "classifier.GEM.p"),
        (r"pooled_neck\.norm\.", "classifier.BN."),
        (r"pooled_neck\.classifier\.", "classifier.classifier."),
        (r"projected_neck\.norm\.", "classifier2.BN."),
        (r"projected_neck\.classifier\.", "classifier2.classifier."),
    )  # fmt: skip
    dropped = (
        (r"prompt_learner[12]\.", "learned prompts of both modalities"),
        (r"text_encoder\.", "CLIP's text tower"),
        (r"attention_fusion\.", "fusion of the texts"),
    )

    def describe(self, shapes: Shapes, options: ImportOptions) -> NetworkDescription:
        """See `CheckpointFormat.describe`."""
        width = shapes.of("image_encoder1.4.weight", 4)[0]
        layers = [shapes.count(rf"image_encoder\.{k}\.(\d+)\.") for k in range(4)]
        joint = shapes.of("attnpool.c_proj.weight", 2)[0]
        size, _ = shapes.image_size("attnpool.positional_embedding", 16, (16,), options.size)
        published = width == 64 and layers == [3, 4, 6, 3]
        return NetworkDescription(
            network={"width": width, "layers": layers, "heads": max(32 * width // 64, 1),
                     "joint_width": joint, "layer4_stride": 1, "stem_relu": "csdn"},
            preprocessing=Preprocessing(
                height=size[0], width=size[1], mean=IMAGENET[0], std=IMAGENET[1]
            ),
            processing={"features": "[norm(BN(f)); norm(p)]", "mirror image": "concatenated"},
            normalisation=PARTS_NORMALISED,
            metric="dot",
            architecture="RN50" if published else f"RN {layers}, stem {width}",
            num_identities=shapes.of("classifier.classifier.weight", 2)[0],
            assumed=("stem with one ReLU and stride 1 in layer4, as released",
                     "one head for 64 channels in the attention pool"),
        )  # fmt: skip

    def module(self, card: ModelCard, backend: Backend) -> nn.Module:
        """See `CheckpointFormat.module`."""
        settings = NetworkSettings(card)
        visual = ResNetVisual(
            image_size=(card.preprocessing.height, card.preprocessing.width),
            width=settings.whole("width", 2, 512),
            layers=settings.four("layers", 1, 64),
            heads=settings.whole("heads", 1, 512),
            projected_width=settings.whole("joint_width", 1, 8192),
            layer4_stride=settings.choice("layer4_stride", (1, 2)),
            stem_relu=settings.choice("stem_relu", STEM_RELU),
        )
        return CSDNImages(visual, card.num_identities or 1, backend=backend)
