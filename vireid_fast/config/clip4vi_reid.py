"""Settings of CLIP4VI-ReID. No code of the paper is public: the defaults are ours or CSDN's."""

from dataclasses import dataclass, field

from vireid_fast.config.common import OptimizerConfig, VisualLossConfig
from vireid_fast.config.section import Section, ensure


@dataclass(frozen=True)
class IFELossConfig(Section):
    """Weights of stage 2, infrared feature embedding."""

    text: float = 1.0
    """Infrared images against the texts of all identities."""
    contrast: float = 1.0
    """Infrared images against the texts of the batch, both directions."""
    identity: float = 1.0
    wrt: float = 1.0
    anchor: float = 1.0
    """Visible images against the texts of all identities, so that they do not drift away."""

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._not_negative(prefix, "text", "contrast", "identity", "wrt", "anchor")


@dataclass(frozen=True)
class HSALossConfig(VisualLossConfig):
    """Weights of stage 3, high-level semantic alignment."""

    wrt_parity: bool = False
    visible_text: float = 0.05
    infrared_text: float = 0.1
    text_refinement: float = 0.1
    """Texts against the images of the batch, and identity loss of the texts."""

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        super().check(prefix)
        self._not_negative(prefix, "visible_text", "infrared_text", "text_refinement")


@dataclass(frozen=True)
class CLIP4VIReIDConfig(Section):
    """CLIP4VI-ReID's own settings, ablations included."""

    template: str = "person"
    context_length: int = 4
    """Learned tokens per identity; 0 leaves the words alone, so that all texts are equal."""
    learned_prompts: bool = True
    """False keeps the tokens at their random start: a fixed prompt."""
    text_from: str = "visible"
    """Images that the texts are learned from in stage 1: "visible", as the paper, or "both"."""
    text_tuning: bool = True
    """Tune the texts in stage 3; False keeps those of stage 1."""
    text_temperature: float = 0.0
    """As `csdn.text_temperature`."""
    prompt_lr_factor: float = 3.5 / 3
    """Learning-rate factor of the tokens in stage 3."""
    tsg: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(batch_size=64, lr=3.5e-4)
    )
    """Stage 1, text semantic generation."""
    ife: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            epochs=20, head_lr_factor=2.0, weight_decay=5e-4, schedule="steps",
            warmup_epochs=10, warmup_lr=3e-6,
        )
    )  # fmt: skip
    """Stage 2, infrared feature embedding; 0 epochs leave it out."""
    hsa: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            epochs=120, head_lr_factor=2.0, weight_decay=5e-4, schedule="steps",
            warmup_epochs=10, warmup_lr=3e-6, milestones=(40, 70),
        )
    )  # fmt: skip
    """Stage 3, high-level semantic alignment."""
    ife_loss: IFELossConfig = field(default_factory=IFELossConfig)
    loss: HSALossConfig = field(default_factory=HSALossConfig)

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._not_negative(prefix, "context_length", "text_temperature", "prompt_lr_factor")
        self._choice(prefix, "text_from", ("visible", "both"))
        ensure(self.hsa.epochs > 0, f"{prefix}hsa.epochs", "be positive", self.hsa.epochs)
