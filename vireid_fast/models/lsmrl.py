"""LSMRL, language-driven sequence-level modal-invariant representation learning, for video.

Yang, Gao, Liu, Wei, Zhu, Feng, Qu, Niu, arXiv 2601.12062. Neither full text nor code was at hand:
this is a reimplementation following the abstract. `docs/lsmrl.md` says what is the abstract's and
what is ours.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid_fast._checks import positive_int, require, require_choice, require_shape, sentence
from vireid_fast.clip.model import CLIP
from vireid_fast.models.spatial_temporal import SpatialTemporalEncoder
from vireid_fast.models.two_stem import MODALITIES
from vireid_fast.nn import (
    BNNeck,
    CrossModalInteraction,
    PromptLearner,
    PromptTextEncoder,
    SemanticDiffusion,
)
from vireid_fast.ops import Backend
from vireid_fast.ops.cross_modal_attention import Mode


class ClipFeatures(NamedTuple):
    """Features of B clips, visible ones first.

    Attributes:
        last: f_last, class token that enters the last block, averaged over the frames. (B, W).
        tokens: z, tokens of the sequence after the diffusion, before `ln_post`. Shape
            (B, 1 + patches, W); (B, 1, W), the class token alone, where nothing reads the others.
        classes: Class token of each frame after the diffusion, whose mean is `tokens[:, 0]`.
            (B, T, W).
        pooled: f. Shape (B, W).
        projected: p, f in the space of the texts. Shape (B, d).
    """

    last: Tensor
    tokens: Tensor
    classes: Tensor
    pooled: Tensor
    projected: Tensor

    def rows(self, start: int, stop: int) -> "ClipFeatures":
        """The same features of clips `start` to `stop`."""
        return ClipFeatures(*(values[start:stop] for values in self))


class LSMRL(nn.Module):
    """Spatial-temporal feature learning (STFL), semantic diffusion (SD), interaction (CMI).

    One CLIP image tower serves both modalities, and one bank of prompts, without modality words.

    A training step::

        bank = model.text_bank()                                # (C, d), gradient to the prompts
        features = model.encode_clips(visible, infrared, bank)  # 2 B rows, visible ones first
        h = torch.cat(model.interact(features.rows(0, B), features.rows(B, 2 * B)))

    and `refresh_bank()` before testing, or saving what is to be tested. With 0 grouped and 0
    shifted blocks, and without diffusion and interaction, f and p are those of CLIP's ViT averaged
    over the frames.

    Args:
        clip: CLIP model with a ViT image tower.
        num_identities: Training identities C.
        prompt_ids: Token ids of the template up to and including EOT. Shape (L,), int64.
        context_start: Index of the first learned token.
        context_length: Learned tokens M per identity.
        groups: Stripes of the grouped blocks; divides the rows of patches.
        grouped_blocks: Blocks of the spatial-temporal grouped encoder; 0 leaves it out.
        shift_blocks: Last blocks, the temporal patch shift encoder; 0 leaves it out.
        pattern: Shift of each patch in time: "tps9", "bayer4" or "none".
        diffusion: Whether the text bank is diffused into the visual tokens.
        interaction: Whether there is a cross-modal interaction, for training.
        interaction_mode: "cross": each modality attends to the other one. "joint": both to both.
        backend: "fused" runs on the package's kernels and computes only what is read. "reference"
            runs the plain layers. The two differ by rounding only.

    Attributes:
        encoder: `SpatialTemporalEncoder`.
        text, text_encoder: Frozen text tower, and its `PromptTextEncoder`.
        prompts: `PromptLearner`, shared by the modalities.
        diffusion: `SemanticDiffusion` or None.
        interaction: `CrossModalInteraction` or None.
        pooled_neck, projected_neck, interaction_neck: `BNNeck` of f, p and h; the last one is None
            without interaction.
        bank: Texts of all training identities as constants, for testing; zero until
            `refresh_bank()`, saved with the model. Shape (C, d); None without diffusion.

    Raises:
        ValueError: A size or choice does not fit; see also `SpatialTemporalEncoder`.
    """

    bank: Tensor | None

    def __init__(
        self,
        clip: CLIP,
        num_identities: int,
        prompt_ids: Tensor,
        context_start: int,
        context_length: int = 4,
        *,
        groups: int = 6,
        grouped_blocks: int = 2,
        shift_blocks: int = 2,
        pattern: str = "tps9",
        diffusion: bool = True,
        interaction: bool = True,
        interaction_mode: Mode = "cross",
        backend: Backend = "fused",
    ) -> None:
        super().__init__()
        self.num_identities = positive_int("LSMRL", "num_identities", num_identities)
        self.text = clip.text.requires_grad_(False)
        self.text_encoder = PromptTextEncoder(self.text, backend=backend)
        self.prompts = PromptLearner(
            self.text.token_embedding.weight[prompt_ids],
            self.text.positional_embedding[: len(prompt_ids)],
            num_identities,
            context_start,
            context_length,
            backend=backend,
        )
        self.encoder = SpatialTemporalEncoder(
            clip.visual, groups=groups, grouped_blocks=grouped_blocks, shift_blocks=shift_blocks,
            pattern=pattern, backend=backend,
        )  # fmt: skip
        width, joint = self.encoder.feature_width, self.encoder.projected_width
        last_block = self.encoder.visual.trunk.transformer.resblocks[-1]
        self.diffusion: SemanticDiffusion | None = None
        self.interaction: CrossModalInteraction | None = None
        self.interaction_neck: BNNeck | None = None
        if diffusion:
            self.diffusion = SemanticDiffusion(width, joint, last_block.attn.heads, backend=backend)
        self.register_buffer("bank", torch.zeros(num_identities, joint) if diffusion else None)
        if interaction:
            self.interaction = CrossModalInteraction(
                last_block, mode=interaction_mode, backend=backend
            )
            self.interaction_neck = BNNeck(width, num_identities)
        self.pooled_neck = BNNeck(width, num_identities)
        self.projected_neck = BNNeck(joint, num_identities)

    @property
    def feature_width(self) -> int:
        """Width of `test_features`."""
        return self.encoder.feature_width + self.encoder.projected_width

    def text_bank(self, part: slice = slice(None)) -> Tensor:
        """Texts of all identities, or of a part, with a gradient to the prompts. Shape (C, d)."""
        labels = torch.arange(self.num_identities, device=self.prompts.context.device)
        return self.text_encoder(self.prompts.prompt_group(labels[part]))

    @torch.no_grad()
    def refresh_bank(self) -> None:
        """Store the texts that the prompts give now as the constant bank of testing."""
        if self.bank is not None:
            self.bank.copy_(self.text_bank())

    def encode_clips(
        self, visible: Tensor | None, infrared: Tensor | None, bank: Tensor | None = None
    ) -> ClipFeatures:
        """Encode clips and diffuse the text bank into them.

        Args:
            visible: Normalised frames. Shape (A, T, 3, H, W), or None.
            infrared: Shape (B, T, 3, H, W), or None; not both None.
            bank: Texts of all identities, most often `text_bank()`. Shape (C, d). Read by the
                diffusion alone: None where there is none.

        Returns:
            Features of A + B clips, visible ones first.

        Raises:
            ValueError: No clips are given, the bank is missing, or a shape does not fit.
        """
        clips = _joined(visible, infrared)
        return self._encode(clips, bank, classes_only=self.interaction is None)

    def interact(self, visible: ClipFeatures, infrared: ClipFeatures) -> tuple[Tensor, Tensor]:
        """Features h after the cross-modal interaction of pairs.

        Args:
            visible: Features of B clips.
            infrared: Features of their partners of the same identities, in the same order.

        Returns:
            h of the visible and of the infrared clips, (B, W) each.

        Raises:
            ValueError: There is no interaction, or the shapes differ.
        """
        if self.interaction is None:
            raise ValueError(sentence(
                "LSMRL", "interact", "be called with an interaction", "interaction=False"
            ))  # fmt: skip
        tokens = self.interaction.class_tokens(visible.tokens, infrared.tokens)
        first, second = (
            self._pool(part.classes, part.tokens[:, 0], token)
            for part, token in zip((visible, infrared), tokens, strict=True)
        )
        return first, second

    @torch.no_grad()
    def test_features(self, clips: Tensor, modality: str) -> Tensor:
        """Features for retrieval: [norm(f), norm(p)] after the diffusion of the constant bank.

        The dot product of two such rows is the sum of two cosines. The clips of one modality are
        all that is read: without their partners there is no interaction.

        Args:
            clips: Normalised frames of one modality. Shape (B, T, 3, H, W).
            modality: "visible" or "infrared".

        Returns:
            Shape (B, feature_width), float32.

        Raises:
            ValueError: The modality is unknown, or a shape does not fit.
            RuntimeError: The bank was never filled.
        """
        require_choice("LSMRL.test_features", "modality", modality, MODALITIES)
        if self.bank is not None:
            require(
                bool(self.bank[0].any()), "LSMRL.test_features", "bank", "hold the texts", "zeros",
                "Call refresh_bank() after training, or load a model that was saved after it.",
                RuntimeError,
            )  # fmt: skip
        features = self._encode(clips, self.bank, classes_only=True)
        parts = (features.pooled.float(), features.projected.float())
        return torch.cat([F.normalize(part) for part in parts], 1)

    def _encode(self, clips: Tensor, bank: Tensor | None, *, classes_only: bool) -> ClipFeatures:
        encode = self.encoder.encode_classes if classes_only else self.encoder
        last, classes, tokens = encode(clips)
        if self.diffusion is not None:
            require(
                bank is not None, "LSMRL.encode_clips", "bank", "be given for the diffusion",
                "None", "Pass text_bank().",
            )  # fmt: skip
            before, tokens = tokens, self.diffusion(tokens, bank)
            classes = classes + (tokens[:, :1] - before[:, :1])
        pooled = self.encoder.visual.trunk.ln_post(classes).mean(1)
        return ClipFeatures(last, tokens, classes, pooled, pooled @ self.encoder.visual.trunk.proj)

    def _pool(self, classes: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Mean over frames of ln_post of class tokens (B, T, W) that move as the sequence's did."""
        moved = classes + (after - before).unsqueeze(1)
        return self.encoder.visual.trunk.ln_post(moved).mean(1)


def _joined(visible: Tensor | None, infrared: Tensor | None) -> Tensor:
    """Clips of both modalities, visible ones first."""
    given = [clips for clips in (visible, infrared) if clips is not None]
    require(bool(given), "LSMRL.encode_clips", "visible or infrared", "be given", "neither")
    if len(given) == 1:
        return given[0]
    require_shape("LSMRL.encode_clips", "infrared", given[1], ("B", *given[0].shape[1:]))
    return torch.cat(given)
