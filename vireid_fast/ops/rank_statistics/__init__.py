"""Ranks of the correct items, by counting, to first rank, AP and INP of each query."""

from vireid_fast.ops.rank_statistics.api import (
    RankStatistics,
    feature_rank_statistics,
    rank_statistics,
)
from vireid_fast.ops.rank_statistics.gallery_index import GalleryIndex

__all__ = ["GalleryIndex", "RankStatistics", "feature_rank_statistics", "rank_statistics"]
