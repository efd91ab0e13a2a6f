"""Re-ranking by neighbour lists from outside: faiss, cuVS, any index, exact or approximate."""

import numpy as np
import torch
from torch import Tensor

from vireid_fast.ops import KNN, rank_normalised
from vireid_fast.retrieval.outside_lists import ListedItems, list_slack
from vireid_fast.retrieval.reciprocal_encoding import (
    encode_lists,
    require_farthest,
    require_parameters,
)
from vireid_fast.retrieval.reranked_rows import Array, RerankedRows, as_given, feature_distances
from vireid_fast.retrieval.squared_distances import FeatureDistances


def rerank_from_neighbors(
    query_features: Array,
    gallery_features: Array,
    neighbor_indices: Tensor | np.ndarray,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    farthest: Tensor | np.ndarray | None = None,
    includes_self: bool | None = None,
    tolerance: float | None = None,
    workspace: int | None = None,
) -> Array:
    """`rerank` with the neighbour lists of an index in the place of its own search.

    Of the lists only the items are used: their distances, and those of queries to gallery, are
    computed exactly here, and the lists are put in their order. With the items of an exact search
    the result is that of `rerank`; where an approximate index misses a neighbour, the item stands
    in fewer sets. Items are numbered queries first: 0 .. Q - 1, then Q .. N - 1 for the gallery.

    Args:
        query_features: See `rerank`.
        gallery_features: See `rerank`.
        neighbor_indices: The nearest of all N items for each of the N items, nearest first. Shape
            (N, K), integers, torch or numpy; K at least max(k1 + 1, k2), the item itself counted,
            or N. More columns are read, and put in order, too.
        k1: See `rerank`.
        k2: See `rerank`.
        lambda_value: See `rerank`.
        farthest: Largest squared Euclidean distance of each item to all N, which normalises its
            row. Shape (N,), floating. None: computed exactly, by one pass over all pairs; an index
            answers it by a search with negated features where the features have length 1.
        includes_self: Whether each list holds the item itself. None: found out, and refused where
            the lists differ in it. If not, the item is put in front. Lists whose items all
            coincide with their item may lack it.
        tolerance: How far the distance along a list may fall, in units of (|x| + |y|)^2. Default:
            what computing |x|^2 + |y|^2 - 2 x . y in float32 may explain, (D + 2) eps. Raise it for
            an index with 16-bit or compressed vectors.
        workspace: See `rerank`.

    Returns:
        As `rerank`.

    Not differentiable. Deterministic, as `rerank`. Memory: O(N (K + D)) besides the output.

    Raises:
        ValueError: As `rerank`; or a list is too short, out of range (faiss pads with -1), holds an
            item twice, lacks its own item, or is not sorted; or `farthest` is smaller than a listed
            distance. The message names the row.
        TypeError: A type or dtype does not fit. RuntimeError: The features require a gradient.
    """
    rows = rows_from_neighbors(
        query_features, gallery_features, neighbor_indices, k1, k2, lambda_value,
        farthest=farthest, includes_self=includes_self, tolerance=tolerance, workspace=workspace,
        what="rerank_from_neighbors",
    )  # fmt: skip
    return as_given(rows.block(0, rows.num_query), query_features)


def rows_from_neighbors(
    query_features: Tensor | np.ndarray,
    gallery_features: Tensor | np.ndarray,
    neighbor_indices: Tensor | np.ndarray,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    farthest: Tensor | np.ndarray | None = None,
    includes_self: bool | None = None,
    tolerance: float | None = None,
    workspace: int | None = None,
    what: str = "rows_from_neighbors",
) -> RerankedRows:
    """`rerank_from_neighbors` block by block, to evaluate or search without a Q x G matrix.

    Args:
        query_features: See `rerank_from_neighbors`, as all arguments.
        gallery_features: See there.
        neighbor_indices: See there.
        k1: See there.
        k2: See there.
        lambda_value: See there.
        farthest: See there.
        includes_self: See there.
        tolerance: See there.
        workspace: See there.
        what: Name of the caller, for errors.

    Raises:
        ValueError: See there. TypeError: See there. RuntimeError: See there.
    """
    parameters = require_parameters(what, k1, k2, lambda_value)
    distances = feature_distances(what, query_features, gallery_features, workspace)
    numbers = torch.arange(distances.num_items, device=distances.device)
    listed = ListedItems(what, numbers, distances.num_items, distances.num_query)
    lists = listed.integer_lists(neighbor_indices, query_features=distances.query)
    if includes_self is None:
        includes_self = bool(listed.have_self(lists).any())
    lists = listed.with_self(lists, includes_self)
    listed.require_length(lists, parameters)
    length = parameters.list_length(distances.num_items)
    known = _list_distances(distances, lists)
    listed.require_self(lists, known)
    parts = distances.query, distances.gallery
    norms = torch.cat([torch.linalg.vector_norm(part, dim=1) for part in parts])
    slack = list_slack(norms, norms[lists], distances.query.shape[1], tolerance)
    listed.require_sorted(known, slack)
    if farthest is None:
        largest = distances.nearest(1).farthest
    else:
        largest = listed.largest(farthest, known, slack, distances.factors)
    require_farthest(what, largest, distances.num_query)
    ranked, _ = rank_normalised(known, lists, largest, length)
    encoding = encode_lists(distances, parameters, KNN(known, lists, largest), ranked)
    return RerankedRows.of_encoding(distances, encoding, parameters)


def _list_distances(distances: FeatureDistances, lists: Tensor) -> Tensor:
    """Squared distances of the listed items. Shape (N, K)."""
    num_items, width = lists.shape
    crow = torch.arange(0, num_items * width + 1, width, device=lists.device)
    nothing = KNN(distances.query.new_empty((num_items, 0)), lists[:, :0], crow)
    return distances.entries(crow, lists.flatten(), nothing).view(num_items, width)
