"""Re-ranking by neighbour lists from outside: faiss, cuVS, any index, exact or approximate."""

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import KNN, rank_normalised
from vireid_fast.retrieval.arrays import as_float_tensors, from_numpy
from vireid_fast.retrieval.reciprocal_encoding import (
    encode_lists,
    item_name,
    require_farthest,
    require_parameters,
)
from vireid_fast.retrieval.reranked_rows import Array, RerankedRows, as_given, feature_distances
from vireid_fast.retrieval.squared_distances import FeatureDistances

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


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
    lists, has_self = _own_lists(
        what, _integer_lists(what, neighbor_indices, distances), distances, includes_self
    )
    length = parameters.list_length(distances.num_items)
    _checks.require(
        lists.shape[1] >= length, what, "neighbor_indices",
        f"have at least {length} columns for k1 = {k1} and k2 = {k2}, the item itself counted",
        lists.shape[1], "Search for more neighbours.",
    )  # fmt: skip
    known = _list_distances(distances, lists)
    _require_self(what, known, has_self, distances.num_query)
    slack = _slack(distances, lists, tolerance)
    _require_sorted(what, known, slack, distances.num_query)
    largest = _largest(what, distances, known, slack, farthest)
    require_farthest(what, largest, distances.num_query)
    ranked, _ = rank_normalised(known, lists, largest, length)
    encoding = encode_lists(distances, parameters, KNN(known, lists, largest), ranked)
    return RerankedRows.of_encoding(distances, encoding, parameters)


def _integer_lists(
    what: str, neighbor_indices: Tensor | np.ndarray, distances: FeatureDistances
) -> Tensor:
    """The lists as int64 on the device of the features, in range and without repetition."""
    name, num_items = "neighbor_indices", distances.num_items
    lists = neighbor_indices
    if isinstance(lists, np.ndarray):
        _checks.require(
            lists.dtype.kind in "iu", what, name, "be integers", lists.dtype, error=TypeError
        )
        lists = from_numpy(lists.astype(np.int64, copy=False))
    _checks.require_tensor(what, name, lists)
    _checks.require(
        lists.dtype in _INTEGERS, what, name, "be integers", lists.dtype, error=TypeError
    )
    _checks.require_shape(what, name, lists, (num_items, "K"))
    _checks.require_same_device(what, query_features=distances.query, neighbor_indices=lists)
    lists = lists.long().contiguous()
    outside = (lists < 0) | (lists >= num_items)
    if bool(outside.any()):
        row, column = outside.nonzero()[0].tolist()
        _checks.require(
            False, what, name, f"lie in [0, {num_items})",
            f"{int(lists[row, column])} in the row of {item_name(row, distances.num_query)}",
            "Number queries first; search with fewer neighbours where an index pads with -1.",
        )  # fmt: skip
    ordered = lists.sort(1).values
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if bool(repeated.any()):
        row = int(repeated.nonzero()[0])
        again = ordered[row, 1:][ordered[row, 1:] == ordered[row, :-1]]
        _checks.require(
            False, what, name, "hold no item twice in a row",
            f"{int(again[0])} twice in the row of {item_name(row, distances.num_query)}",
        )  # fmt: skip
    return lists


def _own_lists(
    what: str, lists: Tensor, distances: FeatureDistances, includes_self: bool | None
) -> tuple[Tensor, Tensor]:
    """The lists with each item in its own, put in front where it is left out; and where it is."""
    own = torch.arange(distances.num_items, device=lists.device)[:, None]
    has_self = (lists == own).any(1)
    if includes_self is None:
        includes_self = bool(has_self.any())
    if includes_self:
        return lists, has_self
    if bool(has_self.any()):
        row = int(has_self.nonzero()[0])
        _checks.require(
            False, what, "neighbor_indices", "not hold the item itself with includes_self=False",
            f"it in the row of {item_name(row, distances.num_query)}",
        )  # fmt: skip
    return torch.cat([own, lists], 1), torch.ones_like(has_self)


def _list_distances(distances: FeatureDistances, lists: Tensor) -> Tensor:
    """Squared distances of the listed items. Shape (N, K)."""
    num_items, width = lists.shape
    crow = torch.arange(0, num_items * width + 1, width, device=lists.device)
    nothing = KNN(distances.query.new_empty((num_items, 0)), lists[:, :0], crow)
    return distances.entries(crow, lists.flatten(), nothing).view(num_items, width)


def _require_self(what: str, known: Tensor, has_self: Tensor, num_query: int) -> None:
    """Raise where a list lacks its own item though not all of the listed coincide with it."""
    missing = ~has_self & (known.amax(1) > 0)
    if bool(missing.any()):
        row = int(missing.nonzero()[0])
        _checks.require(
            False, what, "neighbor_indices", "hold each item in its own list, or none of them",
            f"a list without it for {item_name(row, num_query)}",
            "Search for one more neighbour, or take the items out of all lists.",
        )  # fmt: skip


def _slack(distances: FeatureDistances, lists: Tensor, tolerance: float | None) -> Tensor:
    """What the distances of an index may be off by, at most, for each listed item. Shape (N, K).

    Summing D products one after the other in float32 leaves an error of up to D eps / 2 times the
    sum of their magnitudes, so that |x|^2 + |y|^2 - 2 x . y is off by up to
    (D + 2) eps / 2 (|x| + |y|)^2. Of two distances both may be off.
    """
    if tolerance is None:
        tolerance = (distances.query.shape[1] + 2) * torch.finfo(torch.float32).eps
    parts = distances.query, distances.gallery
    norms = torch.cat([torch.linalg.vector_norm(part, dim=1) for part in parts])
    return tolerance * (norms[:, None] + norms[lists]).square()


def _require_sorted(what: str, known: Tensor, slack: Tensor, num_query: int) -> None:
    fall = known[:, :-1] - known[:, 1:]
    unsorted = fall > torch.maximum(slack[:, :-1], slack[:, 1:])
    if bool(unsorted.any()):
        row, column = unsorted.nonzero()[0].tolist()
        _checks.require(
            False, what, "neighbor_indices", "be sorted, nearest first",
            f"squared distance {known[row, column + 1].item():.6g} behind "
            f"{known[row, column].item():.6g} at column {column + 1} in the row of "
            f"{item_name(row, num_query)}",
            "Sort each list by exact distance, or raise tolerance for an index that rounds.",
        )  # fmt: skip


def _largest(
    what: str,
    distances: FeatureDistances,
    known: Tensor,
    slack: Tensor,
    farthest: Tensor | np.ndarray | None,
) -> Tensor:
    """The largest squared distance of each item: as given, or found in one pass. Shape (N,)."""
    if farthest is None:
        return distances.nearest(1).farthest
    (given,) = as_float_tensors(what, farthest=farthest)
    _checks.require_shape(what, "farthest", given, (distances.num_items,))
    _checks.require_finite(what, "farthest", given)
    given = given.to(known)
    for factor in distances.factors:
        given = given * factor * factor
    listed = known.amax(1)
    below = given + slack.amax(1) < listed
    if bool(below.any()):
        row = int(below.nonzero()[0])
        _checks.require(
            False, what, "farthest", "be at least the largest listed squared distance",
            f"{given[row].item():.6g} and a listed {listed[row].item():.6g} in the row of "
            f"{item_name(row, distances.num_query)}",
            "Give squared Euclidean distances, not roots or similarities.",
        )  # fmt: skip
    return torch.maximum(given, listed)
