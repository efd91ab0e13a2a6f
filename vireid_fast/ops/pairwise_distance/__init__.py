"""Distances between all rows of two matrices."""

from vireid_fast.ops.pairwise_distance.api import pairwise_distance

__all__ = ["pairwise_distance"]
