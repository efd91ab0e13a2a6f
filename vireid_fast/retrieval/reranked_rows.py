"""Re-ranked distances row block by row block: no Q x G matrix need exist."""

from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from vireid_fast.ops import KNN, smallest_k
from vireid_fast.retrieval.arrays import as_float_tensors
from vireid_fast.retrieval.reciprocal_encoding import (
    Encoding,
    EncodingParameters,
    encode,
    fill_reranked,
    require_parameters,
)
from vireid_fast.retrieval.squared_distances import (
    FeatureDistances,
    SquaredDistances,
    features_in_range,
    workspace_rows,
)
from vireid_fast.retrieval.workspace import stated

Array = TypeVar("Array", Tensor, np.ndarray)


class RerankedRows:
    """Re-ranked distances of queries to a gallery, made as they are asked for.

    Follows the protocol `DistanceRows`, so that what evaluates or searches a gallery takes it; its
    rows have the bits of `rerank`.

    Args:
        query_features: See `rerank`, as all arguments.
        gallery_features: See `rerank`.
        k1: See `rerank`.
        k2: See `rerank`.
        lambda_value: See `rerank`.
        workspace: See `rerank`.

    Memory: O(N (k1 + D)), and each block that is asked for. The features are not copied where they
    are contiguous and in range: leave them as they are while blocks are asked for.

    Raises:
        ValueError: See `rerank`. TypeError: See `rerank`. RuntimeError: See `rerank`.
    """

    def __init__(
        self,
        query_features: Tensor | np.ndarray,
        gallery_features: Tensor | np.ndarray,
        k1: int = 20,
        k2: int = 6,
        lambda_value: float = 0.3,
        *,
        workspace: int | None = None,
    ):
        what = "RerankedRows"
        parameters = require_parameters(what, k1, k2, lambda_value)
        with stated(what, lambda: _state(query_features, gallery_features, parameters)):
            distances = feature_distances(what, query_features, gallery_features, workspace)
            self._set(distances, encode(what, distances, parameters), parameters)

    @classmethod
    def of_encoding(
        cls, distances: SquaredDistances, encoding: Encoding, parameters: EncodingParameters
    ) -> "RerankedRows":
        """The rows that an encoding of given distances gives."""
        rows = cls.__new__(cls)
        rows._set(distances, encoding, parameters)
        return rows

    def _set(
        self, distances: SquaredDistances, encoding: Encoding, parameters: EncodingParameters
    ) -> None:
        self._distances = distances
        self._encoding = encoding
        self._lambda_value = parameters.lambda_value

    @property
    def num_query(self) -> int:
        """Number of queries, Q."""
        return self._distances.num_query

    @property
    def num_gallery(self) -> int:
        """Number of gallery items, G."""
        return self._distances.num_items - self._distances.num_query

    @property
    def dtype(self) -> torch.dtype:
        """float32, or float64 for float64 features."""
        return self._distances.dtype

    @property
    def device(self) -> torch.device:
        """Device of the features."""
        return self._distances.device

    def block(self, begin: int, end: int) -> Tensor:
        """Distances of the queries begin to end - 1. Shape (end - begin, G)."""
        out = torch.empty((end - begin, self.num_gallery), dtype=self.dtype, device=self.device)
        self._distances.workspace.over(
            begin, end,
            lambda first, last: self._fill(first, last, out[first - begin : last - begin]),
            at_once=self._distances.filled,
        )  # fmt: skip
        return out

    def _fill(self, begin: int, end: int, out: Tensor) -> None:
        fill_reranked(self._distances, self._encoding, self._lambda_value, begin, end, out)

    def top_k(self, k: int) -> KNN:
        """The k nearest gallery items of each query, without holding all distances.

        Args:
            k: Length of the lists, at least 1; clips to G.

        Returns:
            Re-ranked distances (Q, k) and indices (Q, k) in (distance, index) order, NaN last, and
            the largest distance of each query (Q,).
        """
        parts = self._distances.workspace.over(
            0, self.num_query, lambda first, last: smallest_k(self.block(first, last), k)
        )
        return KNN(*(torch.cat(part) for part in zip(*parts, strict=True)))


def feature_distances(
    what: str,
    query_features: Tensor | np.ndarray,
    gallery_features: Tensor | np.ndarray,
    workspace: int | None,
) -> FeatureDistances:
    """The distances of checked features."""
    query, gallery = as_float_tensors(
        what, query_features=query_features, gallery_features=gallery_features
    )
    (query, gallery), factors = features_in_range(
        what, query_features=query, gallery_features=gallery
    )
    num_items = query.shape[0] + gallery.shape[0]
    block = workspace_rows(what, workspace, num_items, query.shape[1], query.dtype)
    return FeatureDistances(query, gallery, block, factors, what=what)


def memory_of(
    what: str,
    query: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    parameters: EncodingParameters,
    columns: int | None = None,
) -> AbstractContextManager[None]:
    """`stated` with what a re-ranking needs.

    Args:
        what: Name of the caller.
        query: Features of the queries.
        gallery: Features of the gallery.
        parameters: Of the re-ranking.
        columns: Columns of the result where it is lists; None for distances to the whole gallery.
    """

    def needs() -> str:
        result = len(query) * (len(gallery) if columns is None else 3 * min(columns, len(gallery)))
        return f"a result of {4 * result:,} bytes, {_state(query, gallery, parameters)}"

    return stated(what, needs)


def _state(
    query: Tensor | np.ndarray, gallery: Tensor | np.ndarray, parameters: EncodingParameters
) -> str:
    """What grows with the number of items, in words; at least, in float32."""
    items, width = len(query) + len(gallery), query.shape[1]
    held = 4 * items * (width + 3 * parameters.candidates(items))
    return f"features and lists of {items:,} items, about {held:,} bytes, and the workspace"


def as_given(result: Tensor, given: Array) -> Array:
    """The result as the kind of array that was given."""
    return result.cpu().numpy() if isinstance(given, np.ndarray) else result
