"""The settings of a run as frozen dataclasses, with the range of every value."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vireid_fast._checks import sentence
from vireid_fast._files import atomic_write


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


def ensure(condition: bool, key: str, requirement: str, got: object, remedy: str = "") -> None:
    """Raise ConfigError with the house sentence unless `condition` holds."""
    if not condition:
        raise ConfigError(sentence("config", key, requirement, got, remedy))


class Section:
    """A part of the configuration that knows the ranges of its values.

    A section does not know under which keys it stands (an `OptimizerConfig` stands under three),
    so `Config` checks all of them when it is made and says where they stand.
    """

    def check(self, prefix: str) -> None:
        """Raise ConfigError where a value is out of range; `prefix` is like "csdn.visual."."""

    def _positive(self, prefix: str, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            ensure(value > 0, prefix + name, "be positive", value)

    def _not_negative(self, prefix: str, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            ensure(value >= 0, prefix + name, "be 0 or more", value)

    def _choice(self, prefix: str, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        ensure(value in choices, prefix + name, f"be one of {list(choices)}", repr(value))


@dataclass(frozen=True)
class DataConfig(Section):
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

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._positive(prefix, "height", "width")
        self._choice(prefix, "train_split", ("train", "train+val"))


@dataclass(frozen=True)
class AugmentConfig(Section):
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
    exchange_grey: int = 2
    """ChannelExchange's parameter; with the published 2 its grey branch is unreachable, 3 opens
    it."""


@dataclass(frozen=True)
class ClipConfig(Section):
    """The CLIP model."""

    architecture: str = "RN50"
    weights: str = ""
    """Weight file; empty: random weights."""
    trust: bool = False
    """Allow a TorchScript archive, which can run code when opened."""
    activation: str = ""
    """Activation of the model, "quick_gelu" or "gelu"; empty: the architecture's. It also stands
    in for that of the weights where the file does not say."""
    layer4_stride: int = 1
    stem_relu: str = "clip"
    """"clip" keeps CLIP's ReLU after each stem convolution; "csdn" has one at the end, as the
    released code."""

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        ensure(self.layer4_stride in (1, 2), f"{prefix}layer4_stride", "be 1 or 2",
              self.layer4_stride)  # fmt: skip
        self._choice(prefix, "stem_relu", ("clip", "csdn"))
        self._choice(prefix, "activation", ("", "quick_gelu", "gelu"))


@dataclass(frozen=True)
class SamplerConfig(Section):
    """Identities per batch and images per identity and modality."""

    identities: int = 8
    instances: int = 4
    replacement: bool = True
    """Draw an identity's images with replacement, as published."""

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._positive(prefix, "identities", "instances")


@dataclass(frozen=True)
class OptimizerConfig(Section):
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

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._choice(prefix, "kind", ("adam", "adamw"))
        self._choice(prefix, "schedule", ("cosine", "steps"))
        self._positive(prefix, "batch_size", "lr")
        self._not_negative(
            prefix, "epochs", "head_lr_factor", "weight_decay", "warmup_epochs", "warmup_lr",
            "min_lr",
        )  # fmt: skip
        ensure(all(value >= 0 for value in self.milestones), f"{prefix}milestones",
              "be 0 or more each", list(self.milestones))  # fmt: skip


@dataclass(frozen=True)
class EvaluationConfig(Section):
    """Protocol of validation and test."""

    protocol: str = "sysu/agw"
    mode: str = "all"
    shots: int = 1
    every: int = 1
    """Validate every so many epochs of the visual stage; the last epoch is always validated."""
    batch_size: int = 64
    rerank: tuple[float, ...] = ()
    """k1, k2, lambda of an additional re-ranked result; empty: none."""

    def check(self, prefix: str) -> None:
        """See `Section.check`. The names are checked where the protocols are known."""
        self._positive(prefix, "shots", "every", "batch_size")
        if not self.rerank:
            return
        key, got = f"{prefix}rerank", list(self.rerank)
        ensure(len(got) == 3 and all(value == int(value) for value in got[:2]), key,
              "be empty or [k1, k2, lambda] with whole k1 and k2", got)  # fmt: skip
        ensure(got[0] >= 1 and got[1] >= 1 and 0 <= got[2] <= 1, key,
              "have k1 and k2 of at least 1 and lambda in [0, 1]", got)  # fmt: skip

    @property
    def rerank_parameters(self) -> tuple[int, int, float] | None:
        """(k1, k2, lambda), or None without re-ranking."""
        if not self.rerank:
            return None
        k1, k2, weight = self.rerank
        return int(k1), int(k2), weight


@dataclass(frozen=True)
class CSDNLossConfig(Section):
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
    text_decay: bool = False
    """Let both text weights fall to 0 along a cosine over stage 3; published: constant. Ours, for
    texts learned on an encoder that is still far from its best."""
    contrast: float = 0.0
    """Additional cross-modal contrast on both features; ours, off in the published setting."""

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        weights = ("identity", "msel", "wrt", "visible_text", "infrared_text", "contrast")
        self._not_negative(prefix, *weights)
        ensure(0 <= self.label_smoothing <= 1, f"{prefix}label_smoothing", "lie in [0, 1]",
              self.label_smoothing)  # fmt: skip


@dataclass(frozen=True)
class CSDNConfig(Section):
    """CSDN's own settings; the defaults are the released code's unless a comment says ours."""

    visible_template: str = "person"
    infrared_template: str = "person"
    context_length: int = 4
    """Learned tokens; they replace the template's marks, so it is the number of these."""
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

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._positive(prefix, "context_length")
        self._not_negative(prefix, "text_temperature")
        ensure(0 <= self.dropout < 1, f"{prefix}dropout", "lie in [0, 1)", self.dropout)
        stages = ("prompts", "fusion", "visual") if self.text_terms else ("visual",)
        epochs = [getattr(self, stage).epochs for stage in stages]
        ensure(sum(epochs) > 0, ", ".join(f"{prefix}{stage}.epochs" for stage in stages),
              "be positive in one stage at least", epochs,
              "A run without any epoch would have no checkpoint.")  # fmt: skip


@dataclass(frozen=True)
class PretrainConfig(Section):
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

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._positive(
            prefix, "identities", "views", "epochs", "steps", "captioned_per_batch",
            "paired_per_batch", "lr", "temperature",
        )  # fmt: skip
        self._not_negative(
            prefix, "weight_decay", "caption_weight", "pair_weight", "identity_weight"
        )


METHODS: dict[str, tuple[str, type]] = {"csdn": ("csdn", CSDNConfig)}
"""Method name -> (its section's key, its dataclass)."""


@dataclass(frozen=True)
class Config(Section):
    """Everything that defines a run."""

    method: str = "csdn"
    seed: int = 1
    device: str = "cpu"
    threads: int = 0
    """CPU threads; 0 leaves torch's choice. Bitwise resume needs the same number."""
    backend: str = "fused"
    """What the method runs on: "fused", the package's kernels and layers that skip what nobody
    reads, or "reference", the plain forms they are checked against. Losses differ by rounding."""
    start_from: str = ""
    """Run whose latest weights training starts from, of the same method and identities, such as a
    visual warm-up; empty: `clip.weights` alone."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    csdn: CSDNConfig = field(default_factory=CSDNConfig)

    def __post_init__(self) -> None:
        _check_sections(self, "")

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._choice(prefix, "method", tuple(sorted(METHODS)))
        self._choice(prefix, "backend", ("fused", "reference"))
        self._not_negative(prefix, "seed", "threads")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as YAML holds them."""
        return _plain(dataclasses.asdict(self))

    def save(self, path: Path) -> None:
        """Write the resolved configuration as YAML, atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")


def _check_sections(section: Section, prefix: str) -> None:
    section.check(prefix)
    for entry in dataclasses.fields(section):  # type: ignore[arg-type]
        value = getattr(section, entry.name)
        if isinstance(value, Section):
            _check_sections(value, f"{prefix}{entry.name}.")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
