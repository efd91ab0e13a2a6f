"""LSMRL's one training stage on clips.

A reimplementation following the abstract (arXiv 2601.12062); what is the paper's and what is ours:
docs/lsmrl.md.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid_fast.config import Config
from vireid_fast.engine.clip_setup import Backbone, named_template
from vireid_fast.engine.methods.base import Method, require_vit
from vireid_fast.engine.runtime import Runtime
from vireid_fast.engine.stage import Stage, StagePlan
from vireid_fast.engine.stages.clip_batches import ClipBatch, ClipBatches
from vireid_fast.engine.stages.plan import stage_plan
from vireid_fast.engine.stages.visual_terms import gather_parts, total
from vireid_fast.engine.training_data import TrainingTracklets
from vireid_fast.losses import (
    FeatureGram,
    cross_modal_contrast,
    hetero_center_triplet,
    image_to_text,
    maximum_mean_discrepancy,
    multi_modality_alignment,
    scale_for_scores,
    weighted_regularized_triplet,
)
from vireid_fast.models import LSMRL
from vireid_fast.ops import Backend
from vireid_fast.ops.cross_modal_attention import Mode

HEADS = ("neck", "prompts.", "diffusion.", "interaction.")
MODALITIES = 2


class LSMRLMethod(Method):
    """LSMRL for the engine."""

    model: LSMRL
    video: ClassVar[bool] = True

    @staticmethod
    def processing(config: Config) -> dict[str, str]:
        """See `Method.processing`."""
        return {"features": "[norm(f); norm(p)]"}

    def build_model(self, backbone: Backbone, num_identities: int) -> nn.Module:
        """See `Method.build_model`."""
        require_vit(backbone, "lsmrl")
        own = self.config.lsmrl
        template = named_template(own.template).with_context_length(own.context_length)
        model = LSMRL(
            backbone.clip,
            num_identities,
            torch.tensor(backbone.ids_of(template)),
            template.context_start,
            own.context_length,
            groups=own.groups,
            grouped_blocks=own.grouped_blocks,
            shift_blocks=own.shift_blocks,
            pattern=own.pattern,
            diffusion=own.diffusion,
            interaction=own.interaction,
            interaction_mode=cast(Mode, own.interaction_mode),
            backend=self.backend,
        )
        # The bank of a model that has not been trained, for a baseline.
        model.refresh_bank()
        return model

    def stages(self, data: TrainingTracklets) -> list[Stage]:
        """The one stage."""
        return [SequenceStage(self.model, data, self.runtime)]

    def encode(self, images: Tensor, modality: str) -> Tensor:
        """See `Method.encode`; `images` are clips."""
        return self.model.test_features(images, modality)


class SequenceStage:
    """Encoder, prompts, diffusion and interaction, trained together.

    L = CE(f) + CE(p) + CE(h) + WRT(f_last) + WRT(f) + WRT(p) + WRT(h) + CE(p T^T) + L_keep
        + L_mc + L_md, each with its weight; h is left out without interaction.
    """

    name = "sequence"
    chooses_epoch = True

    def __init__(self, model: LSMRL, tracklets: TrainingTracklets, runtime: Runtime) -> None:
        self._model = model
        self._tracklets = tracklets
        self._runtime = runtime
        self._own = runtime.config.lsmrl

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        own = self._own
        self._batches = ClipBatches(self._tracklets, self._runtime, self.name, own.steps)
        return stage_plan(
            self._model.named_parameters(), own.train, heads=HEADS,
            decay_vectors=own.train.kind == "adam",
        )  # fmt: skip

    def num_batches(self) -> int:
        """See `Stage.num_batches`."""
        return len(self._batches)

    def batches(self, epoch: int) -> Iterator[ClipBatch]:
        """Augmented clips; after the last one the bank of testing becomes that of the prompts."""
        self._model.train()
        yield from self._batches.epoch(epoch)
        self._model.refresh_bank()

    def describe(self, batch: ClipBatch) -> str:
        """See `Stage.describe`."""
        return self._batches.describe(batch)

    def step(self, batch: ClipBatch) -> dict[str, Tensor]:
        """All losses of one step; "loss" is their weighted sum."""
        weights, labels = self._own.loss, batch.labels
        features, bank = self._encode(batch)
        both = labels.repeat(MODALITIES)
        necks: dict[str, Any] = {"f": self._model.pooled_neck, "p": self._model.projected_neck,
                 "h": self._model.interaction_neck}  # fmt: skip
        terms: dict[str, Tensor] = {}
        grams = {}
        for name, rows in features.items():
            grams[name] = FeatureGram(rows) if self._runtime.config.backend == "fused" else rows
            if weights.wrt:
                loss = weighted_regularized_triplet(grams[name], both)
                terms[f"wrt_{name}"] = weights.wrt * loss
            if name in necks:
                logits = necks[name](rows).logits
                terms[f"identity_{name}"] = weights.identity * F.cross_entropy(logits, both)
        if weights.text:
            scale = self._own.text_temperature
            p, texts = (scale_for_scores(x, scale) for x in (features["p"], bank))
            loss = image_to_text(
                p, texts, both, backend=cast(Backend, self._runtime.config.backend)
            )
            terms["text"] = weights.text * loss
        if "h" in features:
            # What testing has must not need what only training has.
            terms["keep"] = weights.keep * F.mse_loss(features["f"], features["h"].detach())
        terms |= self._modality_terms(features, grams, labels)
        return total(terms)

    def _encode(self, batch: ClipBatch) -> tuple[dict[str, Tensor], Tensor]:
        """Features of the whole batch, rows (visible, infrared), float32; and the text bank."""
        part = self._runtime.world.row_slice(self._model.num_identities)
        with self._runtime.precision.autocast():
            # Processes share the texts as well.
            bank = gather_parts(self._model.text_bank(part), 1, self._runtime)
            found = self._model.encode_clips(batch.visible, batch.infrared, bank)
            own = {"last": found.last, "f": found.pooled, "p": found.projected}
            if self._model.interaction is not None:
                count = len(batch.visible)
                halves = found.rows(0, count), found.rows(count, 2 * count)
                own["h"] = torch.cat(self._model.interact(*halves))
        rows = {name: gather_parts(x, MODALITIES, self._runtime) for name, x in own.items()}
        return rows, bank

    def _modality_terms(
        self, features: dict[str, Tensor], grams: dict[str, Tensor | FeatureGram], labels: Tensor
    ) -> dict[str, Tensor]:
        """The two modality-level losses: through identities, and of the distributions."""
        weights, count = self._own.loss, len(labels)
        terms = {}
        if weights.alignment:
            aligned = [name for name in ("f", "h") if name in features]
            losses = [self._alignment(features[name], grams[name], labels) for name in aligned]
            terms["alignment"] = weights.alignment * torch.stack(losses).mean()
        if weights.discrepancy:
            rows = grams["f"]
            loss = maximum_mean_discrepancy(rows[:count], rows[count:])
            terms["discrepancy"] = weights.discrepancy * loss
        return terms

    def _alignment(self, rows: Tensor, gram: Tensor | FeatureGram, labels: Tensor) -> Tensor:
        weights, count = self._own.loss, len(labels)
        if weights.alignment_kind == "hetero_center":
            return hetero_center_triplet(rows[:count], rows[count:], labels, labels)
        if weights.alignment_kind == "mma":
            return multi_modality_alignment(gram[:count], gram[count:], labels, labels)
        return cross_modal_contrast(gram[:count], gram[count:], labels, labels, weights.temperature)
