"""Neighbour lists to expanded k-reciprocal sets, their weights, and query expansion."""

from vireid_fast.ops.k_reciprocal.api import expand_query, k_reciprocal_sets, reciprocal_weights

__all__ = ["expand_query", "k_reciprocal_sets", "reciprocal_weights"]
