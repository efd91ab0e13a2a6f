"""CLIP-MC, CLIP-based modality compensation.

Hu, Lv, Zhang, Wu, Wen: "CLIP-Based Modality Compensation for Visible-Infrared Image
Re-Identification". Its abstract alone is public: a reimplementation following the abstract. What
is the abstract's and what is ours: docs/clip_mc.md.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid_fast._checks import positive_int, require, require_choice, sentence
from vireid_fast.clip.model import CLIP
from vireid_fast.clip.templates import TEMPLATES
from vireid_fast.clip.vocabulary import WordVocabulary
from vireid_fast.models.two_stem import MODALITIES, TokenFeatures, TwoStemEncoder
from vireid_fast.nn import (
    BNNeck,
    InstancePromptGenerator,
    ModalityCompensation,
    ModalityContext,
    PromptGroup,
    PromptTextEncoder,
)
from vireid_fast.ops import Backend, TokenSource, inject_tokens

# "a visible photo of", "an infrared photo of": one token per word.
_CONTEXT_LENGTH = 4
# "person", ".", end of text.
_TAIL_LENGTH = 3


class CompleteFeatures(NamedTuple):
    """What a training step reads; every row belongs to one image, visible images first.

    Attributes:
        pooled: f. Shape (B, feature_width of the encoder).
        projected: p. Shape (B, d).
        complete: z. Shape (B, 2 d); None without compensation.
        visible_text: t_visible(x), each image described in the visible context. Shape (B, d).
        infrared_text: t_infrared(x). Shape (B, d).
        instance: s(x), averaged and mapped to the space of p. Shape (B, d); None without instance
            prompts.
    """

    pooled: Tensor
    projected: Tensor
    complete: Tensor | None
    visible_text: Tensor
    infrared_text: Tensor
    instance: Tensor | None


class ClipMC(nn.Module):
    """Instance prompts (ITPG), modality contexts (MCL), modality compensation (MC).

    An image x of modality m, with m' the other one, is described by
    t_c(x) = TextEncoder([SOS] [context tokens of c] [s(x)] [person] [.] [EOS]) in both contexts c:
    t_m(x) describes what is there, t_m'(x) stands for the modality that is missing. Its complete
    feature z has the image in the slot of m and t_m'(x) in the slot of m'.

    A ResNet has one stem per modality, as CSDN. A ViT has one stem and a learned vector per
    modality that is added to its class token (`modality_embedding`, zero at first).

    Args:
        clip: CLIP model whose image tower becomes the encoder.
        num_identities: Training identities C.
        vocabulary: Of the model's text tower; None: CLIP's byte pairs.
        base_tokens: Number M of instance tokens s(x).
        decoder_layers: Layers of the instance prompt generator.
        dropout: Inside the generator.
        instance_prompts: False: without ITPG, the base tokens for every image.
        learned_context: False: without MCL, the fixed words "a visible photo of" and "an infrared
            photo of".
        compensation: False: without MC, p stands for the complete feature.
        meta_network: Shift the contexts by what a small network sees in the image (CoCoOp).
        tune_text: Train the text tower, except its table of token embeddings.
        backend: "fused" runs on the package's kernels and computes only what is read. "reference"
            runs the plain layers: prompts assembled step by step and padded to the tower's context
            length, keys and values of all image tokens. The two differ by rounding only.

    Attributes:
        encoder: `TwoStemEncoder`.
        text: The text tower.
        text_encoder: `PromptTextEncoder` on it.
        generator: `InstancePromptGenerator`.
        context: `ModalityContext`.
        compensation: `ModalityCompensation` or None.
        pooled_neck: Neck of f.
        projected_neck: Neck of p.
        complete_neck: Neck of z, or None.

    Raises:
        ValueError: A size or choice does not fit, or a word is not in the vocabulary.
    """

    start_id: Tensor
    context_ids: Tensor
    tail_ids: Tensor

    def __init__(
        self,
        clip: CLIP,
        num_identities: int,
        vocabulary: WordVocabulary | None = None,
        *,
        base_tokens: int = 4,
        decoder_layers: int = 2,
        dropout: float = 0.1,
        instance_prompts: bool = True,
        learned_context: bool = True,
        compensation: bool = True,
        meta_network: bool = False,
        tune_text: bool = False,
        backend: Backend = "fused",
    ) -> None:
        super().__init__()
        require(num_identities > 0, "ClipMC", "num_identities", "be positive", num_identities)
        decoder_layers = positive_int("ClipMC", "decoder_layers", decoder_layers)
        self.backend = backend
        self.text = clip.text.requires_grad_(tune_text)
        self.text.token_embedding.requires_grad_(False)
        self.text_encoder = PromptTextEncoder(self.text, backend=backend)
        convolutional = clip.visual.convolutional
        self.encoder = TwoStemEncoder(clip.visual, backend=backend, shared_stem=not convolutional)
        embedding = torch.zeros(len(MODALITIES), self.encoder.feature_width)
        self.modality_embedding = None if convolutional else nn.Parameter(embedding)
        width = self.encoder.projected_width
        self.generator = InstancePromptGenerator(
            self.text.width, width, base_tokens=base_tokens,
            layers=decoder_layers if instance_prompts else 0, dropout=dropout, backend=backend,
        )  # fmt: skip
        names = ("start_id", "context_ids", "tail_ids")
        for name, ids in zip(names, _token_ids(vocabulary), strict=True):
            self.register_buffer(name, ids, persistent=False)
        self.context = ModalityContext(
            *self._context_words(), fixed=not learned_context,
            image_width=width if meta_network else None,
        )  # fmt: skip
        self.compensation = ModalityCompensation(width) if compensation else None
        self.pooled_neck = BNNeck(self.encoder.feature_width, num_identities)
        self.projected_neck = BNNeck(width, num_identities)
        self.complete_neck = BNNeck(2 * width, num_identities) if compensation else None

    @property
    def feature_width(self) -> int:
        """Width of `test_features`: both features of the image and of its mirror image."""
        slots = 1 if self.compensation is None else 2
        return 2 * (slots * self.encoder.projected_width + self.encoder.feature_width)

    @torch.no_grad()
    def reset_context(self) -> None:
        """Set the contexts to the embeddings of their words, as the text tower now has them."""
        for name, words in zip(MODALITIES, self._context_words(), strict=True):
            getattr(self.context, name).copy_(words)

    def forward(self, visible: Tensor | None, infrared: Tensor | None) -> CompleteFeatures:
        """Everything that a training step reads.

        Args:
            visible: Shape (A, 3, H, W) or None.
            infrared: Shape (B, 3, H, W) or None; not both None.

        Returns:
            `CompleteFeatures` of A + B rows, visible rows first.
        """
        count = 0 if visible is None else len(visible)
        features = self.encode_images(visible, infrared)
        instance = self.generator(features.tokens)
        texts = self._describe(instance, features.projected, MODALITIES)
        complete = None
        if self.compensation is not None:
            missing = torch.cat((texts[1][:count], texts[0][count:]))
            complete = self.compensation(features.projected, missing, count)
        aligned = self.generator.align(instance) if self.generator.layers else None
        visible_text, infrared_text = texts
        return CompleteFeatures(
            features.pooled, features.projected, complete, visible_text, infrared_text, aligned
        )

    def encode_images(self, visible: Tensor | None, infrared: Tensor | None) -> TokenFeatures:
        """Features f and p and projected tokens u, visible rows first.

        See `TwoStemEncoder.encode_tokens`.
        """
        return self.encoder.encode_tokens(visible, infrared, self.modality_embedding)

    def describe(self, features: TokenFeatures, modality: str) -> Tensor:
        """t(x), the descriptions of images in the context of a modality, theirs or the other.

        Args:
            features: Of `encode_images`.
            modality: Whose context: "visible" or "infrared".

        Returns:
            Shape (B, d), not normalised.
        """
        require_choice("ClipMC.describe", "modality", modality, MODALITIES)
        instance = self.generator(features.tokens)
        return self._describe(instance, features.projected, (modality,))[0]

    def complete(self, projected: Tensor, missing_text: Tensor, modality: str) -> Tensor:
        """z, the complete features of images of one modality.

        Args:
            projected: p. Shape (B, d).
            missing_text: Descriptions in the context of the other modality. Shape (B, d).
            modality: The images' own: "visible" or "infrared".

        Returns:
            [visible slot; infrared slot]. Shape (B, 2 d).

        Raises:
            ValueError: The model has no compensation.
        """
        require_choice("ClipMC.complete", "modality", modality, MODALITIES)
        if self.compensation is None:
            raise ValueError(sentence(
                "ClipMC.complete", "compensation", "be part of the model", False,
                "Read the projected features."))  # fmt: skip
        count = projected.shape[0] if modality == "visible" else 0
        return self.compensation(projected, missing_text, count)

    @torch.no_grad()
    def test_features(
        self, images: Tensor, modality: str, *, block: int | None = 64
    ) -> Tensor:
        """Features for retrieval: [norm(BN(z)), norm(f)] of the image and of its mirror image.

        Without compensation [norm(p), norm(f)], and no text is computed. The dot product of two
        such rows is the sum of four cosines; the joint row is not normalised again. A row depends
        on no other row.

        Args:
            images: Normalised images of one modality. Shape (B, 3, H, W).
            modality: "visible" or "infrared".
            block: Images per pass of the image encoder; None: all, as where a graph of any number
                of images is traced. Their prompts are encoded together, so that the tokens all
                prompts begin with are computed once.

        Returns:
            Shape (B, feature_width), float32.
        """
        require_choice("ClipMC.test_features", "modality", modality, MODALITIES)
        views = [images, images.flip(3)]
        if block is not None:
            block = positive_int("ClipMC.test_features", "block", block)
            views = [part for view in views for part in view.split(block)]
        if self.compensation is None:
            parts = [self._visual_features(part, modality) for part in views]
            pooled, first = (torch.cat(rows) for rows in zip(*parts, strict=True))
        else:
            pooled, first = self._complete_features(views, modality)
        rows = torch.cat((F.normalize(first.float()), F.normalize(pooled.float())), dim=1)
        # Rows of the images, then of their mirror images, side by side.
        return rows.unflatten(0, (2, -1)).transpose(0, 1).flatten(1)

    def _visual_features(self, images: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        """f and p of images of one modality; the tokens are not computed."""
        return tuple(self.encoder(*_pair(images, modality), self.modality_embedding))

    def _complete_features(self, blocks: list[Tensor], modality: str) -> tuple[Tensor, Tensor]:
        """f and BN(z) of images of one modality, given in blocks."""
        pooled, projected, instances = [], [], []
        for images in blocks:
            features = self.encode_images(*_pair(images, modality))
            pooled.append(features.pooled)
            projected.append(features.projected)
            instances.append(self.generator(features.tokens))
        p = torch.cat(projected)
        instance = torch.cat(instances) if self.generator.layers else instances[0]
        missing = MODALITIES[1 - MODALITIES.index(modality)]
        (text,) = self._describe(instance, p, (missing,))
        complete = self.complete(p, text, modality)
        assert self.complete_neck is not None  # as `compensation`
        return torch.cat(pooled), self.complete_neck.norm(complete)

    def _describe(
        self, instance: Tensor, projected: Tensor, modalities: tuple[str, ...]
    ) -> list[Tensor]:
        """Descriptions in several contexts, encoded together.

        Args:
            instance: s(x). Shape (B, M, W), or (1, M, W) where all images share it.
            projected: p. Shape (B, d).
            modalities: The contexts.

        Returns:
            For each context shape (B, d).
        """
        if self.context.meta_network is None:
            groups = self._prompts_of_shared_contexts(instance, modalities)
        else:
            groups = self._prompts_of_own_contexts(instance, projected, modalities)
        return [text.expand(projected.shape[0], -1) for text in self.text_encoder(groups)]

    def _prompts_of_shared_contexts(
        self, instance: Tensor, modalities: tuple[str, ...]
    ) -> list[PromptGroup]:
        """Start of text and context are shared by all images; what follows, by the contexts."""
        first = 1 + _CONTEXT_LENGTH
        suffix = self._assemble([TokenSource(instance, 0, mode="insert")], first)
        positions = self.text.positional_embedding[:first]
        start = self.text.token_embedding(self.start_id)
        return [
            PromptGroup(torch.cat((start, self.context(modality))) + positions, suffix)
            for modality in modalities
        ]

    def _prompts_of_own_contexts(
        self, instance: Tensor, projected: Tensor, modalities: tuple[str, ...]
    ) -> list[PromptGroup]:
        """Every image has its own context; start of text alone is shared."""
        start = self.text.token_embedding(self.start_id) + self.text.positional_embedding[:1]
        groups = []
        for modality in modalities:
            sources = [
                TokenSource(self.context(modality, projected), 0, mode="insert"),
                TokenSource(instance, _CONTEXT_LENGTH, mode="insert"),
            ]
            groups.append(PromptGroup(start, self._assemble(sources, 1), (0,)))
        return groups

    def _assemble(self, sources: list[TokenSource], first: int) -> Tensor:
        """Sources, then "person", "." and end of text, at the positions from `first` on."""
        tail = self.text.token_embedding(self.tail_ids)
        length = len(tail) + sum(source.tokens.shape[1] for source in sources)
        positions = self.text.positional_embedding[first : first + length]
        return inject_tokens(tail, sources, positions=positions, backend=self.backend)

    def _context_words(self) -> tuple[Tensor, Tensor]:
        """Embeddings of the words of both contexts, each (4, W)."""
        visible, infrared = self.text.token_embedding(self.context_ids)
        return visible, infrared


def _pair(images: Tensor, modality: str) -> tuple[Tensor | None, Tensor | None]:
    return (images, None) if modality == "visible" else (None, images)


def _token_ids(vocabulary: WordVocabulary | None) -> tuple[Tensor, Tensor, Tensor]:
    """Ids of start of text (1,), of the context words (2, 4), of what ends a prompt (3,).

    The words are those of the templates "visible" and "infrared" (SAMCL) without the article that
    stands before the learned tokens there.
    """
    rows = []
    for name in MODALITIES:
        template = TEMPLATES[name]
        rows.append(template.token_ids if vocabulary is None else template.ids_for(vocabulary))
    ids = torch.tensor(rows)
    return ids[0, :1], ids[:, 1 : 1 + _CONTEXT_LENGTH], ids[0, -_TAIL_LENGTH:]
