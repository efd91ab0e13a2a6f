"""Tensor ops: one folder each, one public function per op."""

from vireid_fast.ops._registration import BACKENDS
from vireid_fast.ops.cross_modal_attention import (
    AttentionBackend,
    AttentionIndex,
    AttentionPlan,
    attention_plan,
    cross_modal_attention,
)
from vireid_fast.ops.jaccard_distance import jaccard_distance
from vireid_fast.ops.k_reciprocal import expand_query, k_reciprocal_sets, reciprocal_weights
from vireid_fast.ops.knn import KNN, knn, pair_distance, smallest_k
from vireid_fast.ops.pairwise_distance import pairwise_distance
from vireid_fast.ops.prompt_injection import (
    Injected,
    TokenNorm,
    TokenSource,
    inject_tokens,
    prompt_injection,
)
from vireid_fast.ops.rank_statistics import (
    GalleryIndex,
    RankStatistics,
    feature_rank_statistics,
    rank_statistics,
)
from vireid_fast.ops.sparse_rows import SparseRows

__all__ = [
    "BACKENDS",
    "AttentionBackend",
    "AttentionIndex",
    "AttentionPlan",
    "GalleryIndex",
    "KNN",
    "Injected",
    "RankStatistics",
    "SparseRows",
    "TokenNorm",
    "TokenSource",
    "attention_plan",
    "cross_modal_attention",
    "expand_query",
    "feature_rank_statistics",
    "inject_tokens",
    "jaccard_distance",
    "k_reciprocal_sets",
    "knn",
    "pair_distance",
    "pairwise_distance",
    "prompt_injection",
    "rank_statistics",
    "reciprocal_weights",
    "smallest_k",
]
