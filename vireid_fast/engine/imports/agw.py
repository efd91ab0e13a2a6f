"""Checkpoints of AGW and its baseline (mangye16/Cross-Modal-Re-ID-baseline@342eddc `train.py`).

Saved as `.t`, a dictionary with the state dict under `net` beside scores. The network holds three
whole ResNets, of which it runs two stems and one trunk; what it never runs is left out.
"""

from torch import nn

from vireid_fast.engine.imports.format import CheckpointFormat
from vireid_fast.engine.imports.settings import (
    IMAGENET,
    ImportOptions,
    NetworkDescription,
    NetworkSettings,
    Shapes,
)
from vireid_fast.engine.model_card import ROW_NORMALISED, ModelCard, Preprocessing
from vireid_fast.models.agw import AGW, NECKS, POOLINGS
from vireid_fast.ops import Backend

_SIZE = (288, 144)


class AGWFormat(CheckpointFormat):
    """See the module."""

    name = "agw"
    repository = "mangye16/Cross-Modal-Re-ID-baseline"
    marks = ("visible_module.visible.conv1.weight", "thermal_module.thermal.conv1.weight",
             "base_resnet.base.layer1.0.conv1.weight")  # fmt: skip
    names = (
        (r"visible_stem\.", "visible_module.visible."),
        (r"infrared_stem\.", "thermal_module.thermal."),
        (r"layers\.0\.blocks\.", "base_resnet.base.layer1."),
        (r"layers\.1\.blocks\.", "base_resnet.base.layer2."),
        (r"layers\.2\.blocks\.", "base_resnet.base.layer3."),
        (r"layers\.3\.blocks\.", "base_resnet.base.layer4."),
        (r"layers\.0\.non_local\.", "NL_1."),
        (r"layers\.1\.non_local\.", "NL_2."),
        (r"layers\.2\.non_local\.", "NL_3."),
        (r"layers\.3\.non_local\.", "NL_4."),
        (r"neck\.norm\.", "bottleneck."),
        (r"neck\.classifier\.", "classifier."),
    )
    inner_names = (
        (r"^(NL_\d\.\d+)\.value\.", r"\1.g.0."),
        (r"^(NL_\d\.\d+)\.out\.", r"\1.W.0."),
        (r"^(NL_\d\.\d+)\.norm\.", r"\1.W.1."),
    )
    dropped = (
        (r"visible_module\.visible\.layer\d\.", "layers of the visible ResNet, never run"),
        (r"thermal_module\.thermal\.layer\d\.", "layers of the infrared ResNet, never run"),
        (r"base_resnet\.base\.(conv1|bn1)\.", "stem of the shared ResNet, never run"),
    )

    def describe(self, shapes: Shapes, options: ImportOptions) -> NetworkDescription:
        """See `CheckpointFormat.describe`."""
        width = shapes.of("visible_module.visible.conv1.weight", 4)[0]
        layers = [shapes.count(rf"base_resnet\.base\.layer{k}\.(\d+)\.") for k in range(1, 5)]
        non_local = [shapes.count(rf"NL_{k}\.(\d+)\.") for k in range(1, 5)]
        pooling = options.pooling or ("gem" if any(non_local) else "average")
        neck = options.neck or "after"
        size = options.size or _SIZE
        published = width == 64 and layers == [3, 4, 6, 3]
        return NetworkDescription(
            network={"width": width, "layers": layers, "non_local": non_local, "pooling": pooling,
                     "neck": neck},
            preprocessing=Preprocessing(
                height=size[0], width=size[1], mean=IMAGENET[0], std=IMAGENET[1]
            ),
            processing={"features": "norm(BN(f))" if neck == "after" else "norm(f)",
                        "mirror image": "not used"},
            normalisation=ROW_NORMALISED,
            metric="dot",
            architecture="ResNet-50" if published else f"ResNet {layers}, stem {width}",
            num_identities=shapes.of("classifier.weight", 2)[0],
            assumed=(
                f"images of {size[0]} x {size[1]}",
                f"{'generalised-mean' if pooling == 'gem' else 'average'} pooling",
                f"features {neck} batch normalisation",
            ),
        )  # fmt: skip

    def module(self, card: ModelCard, backend: Backend) -> nn.Module:
        """See `CheckpointFormat.module`; there is one backend."""
        settings = NetworkSettings(card)
        return AGW(
            card.num_identities or 1,
            layers=settings.four("layers", 1, 64),
            width=settings.whole("width", 1, 512),
            non_local=settings.four("non_local", 0, 64),
            pooling=settings.choice("pooling", POOLINGS),
            neck=settings.choice("neck", NECKS),
        )
