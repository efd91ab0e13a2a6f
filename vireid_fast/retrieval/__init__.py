"""Retrieval: re-ranking, feature expansion, metrics, protocols, evaluation.

The public names. `rerank` here is the function; its module is imported by its full name.
"""

from vireid_fast.retrieval.batched import rerank_galleries, rerank_query_sets
from vireid_fast.retrieval.distance_rows import DistanceRows, FeatureRows, MatrixRows
from vireid_fast.retrieval.dropin import re_ranking, re_ranking_from_distances
from vireid_fast.retrieval.dropin_metrics import eval_func, eval_llcm, eval_regdb, eval_sysu
from vireid_fast.retrieval.evaluation import (
    evaluate,
    evaluate_modes,
    evaluate_pair,
    evaluate_rows,
    evaluate_settings,
)
from vireid_fast.retrieval.expansion import (
    alpha_query_expansion,
    average_query_expansion,
    database_augmentation,
)
from vireid_fast.retrieval.feature_set import FeatureSet, feature_set_from_arrays
from vireid_fast.retrieval.metrics import Metrics, MetricsSummary, average, metrics_from_ranks
from vireid_fast.retrieval.neighbors import rerank_from_neighbors, rows_from_neighbors
from vireid_fast.retrieval.protocols import PROTOCOLS, default_modes, get_protocol, protocol_modes
from vireid_fast.retrieval.rerank import rerank, rerank_distances, rerank_top_k, top_k_lists
from vireid_fast.retrieval.reranked_rows import RerankedRows
from vireid_fast.retrieval.results import EvaluationResult, RerankParameters, combine
from vireid_fast.retrieval.search import SearchResult, search, search_rows
from vireid_fast.retrieval.sharded import (
    ShardedRerank,
    distances_sharded,
    evaluate_sharded,
    rerank_sharded,
)
from vireid_fast.retrieval.sharded_distances import ShardedDistances
from vireid_fast.retrieval.sharded_outside import OutsideNeighbors
from vireid_fast.retrieval.streaming import streamed_rank_statistics

__all__ = [
    "PROTOCOLS",
    "DistanceRows",
    "EvaluationResult",
    "FeatureRows",
    "FeatureSet",
    "MatrixRows",
    "Metrics",
    "MetricsSummary",
    "OutsideNeighbors",
    "RerankParameters",
    "RerankedRows",
    "SearchResult",
    "ShardedDistances",
    "ShardedRerank",
    "alpha_query_expansion",
    "average",
    "average_query_expansion",
    "combine",
    "database_augmentation",
    "default_modes",
    "distances_sharded",
    "eval_func",
    "eval_llcm",
    "eval_regdb",
    "eval_sysu",
    "evaluate",
    "evaluate_modes",
    "evaluate_pair",
    "evaluate_rows",
    "evaluate_settings",
    "evaluate_sharded",
    "feature_set_from_arrays",
    "get_protocol",
    "metrics_from_ranks",
    "protocol_modes",
    "re_ranking",
    "re_ranking_from_distances",
    "rerank",
    "rerank_distances",
    "rerank_from_neighbors",
    "rerank_galleries",
    "rerank_query_sets",
    "rerank_sharded",
    "rerank_top_k",
    "rows_from_neighbors",
    "search",
    "search_rows",
    "streamed_rank_statistics",
    "top_k_lists",
]
