"""Losses of the methods, one per file; all computed in float32 or wider."""

from vireid_fast.losses.compensation import (
    compensation_contrast,
    context_separation,
    token_alignment,
)
from vireid_fast.losses.contrast import cross_modal_contrast, scale_for_scores, supervised_contrast
from vireid_fast.losses.gram import FeatureGram
from vireid_fast.losses.hetero_center import hetero_center_triplet
from vireid_fast.losses.image_to_text import image_to_text
from vireid_fast.losses.mma import multi_modality_alignment
from vireid_fast.losses.mmd import maximum_mean_discrepancy
from vireid_fast.losses.msel import modality_shared_enhancement
from vireid_fast.losses.triplet import weighted_regularized_triplet

__all__ = [
    "FeatureGram",
    "compensation_contrast",
    "context_separation",
    "cross_modal_contrast",
    "hetero_center_triplet",
    "image_to_text",
    "maximum_mean_discrepancy",
    "modality_shared_enhancement",
    "multi_modality_alignment",
    "scale_for_scores",
    "supervised_contrast",
    "token_alignment",
    "weighted_regularized_triplet",
]
