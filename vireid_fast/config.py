"""Configuration: frozen dataclasses, YAML files, overrides. The only reader of configurations.

Unknown keys, wrong types and values out of range are refused with the full key in the message.
"""

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vireid_fast._checks import sentence
from vireid_fast._files import atomic_write


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


def _check(condition: bool, key: str, requirement: str, got: object, remedy: str = "") -> None:
    if not condition:
        raise ConfigError(sentence("config", key, requirement, got, remedy))


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they enter."""

    name: str = "sysu_mm01"
    """Data set reader."""
    root: str = ""
    """Folder of the data set."""
    cache: str = ""
    """Folder of the resized training images; empty: `.vireid_cache` inside `root`."""
    height: int = 288
    width: int = 144
    train_split: str = "train"
    """"train" leaves the validation identities for choosing the epoch; "train+val" trains on
    both, as published, and keeps the last epoch."""
    skip_bad_images: bool = False

    def __post_init__(self) -> None:
        _check(self.height > 0 and self.width > 0, "data.height, data.width", "be positive",
               (self.height, self.width))  # fmt: skip
        _check(self.train_split in ("train", "train+val"), "data.train_split",
               'be "train" or "train+val"', repr(self.train_split))  # fmt: skip


@dataclass(frozen=True)
class AugmentConfig:
    """Random views of training images; the defaults are CSDN's."""

    pad: int = 10
    flip: float = 0.5
    erase: float = 0.5
    scale_min: float = 1.0
    """Smallest and largest relative crop size; 1 and 1 crop without scaling."""
    scale_max: float = 1.0
    jitter: float = 0.0
    """Strength of random brightness and contrast."""
    gamma: float = 0.0
    """Strength of random gamma."""
    grey: float = 0.0
    """Probability that the plain visible view becomes grey."""
    invert: float = 0.0
    """Probability of an inverted image, in every view."""
    per_image: bool = False
    """Normalise each image by its own mean and deviation instead of ImageNet's, in tests too."""
    exchange_grey: int = 2
    """ChannelExchange's parameter; with the published 2 its grey branch is unreachable, 3 opens
    it."""


@dataclass(frozen=True)
class ClipConfig:
    """The CLIP model."""

    architecture: str = "RN50"
    weights: str = ""
    """Weight file; empty: random weights."""
    trust: bool = False
    """Allow a TorchScript archive, which can run code when opened."""
    activation: str = ""
    """Activation of the weights ("quick_gelu" or "gelu") where the file does not say."""
    layer4_stride: int = 1
    stem_relu: str = "clip"
    """"clip" keeps CLIP's ReLU after each stem convolution; "csdn" has one at the end, as the
    released code."""

    def __post_init__(self) -> None:
        _check(self.layer4_stride in (1, 2), "clip.layer4_stride", "be 1 or 2", self.layer4_stride)
        _check(self.stem_relu in ("clip", "csdn"), "clip.stem_relu", 'be "clip" or "csdn"',
               repr(self.stem_relu))  # fmt: skip


@dataclass(frozen=True)
class SamplerConfig:
    """Identities per batch and images per identity and modality."""

    identities: int = 8
    instances: int = 4
    replacement: bool = True
    """Draw an identity's images with replacement, as published."""

    def __post_init__(self) -> None:
        _check(self.identities > 0 and self.instances > 0, "sampler.identities, sampler.instances",
               "be positive", (self.identities, self.instances))  # fmt: skip


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser and learning-rate schedule of one stage."""

    epochs: int = 60
    batch_size: int = 32
    """Rows per step where the stage works on stored features."""
    kind: str = "adam"
    lr: float = 3e-4
    head_lr_factor: float = 1.0
    """Learning-rate factor of necks and pooling exponent."""
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    """"cosine" or "steps"."""
    warmup_epochs: float = 5.0
    warmup_lr: float = 1e-5
    min_lr: float = 1e-6
    milestones: tuple[float, ...] = ()
    """Epochs at which "steps" multiplies by 0.1."""
    per_step: bool = False
    """Move the schedule every step; published codes move it every epoch."""

    def __post_init__(self) -> None:
        _check(self.kind in ("adam", "adamw"), "optimizer kind", 'be "adam" or "adamw"',
               repr(self.kind))  # fmt: skip
        _check(self.schedule in ("cosine", "steps"), "optimizer schedule",
               'be "cosine" or "steps"', repr(self.schedule))  # fmt: skip
        _check(self.epochs >= 0, "optimizer epochs", "be 0 or more", self.epochs)
        _check(self.lr > 0, "optimizer lr", "be positive", self.lr)
        _check(self.batch_size > 0, "optimizer batch_size", "be positive", self.batch_size)


@dataclass(frozen=True)
class EvaluationConfig:
    """Protocol of validation and test."""

    protocol: str = "sysu/agw"
    mode: str = "all"
    shots: int = 1
    every: int = 1
    """Validate every so many epochs of the visual stage; the last epoch is always validated."""
    batch_size: int = 64
    rerank: tuple[float, ...] = ()
    """k1, k2, lambda of an additional re-ranked result; empty: none."""

    def __post_init__(self) -> None:
        whole = all(value == int(value) for value in self.rerank[:2])
        _check(len(self.rerank) in (0, 3) and whole, "evaluation.rerank",
               "be empty or [k1, k2, lambda] with whole k1 and k2", list(self.rerank))  # fmt: skip
        _check(self.every > 0, "evaluation.every", "be positive", self.every)
        _check(self.batch_size > 0, "evaluation.batch_size", "be positive", self.batch_size)

    @property
    def rerank_parameters(self) -> tuple[int, int, float] | None:
        """(k1, k2, lambda), or None without re-ranking."""
        if not self.rerank:
            return None
        k1, k2, weight = self.rerank
        return int(k1), int(k2), weight


@dataclass(frozen=True)
class CSDNLossConfig:
    """Weights of CSDN's stage 3; the defaults are published."""

    identity: float = 1.0
    label_smoothing: float = 0.0
    msel: float = 1.0
    msel_normalized: bool = False
    """Compute MSEL on L2-normalised features; published: as they are."""
    wrt: float = 0.15
    wrt_parity: bool = True
    """Weights as the published code computes them; False: the formula."""
    visible_text: float = 0.05
    infrared_text: float = 0.1
    contrast: float = 0.0
    """Additional cross-modal contrast on both features; ours, off in the published setting."""


@dataclass(frozen=True)
class CSDNConfig:
    """CSDN's own settings; the defaults are the released code's unless a comment says ours."""

    visible_template: str = "person"
    infrared_template: str = "person"
    context_length: int = 4
    integration: str = "residual"
    dropout: float = 0.1
    text_temperature: float = 0.0
    """0: image-text scores are dot products as they are, as published. Otherwise cosines divided
    by it, in all stages; ours, for encoders without CLIP's feature norms."""
    bank_dropout: bool = False
    """Build the frozen text bank with dropout on, as the released code does; ours is off."""
    extract_with_batch_statistics: bool = False
    """Extract stage-2 features with BatchNorm in training mode, as released; ours is off."""
    text_terms: bool = True
    """False trains the visual losses alone: no prompts, no image-to-text terms."""
    prompts: OptimizerConfig = field(default_factory=OptimizerConfig)
    fusion: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(batch_size=64))
    visual: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            epochs=120, head_lr_factor=2.0, weight_decay=5e-4, schedule="steps",
            warmup_epochs=10, warmup_lr=3e-6, milestones=(40, 70),
        )
    )  # fmt: skip
    loss: CSDNLossConfig = field(default_factory=CSDNLossConfig)


@dataclass(frozen=True)
class PretrainConfig:
    """Contrastive image-text pre-training of a small CLIP; ours. See docs/csdn.md."""

    synthetic_root: str = ""
    """Folder of the captioned synthetic set; made where absent. Empty: inside the run folder."""
    identities: int = 400
    """Identities of the synthetic set."""
    views: int = 2
    """Images per identity and camera of the synthetic set."""
    epochs: int = 4
    steps: int = 50
    """Steps per epoch."""
    captioned_per_batch: int = 16
    """Synthetic identities per step, each with one visible and one infrared image."""
    paired_per_batch: int = 32
    """Training identities per step, each with one visible and one infrared image."""
    lr: float = 2e-3
    weight_decay: float = 0.05
    temperature: float = 0.07
    caption_weight: float = 1.0
    """Weight of the image-caption contrast on synthetic pedestrians."""
    pair_weight: float = 1.0
    """Weight of the visible-infrared contrast on the training images."""
    identity_weight: float = 1.0
    """Weight of the identity cross-entropy on the training images."""

    def __post_init__(self) -> None:
        for name in ("identities", "views", "epochs", "steps", "captioned_per_batch",
                     "paired_per_batch", "lr", "temperature"):  # fmt: skip
            value = getattr(self, name)
            _check(value > 0, f"pretrain.{name}", "be positive", value)


METHODS: dict[str, tuple[str, type]] = {"csdn": ("csdn", CSDNConfig)}
"""Method name -> (its section's key, its dataclass)."""


@dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    method: str = "csdn"
    seed: int = 1
    device: str = "cpu"
    threads: int = 0
    """CPU threads; 0 leaves torch's choice. Bitwise resume needs the same number."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    csdn: CSDNConfig = field(default_factory=CSDNConfig)

    def __post_init__(self) -> None:
        _check(self.method in METHODS, "method", f"be one of {sorted(METHODS)}", repr(self.method))
        _check(self.seed >= 0, "seed", "be 0 or more", self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as YAML holds them."""
        return _plain(dataclasses.asdict(self))

    def save(self, path: Path) -> None:
        """Write the resolved configuration as YAML, atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def presets() -> list[str]:
    """Names of the configurations that ship with the package, such as "csdn/sysu_mm01"."""
    root = resources.files("vireid_fast.configs")
    return sorted(
        f"{folder.name}/{file.name.removesuffix('.yaml')}"
        for folder in root.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    )


def _read(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.is_file():
        return path.read_text(encoding="utf-8"), str(path)
    if str(source) in presets():
        folder, name = str(source).split("/")
        file = resources.files("vireid_fast.configs") / folder / f"{name}.yaml"
        return file.read_text(encoding="utf-8"), str(source)
    close = difflib.get_close_matches(str(source), presets(), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        sentence("config", "file", f"exist or be one of {presets()}", repr(str(source))) + hint
    )


def load_config(source: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a configuration and apply overrides.

    Args:
        source: A YAML file, or the name of a preset such as "csdn/scene_regions".
        overrides: Strings "section.key=value"; values are read as YAML.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: Unknown key (with the nearest one), wrong type, value out of range, or a file
            that is absent or no YAML mapping.
    """
    text, name = _read(source)
    try:
        values = yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"config: {name} must be YAML, got {error}.") from error
    _check(isinstance(values, dict), name, "hold a mapping of keys", type(values).__name__)
    for override in overrides:
        _apply(values, override)
    return _build(Config, values, "")


def config_from_dict(values: dict[str, Any]) -> Config:
    """Build a configuration from nested plain values, with the checks of `load_config`."""
    return _build(Config, values, "")


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    _check(bool(separator) and bool(key), "override", "look like section.key=value", repr(override))
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        _check(isinstance(values, dict), key, "name a section before the dot", repr(override))
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"config: {key} must be a YAML value, got {text!r}.") from error


def _build(owner: type, values: dict[Any, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(owner)
    for key in values:
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.0)
            raise ConfigError(
                f"config: unknown key {prefix}{key}. The nearest key is {prefix}{close[0]}."
            )
    arguments = {k: _convert(hints[k], v, f"{prefix}{k}") for k, v in values.items()}
    return owner(**arguments)


def _convert(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        _check(isinstance(value, dict), key, "be a section of keys", repr(value))
        return _build(typing.cast(type, hint), value, f"{key}.")
    if typing.get_origin(hint) is tuple:
        _check(isinstance(value, list | tuple), key, "be a list", repr(value))
        return tuple(_convert(typing.get_args(hint)[0], v, key) for v in value)
    return _scalar(hint, value, key)


def _scalar(hint: type, value: Any, key: str) -> Any:
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text; it is a number for everyone else.
        try:
            value = float(value)
        except ValueError:
            _check(False, key, "be a number", repr(value))
    if hint is float and type(value) is int:
        value = float(value)
    kinds: dict[type, str] = {
        int: "a whole number", float: "a number", str: "text", bool: "true or false",
    }  # fmt: skip
    _check(type(value) is hint, key, f"be {kinds[hint]}", repr(value))
    if hint is float:
        _check(value == value and abs(value) != float("inf"), key, "be finite", value)
    return value


