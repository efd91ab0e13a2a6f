"""Sparse k-reciprocal rows to Jaccard distances."""

from vireid_fast.ops.jaccard_distance.api import jaccard_distance

__all__ = ["jaccard_distance"]
