"""CLIP architectures as data."""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, Literal

from vireid_fast._checks import require, require_choice
from vireid_fast.clip.transformer import ACTIVATIONS

CLIP_VOCABULARY_SIZE = 49408


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All sizes of one CLIP model; every field can be overridden by `build_clip`.

    Attributes:
        family: "vit" or "resnet".
        image_size: (H, W) in pixels.
        joint_width: Width d of the space shared by images and texts.
        visual_width: Token width of a ViT, stem width of a ResNet (its map has 32 times as many
            channels).
        visual_layers: Blocks of a ViT, or the bottlenecks of the four layers of a ResNet.
        visual_heads: Heads of a ViT or of the attention pool; None: one per 64 channels.
        patch_size: Side of a ViT's patches in pixels; None for a ResNet.
        layer4_stride: 2 as in CLIP, or 1 for a finer map; ResNet only.
        stem_relu: "clip", or "csdn" for the released CSDN stem; ResNet only.
        text_width: Token width of the text tower.
        text_layers: Blocks of the text tower.
        text_heads: Heads of the text tower.
        context_length: Longest text in tokens.
        vocabulary_size: Number of tokens; None: the caller has to say.
        activation: "quick_gelu" or "gelu", in both transformers.
    """

    family: Literal["vit", "resnet"]
    image_size: tuple[int, int] = (224, 224)
    joint_width: int
    visual_width: int
    visual_layers: int | tuple[int, int, int, int]
    visual_heads: int | None = None
    patch_size: int | None = None
    layer4_stride: int = 2
    stem_relu: str = "clip"
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    context_length: int = 77
    vocabulary_size: int | None = CLIP_VOCABULARY_SIZE
    activation: str = "quick_gelu"


_SMALL_TEXT: dict[str, Any] = {
    "image_size": (128, 64),
    "joint_width": 256,
    "text_width": 128,
    "text_layers": 3,
    "text_heads": 4,
    "vocabulary_size": None,
}

# Published sizes: openai/CLIP@d05afc4. The small pair is ours and is meant for a CPU.
ARCHITECTURES: dict[str, Architecture] = {
    "ViT-B/16": Architecture(
        family="vit", joint_width=512, visual_width=768, visual_layers=12, patch_size=16
    ),
    "ViT-B/32": Architecture(
        family="vit", joint_width=512, visual_width=768, visual_layers=12, patch_size=32
    ),
    "ViT-L/14": Architecture(
        family="vit", joint_width=768, visual_width=1024, visual_layers=24, patch_size=14,
        text_width=768, text_heads=12,
    ),
    "RN50": Architecture(
        family="resnet", joint_width=1024, visual_width=64, visual_layers=(3, 4, 6, 3)
    ),
    "ViT-small": Architecture(
        family="vit", visual_width=192, visual_layers=4, patch_size=16, **_SMALL_TEXT
    ),
    "RN-small": Architecture(
        family="resnet", visual_width=16, visual_layers=(1, 1, 1, 1), **_SMALL_TEXT
    ),
}  # fmt: skip


def architecture(name: str, **overrides: Any) -> Architecture:
    """The sizes called `name`, with `overrides` applied and everything checked.

    Args:
        name: A key of `ARCHITECTURES`.
        overrides: Fields of `Architecture`. A None for `vocabulary_size` or `image_size` keeps the
            default.

    Returns:
        The checked sizes; `visual_heads` and `vocabulary_size` are filled in.

    Raises:
        ValueError: The name, a field or a value does not fit; an unknown field names the nearest.
    """
    require_choice("build_clip", "name", name, ARCHITECTURES)
    fields = [field.name for field in dataclasses.fields(Architecture) if field.name != "family"]
    for key in overrides:
        nearest = difflib.get_close_matches(key, fields, n=1)
        require(
            key in fields, "build_clip", "every override", f"be one of {fields}", repr(key),
            f"Did you mean {nearest[0]!r}?" if nearest else "",
        )  # fmt: skip
    keep = ("vocabulary_size", "image_size")
    given = {k: v for k, v in overrides.items() if not (k in keep and v is None)}
    for key in ("image_size", "visual_layers"):
        if isinstance(given.get(key), list):
            given[key] = tuple(given[key])
    sizes = dataclasses.replace(ARCHITECTURES[name], **given)
    _validate(name, sizes)
    channels = sizes.visual_width * (32 if sizes.family == "resnet" else 1)
    heads = sizes.visual_heads or max(channels // 64, 1)
    return dataclasses.replace(sizes, visual_heads=heads)


def _validate(name: str, sizes: Architecture) -> None:
    """Raise ValueError where fields do not fit each other; the towers check their own sizes."""
    require(
        sizes.vocabulary_size is not None, "build_clip", "vocabulary_size",
        f"be given for {name}", None, "Pass vocabulary_size=len(vocabulary).",
    )  # fmt: skip
    require_choice("build_clip", "activation", sizes.activation, ACTIVATIONS)
    numbers = {
        "joint_width": sizes.joint_width,
        "visual_width": sizes.visual_width,
        "text_width": sizes.text_width,
        "text_layers": sizes.text_layers,
        "context_length": sizes.context_length,
        "vocabulary_size": sizes.vocabulary_size,
    }
    for field, value in numbers.items():
        require(
            isinstance(value, int) and value > 0,
            "build_clip", field, "be a positive integer", repr(value),
        )  # fmt: skip
    require(
        isinstance(sizes.image_size, tuple) and len(sizes.image_size) == 2,
        "build_clip", "image_size", "be (height, width)", sizes.image_size,
    )  # fmt: skip
    foreign: dict[str, tuple[object, object]]
    if sizes.family == "vit":
        foreign = {
            "layer4_stride": (sizes.layer4_stride, 2),
            "stem_relu": (sizes.stem_relu, "clip"),
        }
        layers_fit = isinstance(sizes.visual_layers, int) and sizes.visual_layers > 0
        layers_want = "be a positive integer"
    else:
        foreign = {"patch_size": (sizes.patch_size, None)}
        layers_fit = isinstance(sizes.visual_layers, tuple) and len(sizes.visual_layers) == 4
        layers_want = "be four positive numbers"
    for field, (given, default) in foreign.items():
        require(given == default, "build_clip", field, f"stay {default!r} for {name}", repr(given))
    require(layers_fit, "build_clip", "visual_layers", layers_want, sizes.visual_layers)
