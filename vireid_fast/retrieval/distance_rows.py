"""Distances of queries to a gallery, given out in blocks of rows: no Q x G matrix need exist.

What ranks or evaluates a gallery takes any object of the protocol `DistanceRows`: raw features, a
matrix, or distances that are made as they are asked for, such as re-ranked ones.
"""

from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops.pairwise_distance import pairwise_distance

RowMetric = Literal["euclidean", "squared_euclidean", "cosine", "dot"]
ROW_METRICS: tuple[RowMetric, ...] = ("euclidean", "squared_euclidean", "cosine", "dot")

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@runtime_checkable
class DistanceRows(Protocol):
    """Distances of Q queries to G gallery items; small is near.

    `block` must be deterministic and independent of the blocking: a row has the same bits in every
    block that holds it.
    """

    @property
    def num_query(self) -> int:
        """Number of queries, Q."""

    @property
    def num_gallery(self) -> int:
        """Number of gallery items, G."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the blocks."""

    @property
    def device(self) -> torch.device:
        """Device of the blocks."""

    def block(self, begin: int, end: int) -> Tensor:
        """Distances of the queries begin to end - 1. Shape (end - begin, G); do not write to it."""


class FeatureRows:
    """Distances between features, computed when asked for.

    Args:
        query: Shape (Q, D), float32 or float64 (16-bit is widened to float32).
        gallery: Shape (G, D), dtype and device of `query`.
        metric: As of `pairwise_distance`, whose bits the blocks have (on the CPU). For "cosine"
            both sides are normalised once, in a copy.

    Memory: the features themselves, for "cosine" a copy of them, and the block that is asked for.

    Raises:
        ValueError: A shape, device or name does not fit. TypeError: A dtype does not fit.
        RuntimeError: The features require a gradient.
    """

    def __init__(self, query: Tensor, gallery: Tensor, metric: RowMetric = "euclidean") -> None:
        what = "FeatureRows"
        _checks.require_choice(what, "metric", metric, ROW_METRICS)
        _checks.require_dtype(what, "query", query, _FLOATS)
        _checks.require_shape(what, "query", query, ("Q", "D"))
        _checks.require_dtype(what, "gallery", gallery, (query.dtype,))
        _checks.require_shape(what, "gallery", gallery, ("G", query.shape[1]))
        _checks.require_same_device(what, query=query, gallery=gallery)
        _checks.require_no_grad(what, query=query, gallery=gallery)
        self.metric = metric
        self.query, self.gallery = _prepared(query, metric), _prepared(gallery, metric)

    @property
    def num_query(self) -> int:
        """Number of queries."""
        return self.query.shape[0]

    @property
    def num_gallery(self) -> int:
        """Number of gallery items."""
        return self.gallery.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self.query.dtype

    @property
    def device(self) -> torch.device:
        """Device of the features."""
        return self.query.device

    def block(self, begin: int, end: int) -> Tensor:
        """Distances of the queries begin to end - 1. Shape (end - begin, G)."""
        metric: RowMetric = "dot" if self.metric == "cosine" else self.metric
        distances = pairwise_distance(self.query[begin:end], self.gallery, metric=metric)
        return distances.add_(1) if self.metric == "cosine" else distances


class MatrixRows:
    """The rows of a distance matrix.

    Args:
        distances: Small is near. Shape (Q, G), floating point.

    Raises:
        ValueError: The shape does not fit. TypeError: The dtype does not fit.
        RuntimeError: The matrix requires a gradient.
    """

    def __init__(self, distances: Tensor) -> None:
        _checks.require_dtype("MatrixRows", "distances", distances, _FLOATS)
        _checks.require_shape("MatrixRows", "distances", distances, ("Q", "G"))
        _checks.require_no_grad("MatrixRows", distances=distances)
        self.distances = distances

    @property
    def num_query(self) -> int:
        """Number of queries."""
        return self.distances.shape[0]

    @property
    def num_gallery(self) -> int:
        """Number of gallery items."""
        return self.distances.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the matrix."""
        return self.distances.dtype

    @property
    def device(self) -> torch.device:
        """Device of the matrix."""
        return self.distances.device

    def block(self, begin: int, end: int) -> Tensor:
        """A view of the rows begin to end - 1. Shape (end - begin, G)."""
        return self.distances[begin:end]


def _prepared(features: Tensor, metric: RowMetric) -> Tensor:
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()
    if metric != "cosine":
        return features
    norm = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / torch.where(norm > 0, norm, 1)
