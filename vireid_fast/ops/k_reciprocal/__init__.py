"""Neighbour lists to expanded reciprocal sets to sparse weights."""

from vireid_fast.ops.k_reciprocal.api import (
    entry_distance,
    expand_query,
    k_reciprocal_sets,
    rank_normalised,
    reciprocal_weights,
)

__all__ = [
    "entry_distance",
    "expand_query",
    "k_reciprocal_sets",
    "rank_normalised",
    "reciprocal_weights",
]
