"""k nearest neighbours from features or from a distance matrix, ties by the lower index."""

from vireid_fast.ops.knn.api import KNN, knn, pair_distance, smallest_k

__all__ = ["KNN", "knn", "pair_distance", "smallest_k"]
