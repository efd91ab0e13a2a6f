"""Ranks of the correct items, by counting, to first rank, AP and INP of each query."""

from vireid_fast.ops.rank_statistics.api import (
    WIDE_METRICS,
    DropRule,
    RankStatistics,
    feature_rank_statistics,
    longest_row,
    rank_statistics,
    ranking_distances,
    wide_rank_statistics,
)
from vireid_fast.ops.rank_statistics.gallery_index import GalleryIndex

__all__ = [
    "WIDE_METRICS",
    "DropRule",
    "GalleryIndex",
    "RankStatistics",
    "feature_rank_statistics",
    "longest_row",
    "rank_statistics",
    "ranking_distances",
    "wide_rank_statistics",
]
