"""CLIP4VI-ReID's three training stages: TSG, IFE, HSA.

A reimplementation following the abstract (arXiv 2511.10309); what is the paper's and what is ours:
docs/clip4vi_reid.md.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vireid_fast.config import Config
from vireid_fast.engine.clip_setup import Backbone, named_template
from vireid_fast.engine.methods.base import Method
from vireid_fast.engine.runtime import Runtime
from vireid_fast.engine.stage import Stage, StagePlan
from vireid_fast.engine.stages.image_batches import ViewBatch
from vireid_fast.engine.stages.plan import stage_plan
from vireid_fast.engine.stages.stored_features import StoredFeatures, StoredStage, both_directions
from vireid_fast.engine.stages.view_stage import ViewStage
from vireid_fast.engine.stages.visual_terms import (
    VIEWS,
    encode_views,
    feature_terms,
    gather_parts,
    identity_term,
    text_terms,
    total,
)
from vireid_fast.engine.training_data import TrainingImages
from vireid_fast.losses import (
    scale_for_scores,
    supervised_contrast,
    weighted_regularized_triplet,
)
from vireid_fast.losses.precision import at_least_float32
from vireid_fast.models import CLIP4VIReID

HEADS = ("neck", "pooling", "text_norm")
VISUAL = ("encoder.", "pooled_neck.", "projected_neck.")
VISIBLE_STEM = "encoder.visual.stem."


class CLIP4VIReIDMethod(Method):
    """CLIP4VI-ReID for the engine."""

    model: CLIP4VIReID

    @staticmethod
    def processing(config: Config) -> dict[str, str]:
        """See `Method.processing`."""
        return {"features": "[norm(BN(f)); norm(p)]", "mirror image": "concatenated"}

    def build_model(self, backbone: Backbone, num_identities: int) -> nn.Module:
        """See `Method.build_model`."""
        own = self.config.clip4vi_reid
        template = named_template(own.template).with_context_length(own.context_length)
        model = CLIP4VIReID(
            backbone.clip,
            num_identities,
            torch.tensor(backbone.ids_of(template)),
            template.context_start,
            own.context_length,
            backend=self.backend,
        )
        if model.prompts is not None:
            model.prompts.requires_grad_(own.learned_prompts)
        return model

    def stages(self, data: TrainingImages) -> list[Stage]:
        """TSG where there are tokens to learn, IFE where it has epochs, HSA."""
        own = self.config.clip4vi_reid
        stages: list[Stage] = []
        if learns_texts(self.model):
            stored = StoredFeatures(self.model, data, self.runtime)
            stages.append(TextStage(self.model, stored, self.runtime))
        if own.ife.epochs:
            stages.append(InfraredStage(self.model, data, self.runtime))
        return [*stages, AlignmentStage(self.model, data, self.runtime)]

    def encode(self, images: Tensor, modality: str) -> Tensor:
        """See `Method.encode`."""
        return self.model.test_features(images, modality)


def learns_texts(model: CLIP4VIReID) -> bool:
    """Whether the model has tokens, and may learn them."""
    return model.prompts is not None and model.prompts.context.requires_grad


class TextStage(StoredStage):
    """Stage 1, TSG: one text per identity, learned from visible images on stored features.

    L = L_v2t + L_t2v with all encoders frozen. Infrared images take no part, as they are far from
    what CLIP has seen; `text_from: both` lets them, as an ablation.
    """

    name = "tsg"

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        own = self._runtime.config.clip4vi_reid
        pairs = self._stored.extract(place=self.name)
        self._images, labels = pairs.visible, pairs.labels
        if own.text_from == "both":
            self._images = torch.cat((pairs.visible, pairs.infrared))
            labels = pairs.labels.repeat(2)
        self._model.eval()
        self._plan_rows(labels, own.tsg.batch_size)
        return stage_plan(self._model.prompts.named_parameters(), own.tsg)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Both directions of the image-text contrast; processes share the texts."""
        world, labels = self._runtime.world, self._labels[batch]
        with self._runtime.precision.autocast():
            own = self._model.encode_text(labels[world.row_slice(len(labels))])
        texts = gather_parts(own, 1, self._runtime)
        temperature = self._runtime.config.clip4vi_reid.text_temperature
        return both_directions(self._images[batch], texts, labels, temperature)


class InfraredStage(ViewStage):
    """Stage 2, IFE: constant texts rectify the embedding of infrared images.

    L = CE(p_R T^T) + L_r2t + L_t2r + CE(f_R) + CE(p_R) + WRT([f_V; f_V'; f_R]) + CE(p_V T^T), each
    with its weight. It trains the shared encoder and the infrared stem; the visible stem rests.
    """

    name = "ife"
    chooses_epoch = False

    def __init__(self, model: CLIP4VIReID, images: TrainingImages, runtime: Runtime) -> None:
        super().__init__(model, images, runtime)
        self._own = runtime.config.clip4vi_reid
        self._own_stems = model.encoder.infrared_stem is not None

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        settings = self._own.ife
        self._plan_batches(settings.epochs)
        self._model.eval()
        self._bank = self._model.text_bank()
        named = (
            (name, parameter)
            for name, parameter in self._model.named_parameters()
            if name.startswith(VISUAL)
            and not (self._own_stems and name.startswith(VISIBLE_STEM))
        )
        return stage_plan(named, settings, heads=HEADS, decay_vectors=settings.kind == "adam")

    def batches(self, epoch: int) -> Iterator[ViewBatch]:
        """Augmented views of identity-balanced batches."""
        batches = super().batches(epoch)
        if self._own_stems:
            # Its batch norms rest as well.
            self._model.encoder.visual.stem.eval()
        return batches

    def step(self, batch: ViewBatch) -> dict[str, Tensor]:
        """All losses of one step; "loss" is their weighted sum."""
        weights, labels, count = self._own.ife_loss, batch.labels, len(batch.labels)
        temperature = self._own.text_temperature
        pooled, projected = encode_views(self._model, batch, self._runtime)
        infrared = projected[2 * count :]
        bank, p = (scale_for_scores(x, temperature) for x in (self._bank, projected))
        shares = {"visible": weights.anchor, "infrared": weights.text}
        terms = {
            **text_terms(p, bank, labels, shares, self._runtime),
            "contrast": weights.contrast
            * both_directions(infrared, self._bank[labels], labels, temperature)["loss"],
            "wrt": weights.wrt * weighted_regularized_triplet(pooled, labels.repeat(VIEWS)),
        }
        necks = (self._model.pooled_neck, self._model.projected_neck)
        infrared_rows = (pooled[2 * count :], infrared)
        for name, rows, neck in zip(("f", "p"), infrared_rows, necks, strict=True):
            terms[f"identity_{name}"] = weights.identity * identity_term(
                neck(rows).logits, labels, self._own.loss
            )
        return total(terms)


class AlignmentStage(ViewStage):
    """Stage 3, HSA: images of both modalities and texts are aligned together.

    L = CE(f) + CE(p) + WRT + MSEL + CE(p_V T^T) + CE(p_R T^T) + L_t2i(t, sg[p_V; p_R]) + CE(h(t)),
    each with its weight. t are the texts of the batch's identities, which are tuned; the other rows
    of T are those of the epoch's beginning or of their last batch. h is the identity classifier of
    p, so that texts keep what identifies.
    """

    name = "hsa"
    chooses_epoch = True

    def __init__(self, model: CLIP4VIReID, images: TrainingImages, runtime: Runtime) -> None:
        super().__init__(model, images, runtime)
        self._own = runtime.config.clip4vi_reid
        self._tunes = self._own.text_tuning and learns_texts(model)

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        settings = self._own.hsa
        self._plan_batches(settings.epochs)
        trained = (*VISUAL, "text_norm.", "prompts.") if self._tunes else VISUAL
        named = (
            (name, parameter)
            for name, parameter in self._model.named_parameters()
            if name.startswith(trained)
        )
        return stage_plan(
            named, settings, heads=HEADS, factors={"prompts.": self._own.prompt_lr_factor},
            decay_vectors=settings.kind == "adam",
        )  # fmt: skip

    def batches(self, epoch: int) -> Iterator[ViewBatch]:
        """Augmented views; the texts of all identities are computed anew for each epoch.

        So a resumed run has the bank of an uninterrupted one.
        """
        self._model.eval()
        self._bank = self._model.text_bank()
        return super().batches(epoch)

    def step(self, batch: ViewBatch) -> dict[str, Tensor]:
        """All losses of one step; "loss" is their weighted sum."""
        weights, labels, count = self._own.loss, batch.labels, len(batch.labels)
        features = encode_views(self._model, batch, self._runtime)
        terms = feature_terms(self._model, features, labels, weights, self._runtime)
        projected, bank = features.projected, self._bank
        if self._tunes:
            # K rows of each identity follow each other.
            people = labels[:: self._runtime.config.sampler.instances]
            texts = self._texts(people)
            bank = self._bank.index_copy(0, people, texts)
            self._bank = bank.detach()
            terms["refinement"] = weights.text_refinement * self._refine(
                texts, people, torch.cat((projected[:count], projected[2 * count :])), labels
            )
        temperature = self._own.text_temperature
        bank, p = (scale_for_scores(x, temperature) for x in (bank, projected))
        shares = {"visible": weights.visible_text, "infrared": weights.infrared_text}
        return total(terms | text_terms(p, bank, labels, shares, self._runtime))

    def _texts(self, people: Tensor) -> Tensor:
        """Texts of identities, each computed by one process. Shape (P, d)."""
        world = self._runtime.world
        with self._runtime.precision.autocast():
            own = self._model.encode_text(people[world.row_slice(len(people))])
        return world.gather(own.to(self._bank.dtype))

    def _refine(self, texts: Tensor, people: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """L_t2i(t, sg[p_V; p_R]) + CE(h(t)): texts move towards images, not the reverse."""
        scale = self._own.text_temperature
        contrast = supervised_contrast(
            scale_for_scores(texts, scale), scale_for_scores(images.detach(), scale),
            people, labels.repeat(2),
        )  # fmt: skip
        logits = self._model.text_logits(texts)
        return contrast + nn.functional.cross_entropy(at_least_float32(logits), people)
