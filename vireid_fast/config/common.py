"""Settings that do not belong to one method."""

from dataclasses import dataclass

from vireid_fast.config.section import Section, ensure


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
    both, as published, and keeps the last epoch; "train+auxiliary" adds BUPTCampus' auxiliary
    identities."""
    split: int = 1
    """Number of the train / test split, where the set has several: RegDB has 1 to 10, each of which
    is trained on its own."""
    validation_share: float = 0.0
    """Share of the training identities that are held out for choosing the epoch, for sets without
    validation identities of their own; 0 keeps the last epoch."""
    skip_bad_images: bool = False
    follow_links: bool = False
    """Take images that symbolic links put outside the folder of a manifest."""

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._positive(prefix, "height", "width")
        self._positive(prefix, "split")
        self._choice(prefix, "train_split", ("train", "train+val", "train+auxiliary"))
        ensure(0 <= self.validation_share < 1, f"{prefix}validation_share", "lie in [0, 1)",
               self.validation_share)  # fmt: skip


@dataclass(frozen=True)
class VideoConfig(Section):
    """How frames of a tracklet become a clip; image methods ignore it."""

    frames: int = 6
    """T, frames of a clip; 6 in MITML, VLD and M3-ReID, 10 in BUPTCampus' baseline."""
    sampling: str = "chunks"
    """"chunks": one frame of each of T equal parts, at test the first (MITML, VLD). "uniform": T
    sorted random frames, at test evenly spaced ones (BUPTCampus)."""
    short: str = "repeat"
    """Tracklets of fewer than T frames: "repeat" frames as the public samplers do, or "refuse"."""
    min_frames: int = 1
    """Tracklets of fewer frames are left out, in training and test: 12 in the public code for
    HITSZ-VCM, whose published numbers of queries and gallery tracklets are those that remain."""

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._positive(prefix, "frames", "min_frames")
        self._choice(prefix, "sampling", ("chunks", "uniform"))
        self._choice(prefix, "short", ("repeat", "refuse"))


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
    """Learning-rate factor of what is trained from random values: necks, pooling exponent and the
    modules that a method adds to CLIP."""
    bias_lr_factor: float = 1.0
    """Learning-rate factor of biases, where it is larger than that of their module."""
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
            prefix, "epochs", "head_lr_factor", "bias_lr_factor", "weight_decay", "warmup_epochs",
            "warmup_lr", "min_lr",
        )  # fmt: skip
        ensure(all(value >= 0 for value in self.milestones), f"{prefix}milestones",
              "be 0 or more each", list(self.milestones))  # fmt: skip


@dataclass(frozen=True)
class EvaluationConfig(Section):
    """Protocol of validation and test."""

    protocol: str = "sysu/agw"
    mode: str = "all"
    """Mode of the protocol, such as "all" or "indoor", "infrared-visible" or "visible-infrared";
    "each" evaluates one after the other and validates by the first."""
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
class VisualLossConfig(Section):
    """Weights of the visual losses that the image methods share; the defaults are CSDN's."""

    identity: float = 1.0
    label_smoothing: float = 0.0
    msel: float = 1.0
    msel_normalized: bool = False
    """Compute MSEL on L2-normalised features; published: as they are."""
    wrt: float = 0.15
    wrt_parity: bool = True
    """Weights as the published code computes them; False: the formula."""
    contrast: float = 0.0
    """Additional cross-modal contrast on both features; ours, off in the published setting."""

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._not_negative(prefix, "identity", "msel", "wrt", "contrast")
        ensure(0 <= self.label_smoothing <= 1, f"{prefix}label_smoothing", "lie in [0, 1]",
              self.label_smoothing)  # fmt: skip


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
