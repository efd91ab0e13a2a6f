"""Ranks in float64 of float32 features, which float32 tiles decide where a bound allows it."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.rank_statistics import reference
from vireid_fast.ops.rank_statistics.api import (
    DropRule,
    RankStatistics,
    checked_labels,
    without_nan,
)
from vireid_fast.ops.rank_statistics.gallery_index import GalleryIndex
from vireid_fast.ops.rank_statistics.op import (
    DROP_RULES,
    ranking_distances_op,
    wide_rank_statistics_op,
)

WideMetric = Literal["euclidean", "squared_euclidean", "dot", "cosine"]
# In the order of the codes in the raw ops that compute in float64.
WIDE_METRICS: tuple[WideMetric, ...] = ("euclidean", "squared_euclidean", "dot", "cosine")

# Rows whose lengths are computed at once in float64.
_LENGTH_ROWS = 1024


def wide_rank_statistics(
    query: Tensor,
    gallery: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor | GalleryIndex,
    query_groups: Tensor | None = None,
    gallery_groups: Tensor | None = None,
    *,
    metric: WideMetric = "euclidean",
    drop: DropRule = "none",
    gallery_lengths: Tensor | None = None,
    first_row: int = 0,
    backend: Backend = "fused",
) -> RankStatistics:
    """`feature_rank_statistics` of float32 features in float64, at about the cost of float32.

    A float32 tile decides which items stand before a correct one, except where its proven bound
    (csrc/cpu/filtered_distances.h) leaves that open: there the float64 distance is computed. The
    result is bitwise that of the features converted to float64 (CPU kernels), of which no copy is
    made. Where the bound leaves more than an eighth of a tile's row open, float64 is cheaper and
    does the whole row.

    Args:
        query: Shape (Q, D), float32.
        gallery: Shape (G, D), float32.
        query_ids: See `rank_statistics`, as all label arguments.
        gallery_ids: See `rank_statistics`.
        query_groups: See `rank_statistics`.
        gallery_groups: See `rank_statistics`.
        metric: "euclidean", "squared_euclidean", "dot" or "cosine".
        drop: See `rank_statistics`.
        gallery_lengths: `row_lengths(gallery)`, where several calls share them; None: computed.
        first_row: See `rank_statistics`.
        backend: "fused" (kernel of the tensors' device) or "reference" (float64 in plain torch).

    Returns:
        See `feature_rank_statistics`.

    Not differentiable. Deterministic. Memory: O(Q + G).

    Raises:
        ValueError: See `feature_rank_statistics`. TypeError: A dtype does not fit.
        RuntimeError: The features require a gradient.
    """
    what = "wide_rank_statistics"
    _checks.require_choice(what, "drop", drop, DROP_RULES)
    lengths = _wide_features(what, query, gallery, gallery_lengths, metric, backend)
    labels = checked_labels(
        what, query, len(gallery), query_ids, gallery_ids, query_groups, gallery_groups, drop
    )
    count: Callable[..., Iterable[Tensor]] = wide_rank_statistics_op
    if backend == "reference":
        count = reference.wide_rank_statistics
    codes = WIDE_METRICS.index(metric), DROP_RULES.index(drop)
    return without_nan(
        what, RankStatistics(*count(query, gallery, *labels, *lengths, *codes)), first_row
    )


def ranking_distances(
    query: Tensor,
    gallery: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor | GalleryIndex,
    *,
    metric: WideMetric = "euclidean",
    gallery_lengths: Tensor | None = None,
    backend: Backend = "fused",
) -> Tensor:
    """Distances of float32 features that rank each query's correct items as float64 ones do.

    See `wide_rank_statistics`. An entry of the query's identity is bitwise the distance of the
    features converted to float64; any other is so, or off by less than what would move it across
    an entry of the query's identity. `rank_statistics` of them, or of some of their columns, is
    therefore bitwise that of the float64 distances (CPU kernels).

    Args:
        query: Shape (Q, D), float32.
        gallery: Shape (G, D), float32.
        query_ids: See `rank_statistics`.
        gallery_ids: See `rank_statistics`.
        metric: "euclidean", "squared_euclidean", "dot" or "cosine".
        gallery_lengths: `row_lengths(gallery)`, where several calls share them; None: computed.
        backend: "fused" (kernel of the tensors' device) or "reference" (float64 in plain torch).

    Returns:
        Shape (Q, G), float64.

    Not differentiable. Deterministic. Memory: O(Q G) for the output.

    Raises:
        ValueError: A shape or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: The features require a gradient.
    """
    what = "ranking_distances"
    lengths = _wide_features(what, query, gallery, gallery_lengths, metric, backend)
    labels = checked_labels(what, query, len(gallery), query_ids, gallery_ids, None, None, "none")
    compute: Callable[..., Tensor] = ranking_distances_op
    if backend == "reference":
        compute = reference.ranking_distances
    index = (labels[0], *labels[3:5])
    return compute(query, gallery, *index, *lengths, WIDE_METRICS.index(metric))


def row_lengths(features: Tensor) -> Tensor:
    """Euclidean lengths of the rows in float64, without a float64 copy of all. Shape (N,)."""
    lengths = features.new_empty(len(features), dtype=torch.float64)
    # One buffer for all blocks: new ones would leave holes between the results.
    wide = lengths.new_empty((min(len(features), _LENGTH_ROWS), features.shape[1]))
    for begin in range(0, len(features), _LENGTH_ROWS):
        rows = features[begin : begin + _LENGTH_ROWS]
        part = wide[: len(rows)].copy_(rows)
        torch.linalg.vector_norm(part, dim=1, out=lengths[begin : begin + len(rows)])
    return lengths


def _wide_features(
    what: str,
    query: Tensor,
    gallery: Tensor,
    gallery_lengths: Tensor | None,
    metric: WideMetric,
    backend: Backend,
) -> tuple[Tensor, Tensor]:
    """Check features; returns the lengths of both sides."""
    _checks.require_choice(what, "backend", backend, BACKENDS)
    _checks.require_choice(what, "metric", metric, WIDE_METRICS)
    _checks.require_dtype(what, "query", query, (torch.float32,))
    _checks.require_dtype(what, "gallery", gallery, (torch.float32,))
    _checks.require_shape(what, "query", query, ("Q", "D"))
    _checks.require_shape(what, "gallery", gallery, ("G", query.shape[1]))
    _checks.require_same_device(what, query=query, gallery=gallery)
    _checks.require_no_grad(what, query=query, gallery=gallery)
    if gallery_lengths is None:
        gallery_lengths = row_lengths(gallery)
    _checks.require_dtype(what, "gallery_lengths", gallery_lengths, (torch.float64,))
    _checks.require_shape(what, "gallery_lengths", gallery_lengths, (len(gallery),))
    _checks.require_same_device(what, gallery=gallery, gallery_lengths=gallery_lengths)
    return row_lengths(query), gallery_lengths
