"""k-reciprocal re-ranking, exact and sparse: no N x N matrix unless the caller brings one.

Zhong, Zheng, Cao, Li: Re-ranking person re-identification with k-reciprocal encoding, CVPR 2017.
The published Python code is the model, with ties broken by the lower index.
"""

import warnings
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import (
    KNN,
    expand_query,
    jaccard_distance,
    k_reciprocal_sets,
    knn,
    pair_distance,
    pairwise_distance,
    reciprocal_weights,
    smallest_k,
)

Array = TypeVar("Array", Tensor, np.ndarray)

# Neighbours fetched beyond the needed ones. Dividing by the row maximum can round two distances to
# one value; a strictly larger value in the spare columns proves that no tie was cut off.
_SPARE = 3
# Elements of a (block, N) distance block: 32 MB in float32.
_BLOCK_ELEMENTS = 1 << 23


def rerank(
    query_features: Array,
    gallery_features: Array,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    query_block: int | None = None,
) -> Array:
    """Re-ranked distances from features: (1 - lambda) Jaccard + lambda normalised distance.

    The distance is the squared Euclidean one, divided by its maximum over all N = Q + G items in
    the row of the query.

    Args:
        query_features: Shape (Q, D), torch or numpy; float32, float64 (all in float64), or 16-bit
            (widened to float32).
        gallery_features: Shape (G, D), same kind and dtype.
        k1: Neighbours of the k-reciprocal sets, at least 1; lists clip at N.
        k2: Neighbours of the query expansion, at least 1; 1 means none; clips at N.
        lambda_value: Share of the original distance, in [0, 1].
        query_block: Rows of a distance block; default by memory. The result does not depend on it.

    Returns:
        Distances of queries to gallery items, small is near. Shape (Q, G), the kind of the input.
        NaN where all N items coincide, as published; a warning names the row.

    Not differentiable. Deterministic: bitwise the same for every block size and thread count.
    Memory: O(Q G) for the output and O(N (k1 + D)) besides.

    Raises:
        ValueError: A shape or range does not fit, or a feature is NaN or infinite (names the row).
        TypeError: A type or dtype does not fit.
        RuntimeError: The features require a gradient.
    """
    query, gallery = _as_tensors(
        "rerank", query_features=query_features, gallery_features=gallery_features
    )
    parameters = _parameters("rerank", k1, k2, lambda_value)
    if query_block is not None:
        query_block = _checks.positive_int("rerank", "query_block", query_block)
    distances = _FeatureDistances(query, gallery, query_block)
    return _as_given(_rerank("rerank", distances, *parameters), query_features)


def rerank_distances(
    query_gallery: Array,
    query_query: Array,
    gallery_gallery: Array,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> Array:
    """Re-ranked distances from Euclidean distance matrices, as the published function takes them.

    The distances are squared here and, as published, rounded to float32. `query_gallery` serves
    both triangles.

    Args:
        query_gallery: Shape (Q, G), torch or numpy, floating point, finite, not negative.
        query_query: Shape (Q, Q).
        gallery_gallery: Shape (G, G).
        k1: See `rerank`, as k2 and lambda_value.
        k2: See `rerank`.
        lambda_value: See `rerank`.

    Returns:
        Distances of queries to gallery items. Shape (Q, G), float32, the kind of the input.

    Not differentiable. Deterministic. Memory: O(Q G) for the output, O(N k1) and the squares of
    one block of rows besides.

    Raises:
        ValueError: A shape or range does not fit, or a distance is NaN, infinite or negative.
        TypeError: A type or dtype does not fit.
        RuntimeError: A matrix requires a gradient.
    """
    what = "rerank_distances"
    blocks = _as_tensors(
        what,
        query_gallery=query_gallery,
        query_query=query_query,
        gallery_gallery=gallery_gallery,
    )
    parameters = _parameters(what, k1, k2, lambda_value)
    return _as_given(_rerank(what, _MatrixDistances(*blocks), *parameters), query_gallery)


def top_k_lists(distances: Array, k: int) -> KNN:
    """The k nearest gallery items of each query, ties by the lower index; NaN comes last.

    Args:
        distances: Shape (Q, G), torch or numpy, floating point.
        k: Length of the lists, at least 1; clips to G.

    Returns:
        Tensors: distances (Q, k) and indices (Q, k) int64 of the lists, and the row maxima (Q,).

    Raises:
        ValueError: A shape or range does not fit. TypeError: A type or dtype does not fit.
    """
    return smallest_k(_to_tensor("top_k_lists", "distances", distances), k)


class _Distances(Protocol):
    """Squared distances between all N = Q + G items, queries first, as far as they are asked for.

    Row i holds the distances that item i ranks by; `rows` takes ascending items. A pair has
    bitwise the same value in every method.
    """

    num_query: int
    num_items: int
    block: int  # rows that fit one block

    def nearest(self, k: int) -> KNN: ...

    def rows(self, items: Tensor) -> Tensor: ...

    def pairs(self, row: Tensor, column: Tensor) -> Tensor: ...

    def to_gallery(self, begin: int, end: int) -> Tensor: ...


class _FeatureDistances:
    """Distances computed from features whenever needed."""

    def __init__(self, query: Tensor, gallery: Tensor, block: int | None):
        what = "rerank"
        _checks.require_shape(what, "query_features", query, ("Q", "D"))
        _checks.require_shape(what, "gallery_features", gallery, ("G", query.shape[1]))
        for name, features in (("query_features", query), ("gallery_features", gallery)):
            _checks.require(
                features.numel() > 0, what, name, "have at least one row and one column",
                tuple(features.shape),
            )  # fmt: skip
            _checks.require_finite(what, name, features)
        self.num_query = query.shape[0]
        self.features = torch.cat([query, gallery])
        self.num_items = self.features.shape[0]
        self.block = block or _fitting_rows(self.num_items)

    def nearest(self, k: int) -> KNN:
        return knn(self.features, self.features, k)

    def rows(self, items: Tensor) -> Tensor:
        return self._between(self.features[items], self.features)

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        return pair_distance(self.features, row, column)

    def to_gallery(self, begin: int, end: int) -> Tensor:
        return self._between(self.features[begin:end], self.features[self.num_query :])

    @staticmethod
    def _between(x: Tensor, y: Tensor) -> Tensor:
        return pairwise_distance(x, y, metric="squared_euclidean")


class _MatrixDistances:
    """Distances read from the caller's Euclidean matrices.

    The published code divides each column by its maximum and transposes, so that item i ranks by
    column i of the whole matrix.
    """

    def __init__(self, query_gallery: Tensor, query_query: Tensor, gallery_gallery: Tensor):
        what = "rerank_distances"
        _checks.require_shape(what, "query_gallery", query_gallery, ("Q", "G"))
        _checks.require(
            query_gallery.numel() > 0, what, "query_gallery",
            "have at least one row and one column", tuple(query_gallery.shape),
        )  # fmt: skip
        num_query, num_gallery = query_gallery.shape
        _checks.require_shape(what, "query_query", query_query, (num_query, num_query))
        _checks.require_shape(what, "gallery_gallery", gallery_gallery, (num_gallery, num_gallery))
        for name, matrix in (
            ("query_gallery", query_gallery),
            ("query_query", query_query),
            ("gallery_gallery", gallery_gallery),
        ):
            _checks.require_finite(what, name, matrix)
            smallest = float(matrix.min())
            _checks.require(
                smallest >= 0, what, name, "hold no negative distance", smallest,
                "Pass Euclidean distances, not similarities.",
            )  # fmt: skip
        self.query_gallery = query_gallery
        self.query_query = query_query
        self.gallery_gallery = gallery_gallery
        self.num_query = num_query
        self.num_items = num_query + num_gallery
        self.block = _fitting_rows(self.num_items)

    def nearest(self, k: int) -> KNN:
        items = torch.arange(self.num_items, device=self.query_gallery.device)
        lists = [smallest_k(self.rows(block), k) for block in items.split(self.block)]
        return KNN(*(torch.cat(parts) for parts in zip(*lists, strict=True)))

    def rows(self, items: Tensor) -> Tensor:
        queries = items[items < self.num_query]
        others = items[items >= self.num_query] - self.num_query
        query_rows = torch.cat([self.query_query[:, queries].T, self.query_gallery[queries]], 1)
        gallery_rows = torch.cat(
            [self.query_gallery[:, others].T, self.gallery_gallery[:, others].T], 1
        )
        return self._square(torch.cat([query_rows, gallery_rows]))

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        values = self.query_gallery.new_empty(row.shape)
        from_query, to_query = row < self.num_query, column < self.num_query
        for matrix, chosen, first, second in (
            (self.query_query, from_query & to_query, column, row),
            (self.query_gallery, from_query & ~to_query, row, column - self.num_query),
            (self.query_gallery, ~from_query & to_query, column, row - self.num_query),
            (
                self.gallery_gallery,
                ~from_query & ~to_query,
                column - self.num_query,
                row - self.num_query,
            ),
        ):
            values[chosen] = matrix[first[chosen], second[chosen]]
        return self._square(values)

    def to_gallery(self, begin: int, end: int) -> Tensor:
        return self._square(self.query_gallery[begin:end])

    @staticmethod
    def _square(distances: Tensor) -> Tensor:
        return distances.square().float()


def _rerank(what: str, distances: _Distances, k1: int, k2: int, lambda_value: float) -> Tensor:
    """The chain: neighbour lists, reciprocal sets, weights, query expansion, Jaccard, blend."""
    list_length = min(max(k1 + 1, k2), distances.num_items)
    candidates = distances.nearest(min(list_length + _SPARE, distances.num_items))
    farthest = candidates.farthest
    _check_farthest(what, farthest, distances.num_query)
    indices = _rank_normalised(distances, candidates, list_length)

    crow, col = k_reciprocal_sets(indices, k1)
    row = torch.repeat_interleave(crow.diff())
    weight = reciprocal_weights(crow, distances.pairs(row, col) / farthest[row])
    crow, col, weight = expand_query(crow, col, weight, indices, k2)
    out = jaccard_distance(crow, col, weight, distances.num_query)
    for begin in range(0, distances.num_query, distances.block):
        end = min(begin + distances.block, distances.num_query)
        original = distances.to_gallery(begin, end) / farthest[begin:end, None]
        out[begin:end].mul_(1 - lambda_value).add_(original.mul_(lambda_value))
    return out


def _rank_normalised(distances: _Distances, candidates: KNN, k: int) -> Tensor:
    """The first k items of each row in the order (distance / row maximum, index).

    The division is monotone, but can round neighbouring distances to one value, which the index
    then orders.
    """
    # 0 / 0 has no order; all items of such a row tie, as they do for the stable sort of NaN.
    scale = torch.where(candidates.farthest > 0, candidates.farthest, 1)[:, None]
    by_index = candidates.indices.sort(1)
    normalised = (candidates.distances / scale).gather(1, by_index.indices)
    order = normalised.sort(dim=1, stable=True)
    indices = by_index.values.gather(1, order.indices)[:, :k]
    if order.values.shape[1] < distances.num_items:
        # A tie that reaches the end of the candidates may go on beyond them with a lower index.
        open_rows = (order.values[:, k - 1] == order.values[:, -1]).nonzero().flatten()
        for items in open_rows.split(distances.block):
            indices[items] = smallest_k(distances.rows(items) / scale[items], k).indices
    return indices.contiguous()


def _check_farthest(what: str, farthest: Tensor, num_query: int) -> None:
    infinite = (~torch.isfinite(farthest)).nonzero().flatten()
    if infinite.numel():
        _checks.require(
            False, what, "squared distances", f"be finite in {farthest.dtype}",
            f"{farthest[infinite[0]].item()} in the row of {_item(int(infinite[0]), num_query)}",
            "Scale the input down or pass float64 features.",
        )  # fmt: skip
    zero = (farthest == 0).nonzero().flatten()
    if zero.numel():
        warnings.warn(
            f"{what}: all distances of {_item(int(zero[0]), num_query)} are 0 ({zero.numel()} such "
            "rows), so that normalising divides 0 by 0; its results are NaN.",
            RuntimeWarning,
            stacklevel=4,
        )


def _item(row: int, num_query: int) -> str:
    return f"query {row}" if row < num_query else f"gallery item {row - num_query}"


def _parameters(what: str, k1: int, k2: int, lambda_value: float) -> tuple[int, int, float]:
    k1, k2 = _checks.positive_int(what, "k1", k1), _checks.positive_int(what, "k2", k2)
    _checks.require(
        isinstance(lambda_value, (int, float, np.floating, np.integer)),
        what, "lambda_value", "be a number", repr(lambda_value), error=TypeError,
    )  # fmt: skip
    _checks.require(0 <= lambda_value <= 1, what, "lambda_value", "lie in [0, 1]", lambda_value)
    return k1, k2, float(lambda_value)


def _fitting_rows(num_items: int) -> int:
    return max(1, _BLOCK_ELEMENTS // num_items)


def _to_tensor(what: str, name: str, value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, np.ndarray):
        _checks.require(
            value.dtype in (np.float16, np.float32, np.float64), what, name,
            "be float16, float32 or float64", value.dtype, "Convert with .astype(numpy.float32).",
            TypeError,
        )  # fmt: skip
        value = torch.from_numpy(np.require(value, requirements=["C", "W"]))
    _checks.require_tensor(what, name, value)
    floats = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    _checks.require_dtype(what, name, value, floats)
    _checks.require_no_grad(what, **{name: value})
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _as_tensors(what: str, **arrays: Tensor | np.ndarray) -> list[Tensor]:
    tensors = {name: _to_tensor(what, name, value) for name, value in arrays.items()}
    first = next(iter(tensors.values()))
    for name, value in tensors.items():
        _checks.require_dtype(what, name, value, (first.dtype,))
    _checks.require_same_device(what, **tensors)
    return list(tensors.values())


def _as_given(result: Tensor, given: Array) -> Array:
    return result.numpy() if isinstance(given, np.ndarray) else result
