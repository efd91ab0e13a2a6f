"""Loss terms that the visual stages of the image methods share."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid_fast.config import VisualLossConfig
from vireid_fast.engine.runtime import Runtime
from vireid_fast.engine.stages.image_batches import ViewBatch
from vireid_fast.losses import (
    FeatureGram,
    cross_modal_contrast,
    image_to_text,
    modality_shared_enhancement,
    weighted_regularized_triplet,
)
from vireid_fast.losses.precision import at_least_float32
from vireid_fast.models.two_stem import ImageFeatures
from vireid_fast.ops import Backend

VIEWS = 3
"""Parts of a batch's rows: first visible view, second visible view, infrared view."""


def encode_views(model: Any, batch: ViewBatch, runtime: Runtime) -> ImageFeatures:
    """Features f and p of the whole batch, rows (visible, exchanged, infrared), in float32.

    Every process encodes its own images and gets the features of all; gradients flow back to the
    process that encoded.
    """
    with runtime.precision.autocast():
        features = model.encode_images(torch.cat((batch.visible, batch.exchanged)), batch.infrared)
    return ImageFeatures(*(gather_parts(feature, VIEWS, runtime) for feature in features))


def gather_parts(rows: Tensor, parts: int, runtime: Runtime) -> Tensor:
    """Rows of all processes, each of the equal parts gathered by itself, in float32 or wider."""
    rows = at_least_float32(rows)
    if runtime.world.size == 1:
        return rows
    return torch.cat([runtime.world.gather(part) for part in rows.chunk(parts)])


def identity_term(logits: Tensor, labels: Tensor, weights: VisualLossConfig) -> Tensor:
    """Weighted cross-entropy of identity logits."""
    loss = F.cross_entropy(
        at_least_float32(logits), labels, label_smoothing=weights.label_smoothing
    )
    return weights.identity * loss


def metric_terms(
    feature: Tensor, labels: Tensor, weights: VisualLossConfig, runtime: Runtime
) -> dict[str, Tensor]:
    """Weighted metric losses of one feature tensor of rows (visible, exchanged, infrared).

    Args:
        feature: Shape (3 B, D).
        labels: Identity of the rows of each part. Shape (B,), int64.
        weights: Weights; a term of weight 0 is left out.
        runtime: The run.
    """
    count = len(labels)
    rows = FeatureGram(feature) if runtime.config.backend == "fused" else feature
    visible, infrared = rows[:count], rows[(VIEWS - 1) * count :]
    terms: dict[str, Tensor] = {}
    if weights.msel:
        terms["msel"] = weights.msel * modality_shared_enhancement(
            visible, infrared, labels, normalized=weights.msel_normalized
        )
    if weights.wrt:
        terms["wrt"] = weights.wrt * weighted_regularized_triplet(
            rows, labels.repeat(VIEWS), parity=weights.wrt_parity
        )
    if weights.contrast:
        terms["contrast"] = weights.contrast * cross_modal_contrast(
            rows[: (VIEWS - 1) * count], infrared, labels.repeat(VIEWS - 1), labels
        )
    return terms


def feature_terms(
    model: Any, features: ImageFeatures, labels: Tensor, weights: VisualLossConfig,
    runtime: Runtime,
) -> dict[str, Tensor]:  # fmt: skip
    """Identity and metric terms of f and p, whose necks are `pooled_neck` and `projected_neck`."""
    terms: dict[str, Tensor] = {}
    necks = (model.pooled_neck, model.projected_neck)
    for name, feature, neck in zip(("f", "p"), features, necks, strict=True):
        logits = neck(feature).logits
        terms[f"identity_{name}"] = identity_term(logits, labels.repeat(VIEWS), weights)
        metric = metric_terms(feature, labels, weights, runtime)
        terms |= {f"{term}_{name}": value for term, value in metric.items()}
    return terms


def text_terms(
    projected: Tensor, bank: Tensor, labels: Tensor, weights: dict[str, float], runtime: Runtime
) -> dict[str, Tensor]:
    """Images against the texts of all identities; the second visible view takes no part.

    Args:
        projected: p, scaled for scores (`scale_for_scores`). Shape (3 B, d).
        bank: Texts, scaled likewise. Shape (C, d).
        labels: Identity of the rows of each part. Shape (B,), int64.
        weights: Weights of "visible" and "infrared".
        runtime: The run.
    """
    count, backend = len(labels), cast(Backend, runtime.config.backend)
    rows = {"visible": projected[:count], "infrared": projected[(VIEWS - 1) * count :]}
    return {
        f"text_{name}": weight * image_to_text(rows[name], bank, labels, backend=backend)
        for name, weight in weights.items()
    }


def total(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms and, as "loss", their sum."""
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}
