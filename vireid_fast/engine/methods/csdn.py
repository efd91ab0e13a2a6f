"""CSDN's three training stages: prompts, semantic integration, visual embedding.

The stages follow the released code (nengdong96/CSDN@2224959); its quirks are switches of the
`csdn` section. See docs/csdn.md for what is the paper's and what is ours.
"""

import math

import torch
from torch import Tensor, nn

from vireid_fast.clip.templates import TEMPLATES
from vireid_fast.config import Config
from vireid_fast.engine.clip_setup import Backbone
from vireid_fast.engine.methods.base import Method
from vireid_fast.engine.stage import Stage, StagePlan
from vireid_fast.engine.stages.image_batches import ViewBatch
from vireid_fast.engine.stages.plan import stage_plan
from vireid_fast.engine.stages.stored_features import StoredFeatures, StoredStage, both_directions
from vireid_fast.engine.stages.view_stage import ViewStage
from vireid_fast.engine.stages.visual_terms import (
    encode_views,
    feature_terms,
    gather_parts,
    text_terms,
    total,
)
from vireid_fast.engine.training_data import TrainingImages
from vireid_fast.losses import scale_for_scores
from vireid_fast.models import CSDN

HEADS = ("neck", "pooling")


class CSDNMethod(Method):
    """CSDN for the engine."""

    model: CSDN

    @staticmethod
    def processing(config: Config) -> dict[str, str]:
        """See `Method.processing`."""
        return {"features": "[norm(BN(f)); norm(p)]", "mirror image": "concatenated"}

    def build_model(self, backbone: Backbone, num_identities: int) -> nn.Module:
        """See `Method.build_model`."""
        own = self.config.csdn
        names = {"visible": own.visible_template, "infrared": own.infrared_template}
        ids = {
            m: torch.tensor(backbone.template_ids(name, own.context_length))
            for m, name in names.items()
        }
        return CSDN(
            backbone.clip,
            num_identities,
            ids,
            {m: TEMPLATES[name].context_start for m, name in names.items()},
            own.context_length,
            integration=own.integration,
            dropout=own.dropout,
            backend=self.backend,
        )

    def stages(self, data: TrainingImages) -> list[Stage]:
        """Prompts, fusion, visual; the visual stage alone without text terms."""
        visual = VisualStage(self.model, data, self.runtime)
        if not self.config.csdn.text_terms:
            return [visual]
        stored = StoredFeatures(self.model, data, self.runtime)
        return [
            PromptStage(self.model, stored, self.runtime),
            FusionStage(self.model, stored, self.runtime),
            visual,
        ]

    def encode(self, images: Tensor, modality: str) -> Tensor:
        """See `Method.encode`."""
        return self.model.test_features(images, modality)


class PromptStage(StoredStage):
    """Stage 1: the learned tokens of both modalities, on stored image features.

    L = L_i2t + L_t2i over [visible; infrared] images and texts in one softmax.
    """

    name = "prompts"

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        settings = self._runtime.config.csdn.prompts
        self._pairs = self._stored.extract(place=self.name)
        self._model.eval()
        self._plan_rows(self._pairs.labels, settings.batch_size)
        return stage_plan(self._model.prompts.named_parameters(), settings)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Both directions of the image-text contrast; processes share the texts."""
        pairs, world, labels = self._pairs, self._runtime.world, self._labels[batch]
        with self._runtime.precision.autocast():
            own = self._model.encode_texts(labels[world.row_slice(len(labels))])
        texts = torch.cat([gather_parts(part, 1, self._runtime) for part in own])
        images = torch.cat((pairs.visible[batch], pairs.infrared[batch]))
        temperature = self._runtime.config.csdn.text_temperature
        return both_directions(images, texts, labels.repeat(2), temperature)


class FusionStage(StoredStage):
    """Stage 2: semantic integration, on stored features and frozen texts.

    The prompts are frozen, so the texts of all identities are two constant tables, computed once.
    """

    name = "fusion"

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        own = self._runtime.config.csdn
        pairs = self._stored.extract(
            place=self.name, batch_statistics=own.extract_with_batch_statistics
        )
        self._images = torch.cat((pairs.visible, pairs.infrared))
        self._texts = [self._model.text_bank(m) for m in ("visible", "infrared")]
        self._plan_rows(pairs.labels.repeat(2), own.fusion.batch_size)
        return stage_plan(self._model.integration.named_parameters(), own.fusion)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Both directions of the contrast with the integrated texts."""
        world, labels = self._runtime.world, self._labels[batch]
        self._model.integration.train()
        own = labels[world.row_slice(len(labels))]
        texts = world.gather(self._model.integration(*(table[own] for table in self._texts)))
        temperature = self._runtime.config.csdn.text_temperature
        return both_directions(self._images[batch], texts, labels, temperature)


class VisualStage(ViewStage):
    """Stage 3: the image encoder, with identity, MSEL, WRT and image-to-text losses."""

    name = "visual"
    chooses_epoch = True

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        own = self._runtime.config.csdn
        self._plan_batches(own.visual.epochs)
        self._bank = None
        if own.text_terms:
            self._model.eval()
            self._model.integration.train(own.bank_dropout)
            self._bank = scale_for_scores(
                self._model.integrated_bank(), own.text_temperature
            )
        named = (
            (name, parameter)
            for name, parameter in self._model.named_parameters()
            if name.startswith(("encoder.", "pooled_neck.", "projected_neck."))
        )
        return stage_plan(
            named, own.visual, heads=HEADS, decay_vectors=own.visual.kind == "adam"
        )

    def step(self, batch: ViewBatch) -> dict[str, Tensor]:
        """All losses of one step; "loss" is their weighted sum."""
        own = self._runtime.config.csdn
        weights, labels = own.loss, batch.labels
        features = encode_views(self._model, batch, self._runtime)
        terms = feature_terms(self._model, features, labels, weights, self._runtime)
        if self._bank is not None:
            decay = 0.5 * (1 + math.cos(math.pi * batch.progress)) if weights.text_decay else 1.0
            terms |= text_terms(
                scale_for_scores(features.projected, own.text_temperature), self._bank, labels,
                {"visible": decay * weights.visible_text,
                 "infrared": decay * weights.infrared_text},
                self._runtime,
            )  # fmt: skip
        return total(terms)
