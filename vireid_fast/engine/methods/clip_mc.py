"""CLIP-MC's one training stage: everything is learned together.

A reimplementation following the abstract; what is the paper's and what is ours: docs/clip_mc.md.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vireid_fast.config import Config
from vireid_fast.engine.clip_setup import Backbone
from vireid_fast.engine.methods.base import Method
from vireid_fast.engine.runtime import Runtime
from vireid_fast.engine.stage import Stage, StagePlan
from vireid_fast.engine.stages.image_batches import ViewBatch
from vireid_fast.engine.stages.plan import stage_plan
from vireid_fast.engine.stages.stored_features import both_directions
from vireid_fast.engine.stages.view_stage import ViewStage
from vireid_fast.engine.stages.visual_terms import (
    VIEWS,
    gather_parts,
    identity_term,
    metric_terms,
    total,
)
from vireid_fast.engine.training_data import TrainingImages
from vireid_fast.losses import compensation_contrast, context_separation, token_alignment
from vireid_fast.models import ClipMC
from vireid_fast.models.clip_mc import CompleteFeatures

HEADS = (
    "neck", "pooling", "generator.", "context.", "compensation.", "modality_embedding",
)  # fmt: skip
TEXT_FACTOR = 0.1


class CLIPMCMethod(Method):
    """CLIP-MC for the engine."""

    model: ClipMC

    @staticmethod
    def processing(config: Config) -> dict[str, str]:
        """See `Method.processing`."""
        first = "norm(BN(z))" if config.clip_mc.compensation else "norm(p)"
        return {"features": f"[{first}; norm(f)]", "mirror image": "concatenated"}

    def build_model(self, backbone: Backbone, num_identities: int) -> nn.Module:
        """See `Method.build_model`."""
        own = self.config.clip_mc
        return ClipMC(
            backbone.clip,
            num_identities,
            backbone.vocabulary,
            base_tokens=own.base_tokens,
            decoder_layers=own.decoder_layers,
            dropout=own.dropout,
            instance_prompts=own.instance_prompts,
            learned_context=own.learned_context,
            compensation=own.compensation,
            meta_network=own.meta_network,
            tune_text=own.tune_text,
            backend=self.backend,
        )

    def warm_started(self) -> None:
        """The contexts begin as words, in the embeddings of the text tower that was loaded."""
        self.model.reset_context()

    def stages(self, data: TrainingImages) -> list[Stage]:
        """The one stage."""
        return [JointStage(self.model, data, self.runtime)]

    def encode(self, images: Tensor, modality: str) -> Tensor:
        """See `Method.encode`."""
        return self.model.test_features(images, modality)


class JointStage(ViewStage):
    """All modules and losses at once.

    L = CE(f) + CE(p) + CE(z) + metric(f) + metric(z) + L_i2t(p, t_m) + L_t2i + L_comp
        + L_align + L_ctx, each with its weight; without MC, p stands for z and L_comp is left out.
    """

    name = "joint"
    chooses_epoch = True

    def __init__(self, model: ClipMC, images: TrainingImages, runtime: Runtime) -> None:
        super().__init__(model, images, runtime)
        self._own = runtime.config.clip_mc

    def prepare(self) -> StagePlan:
        """See `Stage.prepare`."""
        settings = self._own.train
        self._plan_batches(settings.epochs)
        # "context." goes first, as it contains "text.".
        factors = {"context.": settings.head_lr_factor, "text.": TEXT_FACTOR}
        return stage_plan(
            self._model.named_parameters(), settings, heads=HEADS, factors=factors,
            decay_vectors=settings.kind == "adam",
        )  # fmt: skip

    def step(self, batch: ViewBatch) -> dict[str, Tensor]:
        """All losses of one step; "loss" is their weighted sum."""
        weights, labels = self._own.loss, batch.labels
        rows = self._encode(batch)
        features = {"f": (rows.pooled, self._model.pooled_neck),
                    "p": (rows.projected, self._model.projected_neck)}  # fmt: skip
        if rows.complete is not None:
            features["z"] = (rows.complete, self._model.complete_neck)
        terms: dict[str, Tensor] = {}
        for name, (feature, neck) in features.items():
            logits = neck(feature).logits
            terms[f"identity_{name}"] = identity_term(logits, labels.repeat(VIEWS), weights)
        for name in ("f", "z" if "z" in features else "p"):
            metric = metric_terms(features[name][0], labels, weights, self._runtime)
            terms |= {f"{term}_{name}": value for term, value in metric.items()}
        return total(terms | self._text_terms(rows, labels))

    def _encode(self, batch: ViewBatch) -> CompleteFeatures:
        """Everything the model gives for the whole batch, rows (visible, exchanged, infrared)."""
        with self._runtime.precision.autocast():
            own = self._model(torch.cat((batch.visible, batch.exchanged)), batch.infrared)
        parts: Any = (
            None if part is None else gather_parts(part, VIEWS, self._runtime) for part in own
        )
        return CompleteFeatures(*parts)

    def _text_terms(self, rows: CompleteFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Terms of the descriptions; the first rows are the visible images."""
        weights, temperature = self._own.loss, self._own.temperature
        visible = (VIEWS - 1) * len(labels)
        visible_labels, all_labels = labels.repeat(VIEWS - 1), labels.repeat(VIEWS)
        p, t_v, t_r = rows.projected, rows.visible_text, rows.infrared_text
        described = torch.cat((t_v[:visible], t_r[visible:]))
        terms = {
            "description": weights.description
            * both_directions(p, described, all_labels, temperature)["loss"],
            "context": weights.context * context_separation(t_v, t_r, weights.context_margin),
        }  # fmt: skip
        if self._model.compensation is not None:
            terms["compensation"] = weights.compensation * compensation_contrast(
                p[:visible], p[visible:], t_r[:visible], t_v[visible:],
                visible_labels, labels, temperature,
            )  # fmt: skip
        if rows.instance is not None:
            terms["token_alignment"] = weights.token_alignment * token_alignment(
                rows.instance, p, all_labels, temperature
            )
        return terms
