"""CSDN's three training stages: prompts, semantic integration, visual embedding.

The stages follow the released code (nengdong96/CSDN@2224959); its quirks are switches of the
`csdn` section. See docs/csdn.md for what is the paper's and what is ours.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vireid_fast.clip.templates import TEMPLATES
from vireid_fast.config import Config
from vireid_fast.engine.clip_setup import Backbone
from vireid_fast.engine.methods.base import Method
from vireid_fast.engine.runtime import Runtime
from vireid_fast.engine.stage import Stage, StagePlan
from vireid_fast.engine.stages.image_batches import ImageBatches, ViewBatch
from vireid_fast.engine.stages.plan import stage_plan
from vireid_fast.engine.stages.stored_features import RowOrder, StoredFeatures, both_directions
from vireid_fast.engine.stages.visual_terms import (
    VIEWS,
    encode_views,
    gather_parts,
    identity_term,
    metric_terms,
    total,
)
from vireid_fast.engine.training_data import TrainingImages
from vireid_fast.losses import image_to_text, scale_for_scores
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
            backend=self.config.backend,
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


class PromptStage:
    """Stage 1: the learned tokens of both modalities, on stored image features.

    L = L_i2t + L_t2i over [visible; infrared] images and texts in one softmax.
    """

    name = "prompts"
    chooses_epoch = False

    def __init__(self, model: CSDN, stored: StoredFeatures, runtime: Runtime) -> None:
        self._model = model
        self._stored = stored
        self._runtime = runtime
        self._settings = runtime.config.csdn.prompts

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        self._pairs = self._stored.extract(place=self.name)
        self._model.eval()
        self._order = RowOrder(
            len(self._pairs.labels), self._settings.batch_size, self._runtime, self.name
        )
        return stage_plan(self._model.prompts.named_parameters(), self._settings)

    def num_batches(self) -> int:
        """See `Stage.num_batches`."""
        return len(self._order)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Positions of pairs, every pair once in random order."""
        return self._order.epoch(epoch)

    def describe(self, batch: Tensor) -> str:
        """See `Stage.describe`."""
        return self._stored.describe(self._pairs.labels[batch])

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Both directions of the image-text contrast; processes share the texts."""
        pairs, world = self._pairs, self._runtime.world
        labels = pairs.labels[batch]
        with self._runtime.precision.autocast():
            own = self._model.encode_texts(labels[world.row_slice(len(labels))])
        texts = torch.cat([gather_parts(part, 1, self._runtime) for part in own])
        images = torch.cat((pairs.visible[batch], pairs.infrared[batch]))
        temperature = self._runtime.config.csdn.text_temperature
        return both_directions(images, texts, labels.repeat(2), temperature)


class FusionStage:
    """Stage 2: semantic integration, on stored features and frozen texts.

    The prompts are frozen, so the texts of all identities are two constant tables, computed once.
    """

    name = "fusion"
    chooses_epoch = False

    def __init__(self, model: CSDN, stored: StoredFeatures, runtime: Runtime) -> None:
        self._model = model
        self._stored = stored
        self._runtime = runtime
        self._own = runtime.config.csdn

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        pairs = self._stored.extract(
            place=self.name, batch_statistics=self._own.extract_with_batch_statistics
        )
        self._images = torch.cat((pairs.visible, pairs.infrared))
        self._labels = pairs.labels.repeat(2)
        self._texts = [self._model.text_bank(m) for m in ("visible", "infrared")]
        self._order = RowOrder(
            len(self._labels), self._own.fusion.batch_size, self._runtime, self.name
        )
        return stage_plan(self._model.integration.named_parameters(), self._own.fusion)

    def num_batches(self) -> int:
        """See `Stage.num_batches`."""
        return len(self._order)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Positions of images of both modalities, every image once in random order."""
        return self._order.epoch(epoch)

    def describe(self, batch: Tensor) -> str:
        """See `Stage.describe`."""
        return self._stored.describe(self._labels[batch])

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Both directions of the contrast with the integrated texts."""
        world, labels = self._runtime.world, self._labels[batch]
        self._model.integration.train()
        own = labels[world.row_slice(len(labels))]
        texts = world.gather(self._model.integration(*(table[own] for table in self._texts)))
        return both_directions(self._images[batch], texts, labels, self._own.text_temperature)


class VisualStage:
    """Stage 3: the image encoder, with identity, MSEL, WRT and image-to-text losses."""

    name = "visual"
    chooses_epoch = True

    def __init__(self, model: CSDN, images: TrainingImages, runtime: Runtime) -> None:
        self._model = model
        self._images = images
        self._runtime = runtime
        self._own = runtime.config.csdn

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        own = self._own
        self._batches = ImageBatches(self._images, self._runtime, self.name, own.visual.epochs)
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

    def num_batches(self) -> int:
        """See `Stage.num_batches`."""
        return len(self._batches)

    def batches(self, epoch: int) -> Iterator[ViewBatch]:
        """Augmented views of identity-balanced batches."""
        self._model.train()
        return self._batches.epoch(epoch)

    def describe(self, batch: ViewBatch) -> str:
        """See `Stage.describe`."""
        return self._batches.describe(batch)

    def step(self, batch: ViewBatch) -> dict[str, Tensor]:
        """All losses of one step; "loss" is their weighted sum."""
        weights, labels = self._own.loss, batch.labels
        features = encode_views(self._model, batch, self._runtime)
        necks = (self._model.pooled_neck, self._model.projected_neck)
        terms: dict[str, Tensor] = {}
        for name, feature, neck in zip(("f", "p"), features, necks, strict=True):
            logits = neck(feature).logits
            terms[f"identity_{name}"] = identity_term(logits, labels.repeat(VIEWS), weights)
            metric = metric_terms(feature, labels, weights, self._runtime)
            terms |= {f"{term}_{name}": value for term, value in metric.items()}
        if self._bank is not None:
            terms |= self._text_terms(features.projected, batch)
        return total(terms)

    def _text_terms(self, projected: Tensor, batch: ViewBatch) -> dict[str, Tensor]:
        """Images against the frozen texts; the second visible view takes no part."""
        weights, count = self._own.loss, len(batch.labels)
        p = scale_for_scores(projected, self._own.text_temperature)
        factor = 0.5 * (1 + math.cos(math.pi * batch.progress)) if weights.text_decay else 1.0
        terms = {}
        for name, rows, weight in (
            ("visible", p[:count], weights.visible_text),
            ("infrared", p[2 * count :], weights.infrared_text),
        ):
            loss = image_to_text(
                rows, self._bank, batch.labels, backend=self._runtime.config.backend
            )
            terms[f"text_{name}"] = factor * weight * loss
        return terms
