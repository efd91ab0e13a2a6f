"""What an imported network is built from: read from the shapes of a checkpoint, or from a card."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from vireid_fast._checks import sentence
from vireid_fast.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vireid_fast.engine.checkpoint import CARD_FILE, CheckpointError
from vireid_fast.engine.model_card import ModelCard, Preprocessing

IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
# No published network has a tenth of that; a card must not fill the memory.
_MOST_PARAMETERS = 1_000_000_000
# Sizes (H, W) that published re-identification networks are trained with.
_KNOWN_SIZES = (
    (256, 128), (288, 144), (384, 128), (384, 192), (384, 144), (256, 256), (224, 224), (128, 64),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the shapes of a checkpoint do not tell.

    Attributes:
        size: Height and width of the images in pixels; None: read from the position embeddings, or
            as published.
        neck: Features "before" or "after" batch normalisation; None: as published.
        pooling: AGW: "gem" or "average"; None: "gem" for a network with non-local blocks.
        camera: CLIP-ReID with SIE: a camera from 0 on, "mean" or "none" for images whose camera is
            not told; None: there is no such network.
        coefficient: CLIP-ReID with SIE: its factor (SIE_COE).
        drop_unknown: Leave out tensors that the format does not know, instead of refusing them.
        data: Data set that it was trained on, for the card.
        source: Where the checkpoint comes from, for the card.
        licence: Licence of the weights, for the card.
    """

    size: tuple[int, int] | None = None
    neck: str | None = None
    pooling: str | None = None
    camera: int | str | None = None
    coefficient: float = 1.0
    drop_unknown: bool = False
    data: str = ""
    source: str = ""
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class NetworkDescription:
    """What a format reads from a checkpoint; the rest of the card is the same for all.

    Attributes:
        network: Settings, plain values.
        preprocessing: How images are fed.
        processing: How features are made, in words.
        normalisation: See `ModelCard`.
        metric: See `ModelCard`.
        architecture: Name.
        activation: "quick_gelu", or empty where there is none.
        num_identities: Rows of the classifier.
        assumed: What no shape tells, in words.
    """

    network: dict[str, Any]
    preprocessing: Preprocessing
    processing: dict[str, str]
    normalisation: str
    metric: str
    architecture: str
    num_identities: int
    activation: str = ""
    assumed: tuple[str, ...] = field(default=())


class Shapes:
    """Shapes of the tensors of a checkpoint; what is missing or strange is named.

    Args:
        path: The file, for errors.
        tensors: Its state dict.
        format: Name of the format, for errors.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], format: str) -> None:
        self.path, self.tensors, self.format = path, tensors, format

    def of(self, name: str, rank: int) -> tuple[int, ...]:
        """Shape of a tensor of so many axes, none of them empty."""
        tensor = self.tensors.get(name)
        if tensor is None:
            self.refuse(name, "be in the checkpoint", "no such tensor")
        shape = tuple(tensor.shape)
        if len(shape) != rank or min(shape, default=1) < 1:
            self.refuse(name, f"have {rank} axes, none of them empty", shape)
        return shape

    def count(self, pattern: str) -> int:
        """Number of consecutive indices from 0 that the group of a pattern takes in the names."""
        compiled = re.compile(pattern)
        found = {int(match[1]) for name in self.tensors if (match := compiled.match(name))}
        if found != set(range(len(found))):
            self.refuse(pattern, "be numbered from 0 without a gap", sorted(found)[:10])
        return len(found)

    def refuse(self, name: str, requirement: str, got: object, remedy: str = "") -> NoReturn:
        """Raise CheckpointError that names the file."""
        raise CheckpointError(
            sentence(f"convert: {self.path}", name, requirement, got,
                     remedy or f"Is it a checkpoint of {self.format}?")
        )  # fmt: skip

    def image_size(
        self, name: str, patch: int, strides: tuple[int, ...], given: tuple[int, int] | None
    ) -> tuple[tuple[int, int], int]:
        """Size of the images whose patches have so many position embeddings, and the stride.

        Args:
            name: Position embeddings, one row more than patches.
            patch: Side of a patch in pixels.
            strides: Steps between patches that the format knows.
            given: What the caller says; None: a published size, or one twice as high as wide.
        """
        places = self.of(name, 2)[0] - 1
        sizes = [given] if given else list(_KNOWN_SIZES)
        if given is None:
            side = int((places / 2) ** 0.5)
            sizes.append((2 * side * patch, side * patch))
        found = {
            (size, stride): None for size in sizes for stride in strides
            if min(size) >= patch
            and _grid(size, patch, stride)[0] * _grid(size, patch, stride)[1] == places
        }  # fmt: skip
        if len({_grid(size, patch, stride) for size, stride in found}) != 1:
            tried = " or ".join(f"{height},{width}" for height, width in sizes)
            self.refuse(name, "have the rows of an image size that is known or given",
                        f"{places} places, which is not {tried} at stride "
                        f"{' or '.join(map(str, strides))}",
                        "Give the size of the images, --size HEIGHT,WIDTH.")  # fmt: skip
        return next(iter(found))


def _grid(size: tuple[int, int], patch: int, stride: int) -> tuple[int, int]:
    return (size[0] - patch) // stride + 1, (size[1] - patch) // stride + 1


class NetworkSettings:
    """Typed access to `ModelCard.network`; no value of it is trusted."""

    def __init__(self, card: ModelCard) -> None:
        self._values: Mapping[str, Any] = card.network or {}

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number in a range."""
        value = self._values.get(name)
        if type(value) is not int or not low <= value <= high:
            self._refuse(name, f"be a whole number in {low}..{high}", value)
        return value

    def number(self, name: str) -> float:
        """A finite number of ordinary size."""
        value: Any = self._values.get(name)
        if type(value) not in (int, float) or not -1e6 < value < 1e6:
            self._refuse(name, "be a number", value)
        return float(value)

    def four(self, name: str, low: int, high: int) -> tuple[int, int, int, int]:
        """Four whole numbers in a range."""
        value: Any = self._values.get(name)
        fits = isinstance(value, list | tuple) and len(value) == 4 and all(
            type(part) is int and low <= part <= high for part in value
        )  # fmt: skip
        if not fits:
            self._refuse(name, f"be four whole numbers in {low}..{high}", value)
        first, second, third, fourth = value
        return first, second, third, fourth

    def choice(self, name: str, choices: tuple[Any, ...]) -> Any:
        """One of some values."""
        value = self._values.get(name)
        if type(value) not in (int, str) or value not in choices:
            self._refuse(name, f"be one of {list(choices)[:10]}", value)
        return value

    def _refuse(self, name: str, requirement: str, value: object) -> NoReturn:
        shown = repr(value) if isinstance(value, int | float | str | None) else type(value).__name__
        raise CheckpointError(
            sentence(f"checkpoint: {CARD_FILE}", f"network.{name}", requirement, shown[:80],
                     "Restore the card, or convert the checkpoint again.")
        )  # fmt: skip


def require_buildable(module: nn.Module) -> None:
    """Refuse a network, built on the meta device, that no card of ours describes."""
    count = sum(parameter.numel() for parameter in module.parameters())
    if count > _MOST_PARAMETERS:
        raise CheckpointError(
            sentence(f"checkpoint: {CARD_FILE}", "network", "have at most "
                     f"{_MOST_PARAMETERS:,} parameters", f"{count:,}", "Restore the card.")
        )  # fmt: skip


def meta() -> torch.device:
    """The device on which modules have shapes and no values."""
    return torch.device("meta")
