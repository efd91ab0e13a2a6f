"""Tensor ops: one folder each, one public function per op."""

from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.centred_distance import centred_distance, centred_error
from vireid_fast.ops.count_nearer import count_nearer
from vireid_fast.ops.cross_modal_attention import (
    AttentionBackend,
    AttentionIndex,
    AttentionPlan,
    attention_plan,
    cross_modal_attention,
)
from vireid_fast.ops.jaccard_distance import (
    InvertedRows,
    blend_jaccard,
    invert_rows,
    jaccard_distance,
)
from vireid_fast.ops.k_reciprocal import (
    entry_distance,
    expand_query,
    k_reciprocal_sets,
    rank_normalised,
    reciprocal_weights,
)
from vireid_fast.ops.knn import KNN, knn, pair_distance, smallest_k
from vireid_fast.ops.merge_lists import merge_lists
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
    ranking_distances,
    row_lengths,
    wide_rank_statistics,
)
from vireid_fast.ops.sparse_rows import SparseRows

__all__ = [
    "BACKENDS",
    "AttentionBackend",
    "AttentionIndex",
    "AttentionPlan",
    "Backend",
    "GalleryIndex",
    "KNN",
    "Injected",
    "InvertedRows",
    "RankStatistics",
    "SparseRows",
    "TokenNorm",
    "TokenSource",
    "attention_plan",
    "blend_jaccard",
    "centred_distance",
    "centred_error",
    "count_nearer",
    "cross_modal_attention",
    "entry_distance",
    "expand_query",
    "feature_rank_statistics",
    "inject_tokens",
    "invert_rows",
    "jaccard_distance",
    "k_reciprocal_sets",
    "knn",
    "merge_lists",
    "pair_distance",
    "pairwise_distance",
    "prompt_injection",
    "rank_normalised",
    "rank_statistics",
    "ranking_distances",
    "reciprocal_weights",
    "row_lengths",
    "smallest_k",
    "wide_rank_statistics",
]
