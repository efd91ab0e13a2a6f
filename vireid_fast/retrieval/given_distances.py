"""Re-ranking as CLIP-ReID and TransReID do it: a local distance added, float16 roundings.

Both differ from `retrieval.rerank` in what is ranked or rounded, not in the chain.
"""

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import (
    KNN,
    SparseRows,
    expand_query,
    k_reciprocal_sets,
    pair_distance,
    pairwise_distance,
)
from vireid_fast.retrieval.half_jaccard import half_jaccard_distance, half_weights
from vireid_fast.retrieval.reciprocal_encoding import (
    EncodingParameters,
    encode,
    fill_reranked,
    item_name,
    rank_lists,
    require_farthest,
    require_parameters,
)
from vireid_fast.retrieval.squared_distances import (
    FeatureDistances,
    SquaredDistances,
    features_in_range,
    fitting_rows,
    nearest_by_rows,
)
from vireid_fast.retrieval.workspace import Workspace

_WHAT = "re_ranking"


def rerank_half(query: Tensor, gallery: Tensor, k1: int, k2: int, lambda_value: float) -> Tensor:
    """`rerank` with the float16 roundings of `half_jaccard_distance`. Returns (Q, G)."""
    parameters = require_parameters(_WHAT, k1, k2, lambda_value)
    (first, second), factors = features_in_range(_WHAT, query=query, gallery=gallery)
    block = fitting_rows(len(query) + len(gallery))
    return _half_chain(FeatureDistances(first, second, block, factors), parameters)


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
    distances = _WithLocal(joined, local, num_query)
    if half:
        return _half_chain(distances, parameters)
    encoding = encode(_WHAT, distances, parameters)
    out = local.new_empty((num_query, distances.num_items - num_query))
    distances.workspace.over(
        0, num_query,
        lambda begin, end: fill_reranked(
            distances, encoding, parameters.lambda_value, begin, end, out[begin:end]
        ),
    )  # fmt: skip
    return out


class _WithLocal:
    """An (N, N) matrix that the caller brings, plus the distances of features if there are any.

    The published code divides columns by their maxima and transposes, so that item i ranks by
    column i. The features' part is computed where it is needed, with the same bits everywhere.
    """

    def __init__(self, features: Tensor | None, local: Tensor, num_query: int):
        self.features, self.local, self.num_query = features, local, num_query
        self.num_items = local.shape[0]
        self.dtype, self.device = local.dtype, local.device
        self.workspace = Workspace(
            fitting_rows(self.num_items), local.dtype.itemsize * self.num_items, _WHAT
        )

    @property
    def filled(self) -> int:
        return self.workspace.rows

    def nearest(self, k: int) -> KNN:
        found = nearest_by_rows(self, k)
        self._require_scale(found)
        return found

    def rows(self, items: Tensor) -> Tensor:
        local = self.local[:, items].T
        return self._add(items, 0, local).contiguous()

    def entries(self, crow: Tensor, col: Tensor, lists: KNN) -> Tensor:
        row = torch.repeat_interleave(crow.diff())
        local = self.local[col, row]
        return local if self.features is None else pair_distance(self.features, row, col) + local

    def to_gallery(self, begin: int, end: int, out: Tensor) -> None:
        local = self.local[self.num_query :, begin:end].T
        items = slice(begin, end)
        out.copy_(self._add(items, self.num_query, local))

    def _add(self, items: Tensor | slice, first: int, local: Tensor) -> Tensor:
        """Distances of the features of `items` to those from `first` on, plus `local`."""
        if self.features is None:
            return local
        x, y = self.features[items], self.features[first:]
        return pairwise_distance(x, y, metric="squared_euclidean") + local

    def _require_scale(self, found: KNN) -> None:
        # A matrix product leaves -1e-7 where 0 is meant, so that some may be negative; not all.
        signless = (found.farthest <= 0) & (found.distances[:, 0] < 0)
        if bool(signless.any()):
            bad = int(signless.nonzero()[0])
            _checks.require(
                False, _WHAT, "distances", "have a positive maximum in each column",
                f"{found.farthest[bad].item()} in the column of {item_name(bad, self.num_query)}",
                "Pass distances, not similarities.",
            )  # fmt: skip


def _half_chain(distances: SquaredDistances, parameters: EncodingParameters) -> Tensor:
    """The chain of `reciprocal_encoding`, rounded to float16 where CLIP-ReID's code is."""
    num_query, num_items = distances.num_query, distances.num_items
    candidates = distances.nearest(parameters.candidates(num_items))
    farthest = candidates.farthest
    require_farthest(_WHAT, farthest, num_query)
    indices = rank_lists(distances, candidates, parameters.list_length(num_items))
    crow, col = k_reciprocal_sets(indices, parameters.k1)
    row = torch.repeat_interleave(crow.diff())
    normalised = distances.entries(crow, col, candidates) / farthest[row]
    # numpy takes the mean of float16 rows in float32 and rounds it.
    weight = half_weights(crow, normalised).float()
    crow, col, weight = expand_query(crow, col, weight, indices, parameters.k2)
    jaccard = half_jaccard_distance(SparseRows(crow, col, weight.half()), num_query)
    # The factor, too, is rounded; the sum with the original distance is not.
    factor = float(jaccard.new_tensor(1 - parameters.lambda_value))
    out = (jaccard.float() * factor).half().to(farthest.dtype)

    def add_original(begin: int, end: int) -> None:
        part = torch.empty_like(out[begin:end])
        distances.to_gallery(begin, end, part)
        out[begin:end] += part.div_(farthest[begin:end, None]).mul_(parameters.lambda_value)

    distances.workspace.over(0, num_query, add_original)
    return out
