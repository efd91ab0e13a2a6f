"""Settings of CSDN."""

from dataclasses import dataclass, field

from vireid_fast.config.common import OptimizerConfig, VisualLossConfig
from vireid_fast.config.section import Section, ensure


@dataclass(frozen=True)
class CSDNLossConfig(VisualLossConfig):
    """Weights of CSDN's stage 3; the defaults are published."""

    visible_text: float = 0.05
    infrared_text: float = 0.1
    text_decay: bool = False
    """Let both text weights fall to 0 along a cosine over stage 3; published: constant. Ours, for
    texts learned on an encoder that is still far from its best."""

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        super().check(prefix)
        self._not_negative(prefix, "visible_text", "infrared_text")


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
