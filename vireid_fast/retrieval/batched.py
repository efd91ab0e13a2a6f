"""Re-ranking of several galleries or query sets in one call, which shares what they share."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import (
    KNN,
    blend_jaccard,
    centred_distance,
    centred_error,
    knn,
    merge_lists,
)
from vireid_fast.retrieval.arrays import as_float_tensors
from vireid_fast.retrieval.reciprocal_encoding import EncodingParameters, encode, require_parameters
from vireid_fast.retrieval.reranked_rows import Array, as_given, memory_of
from vireid_fast.retrieval.squared_distances import (
    FeatureDistances,
    features_in_range,
    workspace_rows,
)
from vireid_fast.retrieval.workspace import Workspace

# Items up to which measuring all pairs coarsely is faster than preparing a search.
_FEW = 512


def rerank_galleries(
    query_features: Array,
    galleries: Sequence[Array],
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    workspace: int | None = None,
) -> list[Array]:
    """`rerank` of the same queries with each of several galleries, such as a protocol's trials.

    The queries' neighbours among themselves are searched for once. Each gallery adds its items to
    these lists: only the distances of queries to gallery, which the result needs anyway, and those
    within the gallery are new.

    Args:
        query_features: See `rerank`.
        galleries: Features of each gallery. Shapes (G, D), G may differ.
        k1: See `rerank`.
        k2: See `rerank`.
        lambda_value: See `rerank`.
        workspace: See `rerank`; for the largest gallery.

    Returns:
        For each gallery what `rerank(query_features, gallery, ...)` returns, in every bit.

    Not differentiable. Deterministic, as `rerank`. Memory: O(Q G) for each output and
    O(N (k1 + D)) besides.

    Raises:
        ValueError: No gallery is given, or as `rerank`. TypeError: As `rerank`.
        RuntimeError: As `rerank`.
    """
    return list(_rerank_each(
        "rerank_galleries", "query_features", query_features, "galleries", galleries,
        (k1, k2, lambda_value), workspace,
    ))  # fmt: skip


def rerank_query_sets(
    query_sets: Sequence[Array],
    gallery_features: Array,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    workspace: int | None = None,
) -> list[Array]:
    """`rerank` of each of several query sets with the same gallery.

    The gallery's neighbours among themselves are searched for once; see `rerank_galleries`.

    Args:
        query_sets: Features of each set of queries. Shapes (Q, D), Q may differ.
        gallery_features: See `rerank`.
        k1: See `rerank`.
        k2: See `rerank`.
        lambda_value: See `rerank`.
        workspace: See `rerank`; for the largest set.

    Returns:
        For each set what `rerank(query_set, gallery_features, ...)` returns, in every bit.

    Not differentiable. Deterministic, as `rerank`. Memory: O(Q G) for each output and
    O(N (k1 + D)) besides.

    Raises:
        ValueError: No set is given, or as `rerank`. TypeError: As `rerank`.
        RuntimeError: As `rerank`.
    """
    return list(_rerank_each(
        "rerank_query_sets", "gallery_features", gallery_features, "query_sets", query_sets,
        (k1, k2, lambda_value), workspace,
    ))  # fmt: skip


def iterate_galleries(
    query_features: Array,
    galleries: Sequence[Array],
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    workspace: int | None = None,
) -> Iterator[Array]:
    """The results of `rerank_galleries` one by one, so that a single Q x G matrix exists at a time.

    Arguments and errors, which come with the first result, are those of `rerank_galleries`.
    """
    return _rerank_each(
        "rerank_galleries", "query_features", query_features, "galleries", galleries,
        (k1, k2, lambda_value), workspace,
    )  # fmt: skip


def iterate_query_sets(
    query_sets: Sequence[Array],
    gallery_features: Array,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    workspace: int | None = None,
) -> Iterator[Array]:
    """The results of `rerank_query_sets` one by one; see `iterate_galleries`."""
    return _rerank_each(
        "rerank_query_sets", "gallery_features", gallery_features, "query_sets", query_sets,
        (k1, k2, lambda_value), workspace,
    )  # fmt: skip


def _rerank_each(
    what: str,
    shared_name: str,
    shared: Array,
    parts_name: str,
    parts: Sequence[Array],
    parameters: tuple[int, int, float],
    workspace: int | None,
) -> Iterator[Array]:
    checked = require_parameters(what, *parameters)
    _checks.require(
        not isinstance(parts, (Tensor, np.ndarray)), what, parts_name,
        "be a sequence of feature arrays", type(parts).__name__, "Pass a list.", TypeError,
    )  # fmt: skip
    _checks.require(len(parts) > 0, what, parts_name, "hold at least one", 0)
    side = _SharedSide(
        what, shared_name, shared, checked, max(len(part) for part in parts), workspace
    )
    for index, part in enumerate(parts):
        result = side.rerank_with(f"{parts_name}[{index}]", part)
        yield as_given(result, shared if shared_name == "query_features" else part)


class _Known(NamedTuple):
    """What is known of a side in one dtype and scale."""

    lists: KNN
    centred: Tensor | None  # queries less the first one, and their lengths
    lengths: Tensor | None


class _SharedSide:
    """The side that all calls have in common, with the lists of its items among themselves.

    Each pair of sides has the dtype and the scale that it has alone, so that the bits are the same;
    what is known of the shared side is kept for each such dtype and scale.
    """

    def __init__(
        self,
        what: str,
        name: str,
        features: Array,
        parameters: EncodingParameters,
        most_others: int,
        workspace: int | None,
    ):
        self._what, self._name = what, name
        self._features: Any = features
        self._is_query = name == "query_features"
        self._parameters, self._workspace = parameters, workspace
        self._width = parameters.candidates(len(features) + most_others)
        self._known: dict[tuple[torch.dtype, tuple[float, ...]], _Known] = {}

    def rerank_with(self, name: str, other: Array) -> Tensor:
        """Re-ranked distances of the shared side and another. Shape (Q, G)."""
        what = self._what
        query, gallery = (self._features, other) if self._is_query else (other, self._features)
        with memory_of(what, query, gallery, self._parameters):
            return self._rerank_with(name, other)

    def _rerank_with(self, name: str, other: Array) -> Tensor:
        what = self._what
        given = {self._name: self._features, name: other}
        names = list(given) if self._is_query else list(given)[::-1]
        tensors = as_float_tensors(what, **{key: given[key] for key in names})
        (query, gallery), factors = features_in_range(
            what, **dict(zip(names, tensors, strict=True))
        )
        num_items = query.shape[0] + gallery.shape[0]
        block = workspace_rows(what, self._workspace, num_items, query.shape[1], query.dtype)
        distances = FeatureDistances(query, gallery, block, factors, what=what)
        key = query.dtype, factors
        if key not in self._known:
            self._known[key] = self._learn(distances.query if self._is_query else distances.gallery)
        return _rerank_pair(what, distances, self._parameters, self._known[key])

    def _learn(self, features: Tensor) -> _Known:
        lists = knn(features, features, min(self._width, features.shape[0]))
        if not self._is_query:
            return _Known(lists, None, None)
        centred = features - features[0]
        return _Known(lists, centred, torch.linalg.vector_norm(centred, dim=1))


def _rerank_pair(
    what: str, distances: FeatureDistances, parameters: EncodingParameters, known: _Known
) -> Tensor:
    """One re-ranking, of which the lists of one side among itself are known."""
    query, gallery = distances.query, distances.gallery
    num_query, k = distances.num_query, parameters.candidates(distances.num_items)
    # As `to_gallery` has it; the queries' part is shared where they are.
    centre = query[0]
    centred = query - centre if known.centred is None else known.centred
    lengths = torch.linalg.vector_norm(centred, dim=1) if known.lengths is None else known.lengths
    centred_gallery = gallery - centre
    out = centred_distance(centred, centred_gallery, None)
    slack = _slack(lengths, torch.linalg.vector_norm(centred_gallery, dim=1), query.shape[1])

    if known.centred is None:
        of_query, of_gallery = _lists_of(query, centred, k, distances.workspace), known.lists
    else:
        of_query = known.lists
        of_gallery = _lists_of(gallery, centred_gallery, k, distances.workspace)
    of_gallery = of_gallery._replace(indices=of_gallery.indices + num_query)
    parts = [
        _merged(query, gallery, out, slack[0], of_query, num_query, k, distances.workspace),
        _merged(gallery, query, out.T, slack[1], of_gallery, 0, k, distances.workspace),
    ]
    candidates = KNN(*(torch.cat(part) for part in zip(*parts, strict=True)))
    encoding = encode(what, distances, parameters, candidates)
    return blend_jaccard(
        encoding.rows, encoding.gallery, out, encoding.farthest[:num_query], 0,
        parameters.lambda_value,
    )  # fmt: skip


def _lists_of(features: Tensor, centred: Tensor, k: int, workspace: Workspace) -> KNN:
    """The nearest of the features among themselves."""
    count = features.shape[0]
    k = min(k, count)
    if count > _FEW:
        return knn(features, features, k)
    length = torch.linalg.vector_norm(centred, dim=1)
    slack, _ = _slack(length, length, features.shape[1])
    nothing = KNN(
        features.new_empty((count, 0)),
        torch.empty((count, 0), dtype=torch.int64, device=features.device),
        features.new_zeros(count),
    )
    coarse = centred_distance(centred, centred, None)
    return _merged(features, features, coarse, slack, nothing, 0, k, workspace)


def _merged(
    x: Tensor,
    y: Tensor,
    coarse: Tensor,
    slack: Tensor,
    lists: KNN,
    first_index: int,
    k: int,
    workspace: Workspace,
) -> KNN:
    """The lists of x with the items y, which are numbered from `first_index` on."""

    def merge(first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = slice(first, last)
        return merge_lists(
            x[rows], y, coarse[rows], slack[rows], lists.distances[rows], lists.indices[rows],
            lists.farthest[rows], first_index, k,
        )  # fmt: skip

    parts = workspace.over(0, x.shape[0], merge)
    return KNN(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _slack(query: Tensor, gallery: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """How far centred distances and those of the lists differ at most, by query and gallery item.

    A measured distance is right to (D / 8 + 8) u: its sum runs in at least eight lanes, u = eps /
    2. The arguments are the lengths of the centred rows; 1.01 covers their own rounding.
    """
    error = centred_error(width, query.dtype) + (width / 8 + 8) * torch.finfo(query.dtype).eps / 2
    return (
        1.01 * error * (query + gallery.amax()).square(),
        1.01 * error * (gallery + query.amax()).square(),
    )
