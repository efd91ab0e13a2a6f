"""Ranks of the correct items, by counting, to first rank, AP and INP of each query."""

from vireid_fast.ops.rank_statistics.api import (
    DropRule,
    RankStatistics,
    feature_rank_statistics,
    rank_statistics,
)
from vireid_fast.ops.rank_statistics.gallery_index import GalleryIndex

__all__ = [
    "DropRule",
    "GalleryIndex",
    "RankStatistics",
    "feature_rank_statistics",
    "rank_statistics",
]
