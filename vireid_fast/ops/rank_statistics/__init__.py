"""Ranks of the correct items, by counting, to first rank, AP and INP of each query."""

from vireid_fast.ops.rank_statistics.api import (
    DropRule,
    RankStatistics,
    feature_rank_statistics,
    rank_statistics,
)
from vireid_fast.ops.rank_statistics.gallery_index import GalleryIndex
from vireid_fast.ops.rank_statistics.wide import (
    WIDE_METRICS,
    ranking_distances,
    row_lengths,
    wide_rank_statistics,
)

__all__ = [
    "WIDE_METRICS",
    "DropRule",
    "GalleryIndex",
    "RankStatistics",
    "feature_rank_statistics",
    "rank_statistics",
    "ranking_distances",
    "row_lengths",
    "wide_rank_statistics",
]
