"""Settings of CLIP-MC. No code of the paper is public: the defaults are ours."""

from dataclasses import dataclass, field

from vireid_fast.config.common import OptimizerConfig, VisualLossConfig
from vireid_fast.config.section import Section, ensure


@dataclass(frozen=True)
class CLIPMCLossConfig(VisualLossConfig):
    """Weights of the one stage."""

    msel: float = 0.0
    wrt: float = 1.0
    wrt_parity: bool = False
    description: float = 1.0
    """Images against the descriptions of their own modality, both directions."""
    compensation: float = 1.0
    """Descriptions of the missing modality against real images of it."""
    token_alignment: float = 0.1
    """Instance tokens against projected image features."""
    context: float = 0.1
    """Contexts of the two modalities must stay different."""
    context_margin: float = 0.2
    """Cosine of the two contexts above which they are pushed apart."""

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        super().check(prefix)
        self._not_negative(
            prefix, "description", "compensation", "token_alignment", "context"
        )  # fmt: skip
        ensure(-1 <= self.context_margin <= 1, f"{prefix}context_margin", "lie in [-1, 1]",
               self.context_margin)  # fmt: skip


@dataclass(frozen=True)
class CLIPMCConfig(Section):
    """CLIP-MC's own settings, ablations included."""

    instance_prompts: bool = True
    """False: without ITPG, one set of learned tokens for all images."""
    learned_context: bool = True
    """False: without MCL, the fixed words "a visible photo of", "an infrared photo of"."""
    compensation: bool = True
    """False: without MC, the projected feature alone stands for the complete one."""
    base_tokens: int = 4
    decoder_layers: int = 2
    dropout: float = 0.1
    meta_network: bool = False
    """Shift the contexts by what a small network sees in the image (CoCoOp)."""
    tune_text: bool = False
    """Train the text encoder too, at a tenth of the encoder's learning rate."""
    temperature: float = 0.07
    train: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            kind="adamw", lr=1e-5, head_lr_factor=30.0, bias_lr_factor=2.0, warmup_epochs=10,
            warmup_lr=1e-7, min_lr=1e-7,
        )
    )  # fmt: skip
    loss: CLIPMCLossConfig = field(default_factory=CLIPMCLossConfig)

    def check(self, prefix: str) -> None:
        """See `Section.check`."""
        self._positive(prefix, "base_tokens", "decoder_layers", "temperature")
        ensure(0 <= self.dropout < 1, f"{prefix}dropout", "lie in [0, 1)", self.dropout)
        ensure(self.train.epochs > 0, f"{prefix}train.epochs", "be positive", self.train.epochs)
