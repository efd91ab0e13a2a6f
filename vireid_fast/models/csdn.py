"""CSDN, the CLIP-driven semantic discovery network.

Yu, Dong, Zhu, Peng, Tao: "CLIP-Driven Semantic Discovery Network for Visible-Infrared Person
Re-Identification", IEEE TMM 2025, arXiv 2401.05806. Constants follow the released code
(nengdong96/CSDN@2224959); where we depart, the docstring says so.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vireid_fast._checks import require, require_choice
from vireid_fast.clip.model import CLIP
from vireid_fast.models.test_time import joint_features
from vireid_fast.models.two_stem import MODALITIES, ImageFeatures, TwoStemEncoder
from vireid_fast.nn import BNNeck, PromptLearner, PromptTextEncoder, SemanticIntegration
from vireid_fast.ops import Backend


class CSDN(nn.Module):
    """Modality-specific prompts, semantic integration (SII), semantic embedding (HSE).

    Args:
        clip: CLIP model whose image tower becomes the two-stem encoder.
        num_identities: Training identities C.
        prompt_ids: For "visible" and "infrared" the token ids of the template up to and
            including EOT. Shapes (L,), int64. The released code uses one template for both.
        context_start: For each modality the index of the first learned token.
        context_length: Learned tokens M per identity.
        integration: Variant of `SemanticIntegration`.
        dropout: Dropout inside the integration.
        backend: "fused" runs on the package's kernels and computes only what is read. "reference"
            runs the plain layers: prompts assembled step by step and padded to the tower's context
            length, all tokens in the last ViT block, all keys and values in the attention pool.
            The two differ by rounding only.
    """

    def __init__(
        self,
        clip: CLIP,
        num_identities: int,
        prompt_ids: dict[str, Tensor],
        context_start: dict[str, int],
        context_length: int = 4,
        *,
        integration: str = "residual",
        dropout: float = 0.1,
        backend: Backend = "fused",
    ) -> None:
        super().__init__()
        require(num_identities > 0, "CSDN", "num_identities", "be positive", num_identities)
        self.num_identities = num_identities
        self.text = clip.text.requires_grad_(False)
        self.text_encoder = PromptTextEncoder(self.text, backend=backend)
        self.prompts: Any = nn.ModuleDict()
        for modality in MODALITIES:
            ids, start = prompt_ids[modality], context_start[modality]
            self.prompts[modality] = PromptLearner(
                self.text.token_embedding.weight[ids],
                self.text.positional_embedding[: len(ids)],
                num_identities,
                start,
                context_length,
                # Modalities that begin alike share the computation of their beginning.
                prefix_ids=tuple(ids[:start].tolist()),
                backend=backend,
            )
        self.encoder = TwoStemEncoder(clip.visual, backend=backend)
        width = self.encoder.projected_width
        self.integration = SemanticIntegration(width, dropout, integration)
        self.pooled_neck = BNNeck(self.encoder.feature_width, num_identities)
        self.projected_neck = BNNeck(width, num_identities)

    @property
    def feature_width(self) -> int:
        """Width of `test_features`: both features of the image and of its mirror image."""
        return 2 * (self.encoder.feature_width + self.encoder.projected_width)

    def encode_images(self, visible: Tensor | None, infrared: Tensor | None) -> ImageFeatures:
        """Features f and p, visible rows first. See `TwoStemEncoder.forward`."""
        return self.encoder(visible, infrared)

    def encode_text(self, labels: Tensor, modality: str) -> Tensor:
        """Text features of identities in one modality's own words.

        Args:
            labels: Shape (B,), int64.
            modality: "visible" or "infrared".

        Returns:
            Shape (B, d).
        """
        require_choice("CSDN.encode_text", "modality", modality, MODALITIES)
        return self.text_encoder(self.prompts[modality].prompt_group(labels))

    def encode_texts(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Text features of identities in the words of both modalities, computed together.

        Args:
            labels: Shape (B,), int64.

        Returns:
            Visible and infrared texts, each of shape (B, d).
        """
        groups = [self.prompts[modality].prompt_group(labels) for modality in MODALITIES]
        visible, infrared = self.text_encoder(groups)
        return visible, infrared

    @torch.no_grad()
    def text_bank(self, modality: str, block: int = 64) -> Tensor:
        """Texts of all identities in one modality. Shape (C, d), no gradient."""
        labels = torch.arange(self.num_identities, device=self.prompts[modality].context.device)
        return torch.cat([self.encode_text(part, modality) for part in labels.split(block)])

    @torch.no_grad()
    def integrated_bank(self) -> Tensor:
        """Integrated texts of all identities. Shape (C, d), no gradient.

        Follows the module's mode: in eval mode (our default) dropout is off; the released code
        leaves it on while it builds the frozen bank.
        """
        return self.integration(self.text_bank("visible"), self.text_bank("infrared"))

    def test_features(self, images: Tensor, modality: str) -> Tensor:
        """Features for retrieval: [norm(BN(f)), norm(p)] of the image and of its mirror image.

        The dot product of two such rows is the sum of four cosines; the joint row is not
        normalised again, as in the released code.

        Args:
            images: Normalised images of one modality. Shape (B, 3, H, W).
            modality: "visible" or "infrared".

        Returns:
            Shape (B, feature_width), float32.
        """
        return joint_features(self, images, modality)
