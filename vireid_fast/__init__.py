"""Visible-infrared person re-identification on CLIP, with fast kernels.

Importing needs torch and numpy alone. Methods, data sets and training are imported from their
packages: `vireid_fast.clip`, `vireid_fast.models`, `vireid_fast.data`, `vireid_fast.engine`.
`Extractor` and `from_pretrained` load theirs when they are first used.
"""

from typing import TYPE_CHECKING, Any

from vireid_fast._version import __version__
from vireid_fast.dropin import accelerate, revert
from vireid_fast.ops import (
    AttentionIndex,
    AttentionPlan,
    attention_plan,
    cross_modal_attention,
    expand_query,
    inject_tokens,
    jaccard_distance,
    k_reciprocal_sets,
    knn,
    pair_distance,
    pairwise_distance,
    prompt_injection,
    rank_statistics,
    reciprocal_weights,
    smallest_k,
)
from vireid_fast.retrieval.evaluation import evaluate, evaluate_modes, evaluate_pair
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.rerank import rerank, rerank_distances

if TYPE_CHECKING:
    from vireid_fast.engine.extractor import Extractor, from_pretrained

__all__ = [
    "AttentionIndex",
    "AttentionPlan",
    "Extractor",
    "FeatureSet",
    "__version__",
    "accelerate",
    "attention_plan",
    "cross_modal_attention",
    "evaluate",
    "evaluate_modes",
    "evaluate_pair",
    "expand_query",
    "from_pretrained",
    "inject_tokens",
    "jaccard_distance",
    "k_reciprocal_sets",
    "knn",
    "pair_distance",
    "pairwise_distance",
    "prompt_injection",
    "rank_statistics",
    "reciprocal_weights",
    "rerank",
    "rerank_distances",
    "revert",
    "smallest_k",
]

_LAZY = ("Extractor", "from_pretrained")

if not TYPE_CHECKING:  # A checker would take any name for one that is there.

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            from vireid_fast.engine import extractor

            return getattr(extractor, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
