"""CLIP4VI-ReID: text as a bridge from visible to infrared images.

Yang, Gao, Niu, Zhu, Feng, Qu, Camacho: "CLIP4VI-ReID: Learning Modality-shared Representations via
CLIP Semantic Bridge for Visible-Infrared Person Re-identification", arXiv 2511.10309. A
reimplementation following the abstract; no code of the authors is public. See
docs/clip4vi_reid.md.
"""

import torch
from torch import Tensor, nn

from vireid_fast._checks import require
from vireid_fast.clip.model import CLIP
from vireid_fast.models.test_time import joint_features
from vireid_fast.models.two_stem import ImageFeatures, TwoStemEncoder
from vireid_fast.nn import BNNeck, PromptLearner, PromptTextEncoder
from vireid_fast.ops import Backend


class CLIP4VIReID(nn.Module):
    """One text per identity, learned from visible images; features and necks as CSDN's.

    The modules of the paper are three training stages on this model: TSG learns `prompts` from
    visible images, IFE draws the infrared features of `encoder` to these texts, HSA aligns
    everything and tunes the texts again (`engine.methods.clip4vi_reid`).

    Args:
        clip: CLIP model whose image tower becomes the encoder.
        num_identities: Training identities C.
        prompt_ids: Token ids of the template up to and including EOT. Shape (L,), int64.
        context_start: Index of the first learned token.
        context_length: Learned tokens M per identity; with 0 all identities have one text.
        backend: "fused" or "reference", as of `CSDN`.

    Attributes:
        prompts: The learned tokens; None where M is 0.
        text_norm: Batch norm in front of the classifier when it is given texts; the classifier
            itself is that of `projected_neck`.
    """

    prompt_ids: Tensor

    def __init__(
        self,
        clip: CLIP,
        num_identities: int,
        prompt_ids: Tensor,
        context_start: int,
        context_length: int = 4,
        *,
        backend: Backend = "fused",
    ) -> None:
        super().__init__()
        require(
            num_identities > 0, "CLIP4VIReID", "num_identities", "be positive", num_identities
        )
        self.num_identities = num_identities
        self.text = clip.text.requires_grad_(False)
        self.text_encoder = PromptTextEncoder(self.text, backend=backend)
        self.register_buffer("prompt_ids", prompt_ids.clone(), persistent=False)
        self.prompts: PromptLearner | None = None
        if context_length:
            self.prompts = PromptLearner(
                self.text.token_embedding.weight[prompt_ids],
                self.text.positional_embedding[: len(prompt_ids)],
                num_identities,
                context_start,
                context_length,
                prefix_ids=tuple(prompt_ids[:context_start].tolist()),
                backend=backend,
            )
        # A ViT is shared from its first layer on, as a patch embedding alone is no stem.
        self.encoder = TwoStemEncoder(
            clip.visual, backend=backend, shared_stem=not clip.visual.convolutional
        )
        self.pooled_neck = BNNeck(self.encoder.feature_width, num_identities)
        self.projected_neck = BNNeck(self.encoder.projected_width, num_identities)
        self.text_norm = nn.BatchNorm1d(self.encoder.projected_width)

    @property
    def feature_width(self) -> int:
        """Width of `test_features`: both features of the image and of its mirror image."""
        return 2 * (self.encoder.feature_width + self.encoder.projected_width)

    def encode_images(self, visible: Tensor | None, infrared: Tensor | None) -> ImageFeatures:
        """Features f and p, visible rows first. See `TwoStemEncoder.forward`."""
        return self.encoder(visible, infrared)

    def encode_text(self, labels: Tensor) -> Tensor:
        """Texts of identities.

        Args:
            labels: Shape (B,), int64.

        Returns:
            Shape (B, d), not normalised.
        """
        if self.prompts is None:
            text = self.text_encoder.encode_tokens(self.prompt_ids[None])
            return text.expand(len(labels), -1)
        return self.text_encoder(self.prompts.prompt_group(labels))

    def text_logits(self, texts: Tensor) -> Tensor:
        """Identity logits of texts (B, d), by the classifier of the projected images. (B, C)."""
        return self.projected_neck.classifier(self.text_norm(texts))

    @torch.no_grad()
    def text_bank(self, block: int = 64) -> Tensor:
        """Texts of all identities. Shape (C, d), no gradient."""
        labels = torch.arange(self.num_identities, device=self.prompt_ids.device)
        return torch.cat([self.encode_text(part) for part in labels.split(block)])

    def test_features(self, images: Tensor, modality: str) -> Tensor:
        """Features for retrieval, without texts; arguments and shape as of `joint_features`."""
        return joint_features(self, images, modality)
