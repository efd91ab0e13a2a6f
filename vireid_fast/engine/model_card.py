"""Model cards: what a model folder says of its weights, in `card.json`.

A model folder is `model.safetensors` beside `card.json`. A checkpoint of a run is one, whose card
also holds what resuming needs. Nothing in a card is executed, and no value of it is trusted.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vireid_fast._checks import sentence
from vireid_fast._version import __version__
from vireid_fast.config import Config, ConfigError, config_from_dict
from vireid_fast.data.images import INTERPOLATIONS
from vireid_fast.engine.checkpoint import (
    MODEL_FILE,
    Checkpoint,
    CheckpointError,
    save_checkpoint,
)
from vireid_fast.retrieval.protocol import METRICS
from vireid_fast.retrieval.protocols import PROTOCOLS

CARD_FORMAT = 1
"""Raised when a reader of older cards could misread newer ones."""

PARTS_NORMALISED = "L2 of each part"
ROW_NORMALISED = "L2 of the row"
NOT_NORMALISED = "none"

# A card must not make a program allocate what no model has.
_MOST_PIXELS = 4096
_MOST_IDENTITIES = 10_000_000
_WIDEST = 1_000_000
_LARGEST_SETTING = 1024
_LONGEST_TEXT = 20_000


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From an RGB image to the network's input: resize, divide by 255, subtract, divide.

    Attributes:
        height: Pixels.
        width: Pixels.
        mean: Of each channel, subtracted.
        std: Of each channel, divided by.
        interpolation: Filter of the resizing: "lanczos", "bicubic" or "bilinear", as Pillow has it.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "lanczos"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model is, how it is fed, and what its features are.

    Attributes:
        method: "csdn", ..., or the name of an imported network.
        preprocessing: How images become the network's input.
        feature_width: D.
        processing: How features are made, in words by name, as every result prints them.
        normalisation: `PARTS_NORMALISED`, `ROW_NORMALISED` or `NOT_NORMALISED`.
        metric: Distance that the features are meant for: "euclidean", "cosine" or "dot".
        config: Resolved configuration of a run of ours, without the folders of its data.
        network: Settings of an imported network, plain values; one of the two is given.
        architecture: CLIP architecture, or the network's.
        activation: "quick_gelu" or "gelu"; empty where there is none of the two.
        dtype: Of the features.
        num_identities: Training identities; None if unknown.
        data: Data set that it was trained on; empty if unknown.
        split: Numbered split of that set, where it has several.
        protocol: How it was validated; empty if unknown.
        stage: Training stage.
        epoch: Finished epochs of the stage.
        validation: Metrics on validation identities, as fractions.
        source: Where the weights come from.
        licence: Licence of the weights, as far as known.
        sha256: SHA-256 of the files beside the card; filled in when it is written.
        version: Version of the package that wrote it.
    """

    method: str
    preprocessing: Preprocessing
    feature_width: int
    processing: Mapping[str, str] = field(default_factory=dict)
    normalisation: str = NOT_NORMALISED
    metric: str = "euclidean"
    config: Config | None = None
    network: Mapping[str, Any] | None = None
    architecture: str = ""
    activation: str = ""
    dtype: str = "float32"
    num_identities: int | None = None
    data: str = ""
    split: int | None = None
    protocol: str = ""
    stage: str = ""
    epoch: int | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    licence: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    version: str = __version__

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, by which two models are told apart."""
        return self.sha256.get(MODEL_FILE, "")

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `card.json` holds them; what is unknown is left out."""
        values = {"format": CARD_FORMAT, **asdict(self)}
        if self.config is not None:
            values["config"] = self.config.to_dict()
            # Where the data lay is no part of a model, and nobody else's business.
            values["config"]["data"] |= {"root": "", "cache": ""}
        return {name: value for name, value in values.items() if value not in (None, "", {})}


def save_model(folder: Path, card: ModelCard, tensors: Mapping[str, Any]) -> None:
    """Write a model folder, which is visible only when complete.

    Args:
        folder: Target; an existing one of that name is replaced.
        card: The card; `sha256` and `version` are filled in.
        tensors: State dict of the network.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    save_checkpoint(folder, Checkpoint(dict(tensors), card.to_json()))


def card_from_json(values: Mapping[str, Any], file: Path) -> ModelCard:
    """Check the values of a `card.json` one by one.

    Args:
        values: What the file holds.
        file: The file, for errors.

    Raises:
        CheckpointError: A value is missing or of another kind or size; the message names the file
            and the value.
    """
    read = _Reader(values, file)
    newest = read.whole("format", 1, _WIDEST, default=0)
    read.ensure(
        newest > 0, "format", "be there", "a card of an older version",
        "Open the run folder instead, whose config.yaml tells the rest.",
    )  # fmt: skip
    read.ensure(newest <= CARD_FORMAT, "format", f"be at most {CARD_FORMAT}", newest,
                "Update vireid_fast.")  # fmt: skip
    config, network = _config(read), values.get("network")
    read.ensure((config is None) != (network is None), "config or network", "be given",
                "both" if network is not None else "neither")  # fmt: skip
    read.ensure(network is None or isinstance(network, dict), "network", "be an object",
                type(network).__name__)  # fmt: skip
    shown = Preprocessing(
        height=read.within("preprocessing").whole("height", 1, _MOST_PIXELS),
        width=read.within("preprocessing").whole("width", 1, _MOST_PIXELS),
        mean=read.within("preprocessing").triple("mean"),
        std=read.within("preprocessing").triple("std", positive=True),
        interpolation=read.within("preprocessing").choice("interpolation", tuple(INTERPOLATIONS)),
    )
    return ModelCard(
        method=read.text("method", required=True),
        preprocessing=shown,
        feature_width=read.whole("feature_width", 1, _WIDEST),
        processing=read.words("processing"),
        normalisation=read.text("normalisation", required=True),
        metric=read.choice("metric", METRICS),
        config=config,
        network=network,
        architecture=read.text("architecture"),
        activation=read.text("activation"),
        dtype=read.text("dtype", required=True),
        num_identities=read.whole("num_identities", 1, _MOST_IDENTITIES, default=None),
        data=read.text("data"),
        split=read.whole("split", 1, _WIDEST, default=None),
        protocol=read.text("protocol"),
        stage=read.text("stage"),
        epoch=read.whole("epoch", 0, _WIDEST, default=None),
        validation=read.numbers("validation"),
        source=read.text("source"),
        licence=read.text("licence"),
        sha256=read.words("sha256"),
        version=read.text("version"),
    )


def _config(read: "_Reader") -> Config | None:
    """The configuration in a card, with nothing in it that would build a giant."""
    values = read.values.get("config")
    if values is None:
        return None
    read.ensure(isinstance(values, dict), "config", "be an object", type(values).__name__)
    try:
        config = config_from_dict(values)
    except (ConfigError, RecursionError) as error:
        reason = str(error)[:400]
        raise CheckpointError(
            f"checkpoint: {read.file} must hold a valid configuration: {reason}"
        ) from error
    protocol = config.evaluation.protocol
    read.ensure(protocol in PROTOCOLS, "config.evaluation.protocol", f"be one of {list(PROTOCOLS)}",
                _shown(protocol))  # fmt: skip
    sizes = {
        "config.data.height": config.data.height, "config.data.width": config.data.width,
        "config.video.frames": config.video.frames,
        "config.clip.layer4_stride": config.clip.layer4_stride,
    }  # fmt: skip
    sizes |= {f"config.{config.method}.{name}": value
              for name, value in vars(getattr(config, config.method)).items()
              if type(value) is int and name != "steps"}  # fmt: skip
    for name, value in sizes.items():
        most = _MOST_PIXELS if name.startswith("config.data.") else _LARGEST_SETTING
        read.ensure(value <= most, name, f"be at most {most}", value)
    return config


class _Reader:
    """Typed access to the values of a card; every refusal names the file."""

    def __init__(self, values: Mapping[str, Any], file: Path, prefix: str = "") -> None:
        self.values, self.file, self._prefix = values, file, prefix

    def ensure(
        self, condition: bool, name: str, requirement: str, got: object, remedy: str = ""
    ) -> None:
        """Raise CheckpointError unless `condition` holds."""
        if not condition:
            shown = str(got)
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            what = f"checkpoint: {self.file}"
            raise CheckpointError(
                sentence(what, f"{self._prefix}{name}", requirement, shown,
                         remedy or "Write the card anew, or restore it.")
            )  # fmt: skip

    def within(self, name: str) -> "_Reader":
        """The values of an object in the card."""
        inner: Any = self.values.get(name)
        self.ensure(isinstance(inner, dict), name, "be an object", _kind(inner))
        return _Reader(inner, self.file, f"{self._prefix}{name}.")

    def whole(self, name: str, low: int, high: int, *, default: Any = ...) -> Any:
        """A whole number in a range."""
        value = self.values.get(name)
        if value is None and default is not ...:
            return default
        fits = type(value) is int and low <= value <= high
        self.ensure(fits, name, f"be a whole number in {low}..{high}", _shown(value))
        return value

    def text(self, name: str, *, required: bool = False) -> str:
        """Words; empty where they are missing and may be."""
        value = self.values.get(name, None if required else "")
        self.ensure(isinstance(value, str), name, "be text", _shown(value))
        self.ensure(len(value) <= _LONGEST_TEXT, name, f"have at most {_LONGEST_TEXT} characters",
                    len(value))  # fmt: skip
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of some words."""
        value: Any = self.values.get(name)
        self.ensure(value in choices, name, f"be one of {list(choices)}", _shown(value))
        return value

    def triple(self, name: str, *, positive: bool = False) -> tuple[float, float, float]:
        """Three finite numbers."""
        value: Any = self.values.get(name)
        fits = isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))
        fits = fits and (not positive or min(value) > 0)
        kind = "positive numbers" if positive else "finite numbers"
        self.ensure(fits, name, f"be three {kind}", _shown(value))
        return tuple(float(number) for number in value)  # type: ignore[return-value]

    def words(self, name: str) -> dict[str, str]:
        """Text by name."""
        value = self.values.get(name, {})
        fits = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        self.ensure(fits, name, "be an object of text", _shown(value))
        return dict(value)

    def numbers(self, name: str) -> dict[str, float]:
        """Finite numbers by name."""
        value = self.values.get(name, {})
        fits = isinstance(value, dict) and all(map(_is_number, value.values()))
        self.ensure(fits, name, "be an object of finite numbers", _shown(value))
        return dict(value)


def _is_number(value: Any) -> bool:
    if type(value) not in (int, float):
        return False
    return abs(value) < 1e30 and math.isfinite(value)


def _shown(value: object) -> str:
    """A value that may be of any size, short."""
    if isinstance(value, str | float | bool | None):
        return repr(value[:80] if isinstance(value, str) else value)
    if isinstance(value, int) and value.bit_length() <= 128:
        return repr(value)
    return f"a value of type {type(value).__name__}" if not isinstance(value, int) else "a giant"


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__

