"""Settings of LSMRL. No code of the paper is public: the defaults are VLD's or ours."""

from dataclasses import dataclass, field

from vireid_fast.config.common import OptimizerConfig
from vireid_fast.config.section import Section, ensure


@dataclass(frozen=True)
class LSMRLLossConfig(Section):
    """Weights of the losses; identity terms as VLD's."""

    identity: float = 1.0
    wrt: float = 1.0
    text: float = 0.08
    """Projected features against the texts of all identities."""
    keep: float = 0.1
    """Features before the interaction stay near those after it, which are absent at test."""
    alignment: float = 0.5
    """First modality-level loss: visible against infrared features, through identities."""
    alignment_kind: str = "contrast"
    """"contrast", "mma" (M3-ReID) or "hetero_center"."""
    discrepancy: float = 0.1
    """Second modality-level loss: distance of the two modalities' distributions, no labels."""
    temperature: float = 0.07
    """Of the alignment by contrast."""

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._not_negative(
            prefix, "identity", "wrt", "text", "keep", "alignment", "discrepancy"
        )  # fmt: skip
        self._choice(prefix, "alignment_kind", ("contrast", "mma", "hetero_center"))
        self._positive(prefix, "temperature")


@dataclass(frozen=True)
class LSMRLConfig(Section):
    """LSMRL's own settings, ablations included."""

    template: str = "day_night"
    context_length: int = 4
    groups: int = 6
    """Horizontal stripes of the grouped blocks; divides the rows of patches."""
    grouped_blocks: int = 2
    """Blocks of the spatial-temporal grouped encoder; 0 leaves it out."""
    shift_blocks: int = 2
    """Last blocks, the temporal patch shift encoder; 0 leaves it out."""
    pattern: str = "tps9"
    """Shift of each patch in time: "tps9", "bayer4" or "none"."""
    diffusion: bool = True
    """False: without semantic diffusion."""
    interaction: bool = True
    """False: without cross-modal interaction."""
    interaction_mode: str = "cross"
    """"cross": each modality attends to the other; "joint": both to both."""
    text_temperature: float = 0.0
    """As `csdn.text_temperature`."""
    steps: int = 200
    """Batches of an epoch; 0: as many as the tracklets give."""
    train: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            epochs=24, kind="adamw", lr=2.5e-5, head_lr_factor=25.0, bias_lr_factor=25.0,
            warmup_epochs=3, warmup_lr=2.5e-7, min_lr=2.5e-7,
        )
    )  # fmt: skip
    loss: LSMRLLossConfig = field(default_factory=LSMRLLossConfig)

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._positive(prefix, "context_length", "groups")
        self._not_negative(prefix, "grouped_blocks", "shift_blocks", "text_temperature", "steps")
        self._choice(prefix, "pattern", ("tps9", "bayer4", "none"))
        self._choice(prefix, "interaction_mode", ("cross", "joint"))
        ensure(self.train.epochs > 0, f"{prefix}train.epochs", "be positive", self.train.epochs)
