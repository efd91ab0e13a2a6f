"""From distances to the sparse vectors of the k-reciprocal encoding (Zhong et al., CVPR 2017)."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import (
    KNN,
    InvertedRows,
    SparseRows,
    blend_jaccard,
    expand_query,
    invert_rows,
    k_reciprocal_sets,
    rank_normalised,
    reciprocal_weights,
    smallest_k,
)
from vireid_fast.retrieval.squared_distances import SquaredDistances

# Neighbours fetched beyond the needed ones. Dividing by the row maximum can round two distances to
# one value; a strictly larger value in the spare columns proves that no tie was cut off.
SPARE = 3


class EncodingParameters(NamedTuple):
    """k1, k2 and lambda of Zhong et al., checked by `require_parameters`."""

    k1: int
    k2: int
    lambda_value: float

    def list_length(self, num_items: int) -> int:
        """Neighbours of each item that the encoding reads."""
        return min(max(self.k1 + 1, self.k2), num_items)

    def candidates(self, num_items: int) -> int:
        """Neighbours that decide these, ties of normalised distances included."""
        return min(self.list_length(num_items) + SPARE, num_items)


class Encoding(NamedTuple):
    """What the re-ranked distances of any query follow from: O(N) numbers.

    Attributes:
        rows: Expanded sparse vectors of the queries. Shape (Q, N).
        gallery: Those of the gallery by column.
        farthest: Largest squared distance of each item. Shape (N,).
    """

    rows: SparseRows
    gallery: InvertedRows
    farthest: Tensor


def require_parameters(what: str, k1: int, k2: int, lambda_value: float) -> EncodingParameters:
    """Raise unless k1, k2 >= 1 and lambda lies in [0, 1]."""
    k1, k2 = _checks.positive_int(what, "k1", k1), _checks.positive_int(what, "k2", k2)
    _checks.require(
        isinstance(lambda_value, (int, float, np.floating, np.integer)),
        what, "lambda_value", "be a number", repr(lambda_value), error=TypeError,
    )  # fmt: skip
    _checks.require(0 <= lambda_value <= 1, what, "lambda_value", "lie in [0, 1]", lambda_value)
    return EncodingParameters(k1, k2, float(lambda_value))


def encode(
    what: str,
    distances: SquaredDistances,
    parameters: EncodingParameters,
    candidates: KNN | None = None,
) -> Encoding:
    """Neighbour lists, reciprocal sets, weights and query expansion.

    Args:
        what: Name of the caller, for its warning.
        distances: Of all items.
        parameters: Of the re-ranking.
        candidates: The nearest items where they are known; else they are searched for.
    """
    num_items = distances.num_items
    if candidates is None:
        candidates = distances.nearest(parameters.candidates(num_items))
    require_farthest(what, candidates.farthest, distances.num_query)
    indices = rank_lists(distances, candidates, parameters.list_length(num_items))
    return encode_lists(distances, parameters, candidates, indices)


def encode_lists(
    distances: SquaredDistances, parameters: EncodingParameters, candidates: KNN, indices: Tensor
) -> Encoding:
    """What follows from ranked lists (N, K); `candidates` hold distances that are known."""
    crow, col = k_reciprocal_sets(indices, parameters.k1)
    row = torch.repeat_interleave(crow.diff())
    normalised = distances.entries(crow, col, candidates) / candidates.farthest[row]
    weight = reciprocal_weights(crow, normalised)
    rows = expand_query(crow, col, weight, indices, parameters.k2)
    gallery = invert_rows(rows, distances.num_query)
    # Copies, so that the gallery's part is not held twice.
    num_entries = int(rows.crow[distances.num_query])
    queries = SparseRows(
        rows.crow[: distances.num_query + 1].clone(),
        rows.col[:num_entries].clone(),
        rows.weight[:num_entries].clone(),
    )
    return Encoding(queries, gallery, candidates.farthest)


def rank_lists(distances: SquaredDistances, candidates: KNN, k: int) -> Tensor:
    """The first k items of each row in the order (distance / row maximum, index)."""
    indices, is_open = rank_normalised(*candidates, k)
    if candidates.indices.shape[1] < distances.num_items:
        # A tie that reaches the end of the candidates may go on beyond them with a lower index.
        opened = is_open.nonzero().flatten()

        def search_all(first: int, last: int) -> None:
            items = opened[first:last]
            farthest = candidates.farthest[items]
            scale = torch.where(farthest > 0, farthest, 1)[:, None]
            indices[items] = smallest_k(distances.rows(items) / scale, k).indices

        distances.workspace.over(0, len(opened), search_all)
    return indices


def fill_reranked(
    distances: SquaredDistances,
    encoding: Encoding,
    lambda_value: float,
    begin: int,
    end: int,
    out: Tensor,
) -> None:
    """Write the re-ranked distances of the queries begin to end - 1. Shape (end - begin, G)."""
    distances.to_gallery(begin, end, out)
    farthest = encoding.farthest[begin:end]
    blend_jaccard(encoding.rows, encoding.gallery, out, farthest, begin, lambda_value)


def require_farthest(what: str, farthest: Tensor, num_query: int) -> None:
    """Raise if a largest distance is infinite; warn if one is 0, which makes its row NaN."""
    infinite = (~torch.isfinite(farthest)).nonzero().flatten()
    if infinite.numel():
        row = int(infinite[0])
        _checks.require(
            False, what, "squared distances", f"be finite in {farthest.dtype}",
            f"{farthest[row].item()} in the row of {item_name(row, num_query)}",
            "Scale the input down or pass float64.",
        )  # fmt: skip
    zero = (farthest == 0).nonzero().flatten()
    if zero.numel():
        warnings.warn(
            f"{what}: all distances of {item_name(int(zero[0]), num_query)} are 0 ({zero.numel()} "
            "such rows), so that normalising divides 0 by 0; its results are NaN.",
            RuntimeWarning,
            stacklevel=5,
        )


def item_name(row: int, num_query: int) -> str:
    """How messages name an item: "query 3" or "gallery item 5"."""
    return f"query {row}" if row < num_query else f"gallery item {row - num_query}"
