"""Ranks of the correct items, by counting, to first rank, AP and INP of each query."""

from vireid_fast.ops.rank_statistics.api import RankStatistics, rank_statistics

__all__ = ["RankStatistics", "rank_statistics"]
