"""Re-ranking as CLIP-ReID and TransReID do it: a local distance added, float16 roundings.

Both differ from `retrieval.rerank` in what is ranked or rounded, not in the chain.
"""

from typing import Protocol

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import (
    SparseRows,
    expand_query,
    jaccard_distance,
    k_reciprocal_sets,
    pair_distance,
    pairwise_distance,
    reciprocal_weights,
    smallest_k,
)
from vireid_fast.retrieval.half_jaccard import half_jaccard_distance, half_weights
from vireid_fast.retrieval.reciprocal_encoding import (
    SPARE,
    item_name,
    rank_lists,
    require_farthest,
    require_parameters,
)
from vireid_fast.retrieval.squared_distances import (
    FeatureDistances,
    features_in_range,
    fitting_rows,
)

_WHAT = "re_ranking"


def rerank_half(query: Tensor, gallery: Tensor, k1: int, k2: int, lambda_value: float) -> Tensor:
    """`rerank` with the float16 roundings of `half_jaccard_distance`. Returns (Q, G)."""
    parameters = require_parameters(_WHAT, k1, k2, lambda_value)
    return _chain(_Features(query, gallery), *parameters, half=True)


def rerank_with_local(
    features: list[Tensor] | None,
    local: Tensor,
    num_query: int,
    k1: int,
    k2: int,
    lambda_value: float,
    *,
    half: bool,
) -> Tensor:
    """Re-ranking by the squared distance of the features, if any, plus `local`. Returns (Q, G)."""
    parameters = require_parameters(_WHAT, k1, k2, lambda_value)
    joined = None if features is None else torch.cat(features)
    return _chain(_WithLocal(joined, local, num_query), *parameters, half=half)


class _Distances(Protocol):
    """Distances between all N items, queries first; item i ranks by row i."""

    num_query: int
    num_items: int
    block: int  # rows that fit one block

    def lists(self, length: int) -> tuple[Tensor, Tensor]:
        """Nearest items in (normalised distance, index) order (N, length), row maxima (N,)."""

    def pairs(self, row: Tensor, column: Tensor) -> Tensor: ...

    def to_gallery(self, begin: int, end: int) -> Tensor: ...


class _Features:
    """Squared Euclidean distances of features."""

    def __init__(self, query: Tensor, gallery: Tensor):
        (query, gallery), _ = features_in_range(
            _WHAT, query_features=query, gallery_features=gallery
        )
        self.num_query, self.num_items = len(query), len(query) + len(gallery)
        self.block = fitting_rows(self.num_items)
        self._distances = FeatureDistances(query, gallery, self.block)

    def lists(self, length: int) -> tuple[Tensor, Tensor]:
        candidates = self._distances.nearest(min(length + SPARE, self.num_items))
        return rank_lists(self._distances, candidates, length), candidates.farthest

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        features = torch.cat([self._distances.query, self._distances.gallery])
        return pair_distance(features, row, column)

    def to_gallery(self, begin: int, end: int) -> Tensor:
        shape = end - begin, self.num_items - self.num_query
        out = self._distances.query.new_empty(shape)
        self._distances.to_gallery(begin, end, out)
        return out


class _WithLocal:
    """An (N, N) matrix that the caller brings, plus the distances of features if there are any.

    The published code divides columns by their maxima and transposes, so that item i ranks by
    column i. The features' part is computed where it is needed, with the same bits everywhere.
    """

    def __init__(self, features: Tensor | None, local: Tensor, num_query: int):
        self.features, self.local, self.num_query = features, local, num_query
        self.num_items = local.shape[0]
        self.block = fitting_rows(self.num_items)

    def lists(self, length: int) -> tuple[Tensor, Tensor]:
        indices, farthest = [], []
        for items in torch.arange(self.num_items, device=self.local.device).split(self.block):
            rows = self._between(int(items[0]), int(items[-1]) + 1, 0)
            largest = rows.amax(1)
            self._require_scale(rows, largest, int(items[0]))
            scale = torch.where(largest > 0, largest, 1)
            indices.append(smallest_k(rows / scale[:, None], length).indices)
            farthest.append(largest)
        return torch.cat(indices), torch.cat(farthest)

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        local = self.local[column, row]
        return local if self.features is None else pair_distance(self.features, row, column) + local

    def to_gallery(self, begin: int, end: int) -> Tensor:
        return self._between(begin, end, self.num_query)

    def _between(self, begin: int, end: int, first: int) -> Tensor:
        """Distances of the items begin to end - 1 to the items from `first` on."""
        local = self.local[first:, begin:end].T
        if self.features is None:
            return local.contiguous()
        squared = pairwise_distance(
            self.features[begin:end], self.features[first:], metric="squared_euclidean"
        )
        return squared + local

    def _require_scale(self, rows: Tensor, largest: Tensor, begin: int) -> None:
        # A matrix product leaves -1e-7 where 0 is meant, so that some may be negative; not all.
        signless = (largest <= 0) & (rows.amin(1) < 0)
        if bool(signless.any()):
            bad = int(signless.nonzero()[0])
            _checks.require(
                False, _WHAT, "distances", "have a positive maximum in each column",
                f"{largest[bad].item()} in the column of "
                f"{item_name(begin + bad, self.num_query)}",
                "Pass distances, not similarities.",
            )  # fmt: skip


def _chain(distances: _Distances, k1: int, k2: int, lambda_value: float, *, half: bool) -> Tensor:
    """Neighbour lists, reciprocal sets, weights, query expansion, Jaccard, blend."""
    length = min(max(k1 + 1, k2), distances.num_items)
    indices, farthest = distances.lists(length)
    require_farthest(_WHAT, farthest, distances.num_query)
    crow, col = k_reciprocal_sets(indices, k1)
    row = torch.repeat_interleave(crow.diff())
    normalised = distances.pairs(row, col) / farthest[row]
    if half:
        # numpy takes the mean of float16 rows in float32 and rounds it.
        weight = half_weights(crow, normalised).float()
        crow, col, weight = expand_query(crow, col, weight, indices, k2)
        rounded = SparseRows(crow, col, weight.half())
        jaccard = half_jaccard_distance(rounded, distances.num_query)
        # The factor, too, is rounded; the sum with the original distance is not.
        factor = float(jaccard.new_tensor(1 - lambda_value))
        out = (jaccard.float() * factor).half().to(farthest.dtype)
    else:
        weight = reciprocal_weights(crow, normalised)
        rows = expand_query(crow, col, weight, indices, k2)
        out = jaccard_distance(*rows, distances.num_query).mul_(1 - lambda_value)
    for begin in range(0, distances.num_query, distances.block):
        end = min(begin + distances.block, distances.num_query)
        original = distances.to_gallery(begin, end) / farthest[begin:end, None]
        out[begin:end] += original.mul_(lambda_value)
    return out
