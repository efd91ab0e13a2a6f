"""Search: the nearest gallery items of each query as lists, never a Q x G matrix."""

from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import KNN, knn, smallest_k
from vireid_fast.retrieval.arrays import as_float_tensors
from vireid_fast.retrieval.distance_rows import ROW_METRICS, DistanceRows, FeatureRows, RowMetric
from vireid_fast.retrieval.streaming import WORKSPACE, require_rows, row_bytes, rows_per_block
from vireid_fast.retrieval.workspace import Workspace

Array = TypeVar("Array", Tensor, np.ndarray)


class SearchResult(NamedTuple):
    """Nearest gallery items of each query.

    Attributes:
        distances: Ascending. Shape (Q, k), float32 or float64, the kind of the query (torch or
            numpy).
        indices: Gallery items; equal distances by the lower index. Shape (Q, k), int64.
    """

    distances: Tensor | np.ndarray
    indices: Tensor | np.ndarray


@torch.no_grad()
def search(
    query: Array,
    gallery: Array,
    k: int,
    *,
    metric: RowMetric = "euclidean",
    workspace: int = WORKSPACE,
) -> SearchResult:
    """The k nearest gallery items of each query, exact for every metric.

    The Euclidean metrics rest on `knn`: its order is that of the squared distances, before a root
    rounds two of them to one value. For "cosine" (1 - cos) and "dot" (negative) blocks of
    `pairwise_distance` are reduced to lists by `smallest_k`.

    Args:
        query: Shape (Q, D), torch or numpy, floating point; 16-bit is widened to float32, and of
            mixed dtypes the wider is taken.
        gallery: Shape (G, D), G >= 1.
        k: Length of the lists, at least 1; clips to G.
        metric: "euclidean", "squared_euclidean", "cosine" or "dot".
        workspace: Bytes that a block of distances may take, where blocks are needed.

    Returns:
        Lists of min(k, G) items, the same bits for every workspace and thread count.

    Not differentiable. Memory: O(Q k), the workspace, and for "cosine" a copy of the features.

    Raises:
        ValueError: A shape, range, device or name does not fit, a feature is NaN or infinite, or
            the workspace is too small (says what is needed).
        TypeError: A type does not fit.
        RuntimeError: The features require a gradient.
    """
    what = "search"
    _checks.require_choice(what, "metric", metric, ROW_METRICS)
    first, second = as_float_tensors(what, query=query, gallery=gallery)
    _checks.require_shape(what, "query", first, ("Q", "D"))
    _checks.require_shape(what, "gallery", second, ("G", first.shape[1]))
    _checks.require(len(second) > 0, what, "gallery", "have at least one row", tuple(second.shape))
    k = _checks.positive_int(what, "k", k)
    _checks.require_finite(what, "query", first)
    _checks.require_finite(what, "gallery", second)
    if metric in ("euclidean", "squared_euclidean"):
        found = knn(first, second, k)
        if metric == "euclidean":
            found = found._replace(distances=found.distances.sqrt())
    else:
        found = _nearest(what, FeatureRows(first, second, metric), k, workspace)
    if isinstance(query, np.ndarray):
        return SearchResult(found.distances.cpu().numpy(), found.indices.cpu().numpy())
    return SearchResult(found.distances, found.indices)


@torch.no_grad()
def search_rows(rows: DistanceRows, k: int, *, workspace: int = WORKSPACE) -> SearchResult:
    """The k nearest gallery items of each query by any distances, such as re-ranked ones.

    Args:
        rows: Distances of Q queries to G >= 1 gallery items; NaN comes last.
        k: Length of the lists, at least 1; clips to G.
        workspace: Bytes that a block of distances may take, at least one row.

    Returns:
        Lists of min(k, G) items as tensors, in (distance, index) order.

    Memory: O(Q k) and the workspace (what `rows` needs to make a block comes on top).

    Raises:
        ValueError: A range does not fit, or the workspace is too small (says what is needed).
        TypeError: `rows` is no `DistanceRows`, or a type does not fit.
    """
    require_rows("search_rows", rows)
    k = _checks.positive_int("search_rows", "k", k)
    _checks.require(rows.num_gallery > 0, "search_rows", "rows", "have at least one column", 0)
    found = _nearest("search_rows", rows, k, workspace)
    return SearchResult(found.distances, found.indices)


def _nearest(what: str, rows: DistanceRows, k: int, workspace: int) -> KNN:
    step = rows_per_block(what, rows, workspace)

    def nearest(first: int, last: int) -> KNN:
        return smallest_k(rows.block(first, last), k)

    if rows.num_query == 0:
        return nearest(0, 0)
    parts = Workspace(step, row_bytes(rows), what).over(0, rows.num_query, nearest)
    return KNN(*(torch.cat(part) for part in zip(*parts, strict=True)))
