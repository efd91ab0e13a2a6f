"""Public rank statistics: validation and choice of the backend."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.rank_statistics import reference
from vireid_fast.ops.rank_statistics.gallery_index import GalleryIndex
from vireid_fast.ops.rank_statistics.op import (
    DROP_RULES,
    feature_rank_statistics_op,
    rank_statistics_op,
    ranking_distances_op,
    wide_rank_statistics_op,
)

DropRule = Literal["none", "same_group", "same_group_and_id"]
WideMetric = Literal["euclidean", "squared_euclidean", "dot"]
WIDE_METRICS: tuple[WideMetric, ...] = ("euclidean", "squared_euclidean", "dot")

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Metric -> its code in the raw op (those of `pairwise_distance`), and what is added to it.
_METRICS = {
    "euclidean": (0, 0.0),
    "squared_euclidean": (1, 0.0),
    "dot": (2, 0.0),
    "cosine": (2, 1.0),
    "unit_cosine": (2, 1.0),
}
# Rows whose lengths are computed at once in float64.
_LENGTH_ROWS = 1024


class RankStatistics(NamedTuple):
    """Where the correct gallery items of each query stand; all of shape (Q,).

    Attributes:
        first_rank: 0-based rank of the nearest correct item, int64; -1 without one.
        first_identity_rank: Number of distinct identities before it, int64; -1 without one.
        average_precision: Mean over the correct items of hits / rank, float64; NaN without one.
        inverse_negative_penalty: Hits / rank of the hardest correct item, float64; NaN alike.
        num_positives: Number of correct items that were not dropped, int64.
    """

    first_rank: Tensor
    first_identity_rank: Tensor
    average_precision: Tensor
    inverse_negative_penalty: Tensor
    num_positives: Tensor


def rank_statistics(
    distances: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor | GalleryIndex,
    query_groups: Tensor | None = None,
    gallery_groups: Tensor | None = None,
    *,
    columns: Tensor | None = None,
    drop: DropRule = "none",
    first_row: int = 0,
    backend: Backend = "fused",
) -> RankStatistics:
    """Rank statistics of each query, from which CMC, mAP and mINP follow.

    The gallery is ordered by (distance, gallery index). With ranks r_1 < ... < r_P of the P correct
    items, counted from 1 after dropping: AP = mean_p p / r_p and INP = P / r_P (Ye et al., 2021).
    Nothing is sorted: a rank is the number of kept items before the correct one.

    Args:
        distances: Small is near. Shape (Q, W), float32 or float64 (16-bit is widened), no NaN in a
            column that is ranked. W = G unless `columns` chooses.
        query_ids: Identity of each query. Shape (Q,), int64, any values.
        gallery_ids: Identity of each gallery item. Shape (G,), int64. Or the index of the gallery,
            which several calls with blocks of queries share.
        query_groups: Camera or place of each query, for `drop`. Shape (Q,), int64.
        gallery_groups: The same of each gallery item. Shape (G,), int64. Not with an index, which
            holds them.
        columns: Column of `distances` of each gallery item, in [0, W). Shape (G,), int64. So one
            matrix serves several galleries. None: item g has column g.
        drop: Gallery items removed before ranking: "none"; those of the query's group; or only
            those of the query's group and identity.
        first_row: Place of the first row among all queries, where this is a block of them: what an
            error about a row counts from.
        backend: "fused" (counting kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        The statistics; a query without a correct item is marked -1 and NaN.

    Not differentiable. Deterministic. Memory: O(Q + G).

    Raises:
        ValueError: A shape, column or device does not fit, a group is missing, or a distance is
            NaN (names the row).
        TypeError: A dtype does not fit.
        RuntimeError: `distances` requires a gradient.
    """
    what = "rank_statistics"
    _checks.require_choice(what, "backend", backend, BACKENDS)
    _checks.require_choice(what, "drop", drop, DROP_RULES)
    _checks.require_dtype(what, "distances", distances, _FLOATS)
    _checks.require_shape(what, "distances", distances, ("Q", "G"))
    _checks.require_no_grad(what, distances=distances)
    num_gallery = distances.shape[1]
    if columns is not None:
        _require_columns(what, columns, distances)
        num_gallery = columns.shape[0]
    labels = _labels(
        what, distances, num_gallery, query_ids, gallery_ids, query_groups, gallery_groups, drop
    )
    if distances.dtype in (torch.float16, torch.bfloat16):
        distances = distances.float()
    count = reference.rank_statistics if backend == "reference" else rank_statistics_op
    found = RankStatistics(*count(distances, *labels, columns, DROP_RULES.index(drop)))
    return _without_nan(what, found, first_row)


def feature_rank_statistics(
    query: Tensor,
    gallery: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor | GalleryIndex,
    query_groups: Tensor | None = None,
    gallery_groups: Tensor | None = None,
    *,
    metric: Literal["euclidean", "squared_euclidean", "cosine", "dot", "unit_cosine"] = "euclidean",
    drop: DropRule = "none",
    first_row: int = 0,
    backend: Backend = "fused",
) -> RankStatistics:
    """`rank_statistics` of the distances between features, which are never stored.

    The kernel computes tiles of distances and counts in each, so that the result is bitwise that
    of `pairwise_distance` followed by `rank_statistics` (kernels).

    Args:
        query: Features of the queries. Shape (Q, D), float32 or float64 (16-bit is widened).
        gallery: Features of the gallery. Shape (G, D), dtype of `query`.
        query_ids: See `rank_statistics`, as all label arguments.
        gallery_ids: See `rank_statistics`.
        query_groups: See `rank_statistics`.
        gallery_groups: See `rank_statistics`.
        metric: As of `pairwise_distance`. "unit_cosine" is "cosine" of rows that have length 1
            already (or are zero): they are not normalised again, nor copied.
        drop: See `rank_statistics`.
        first_row: See `rank_statistics`.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        The statistics; a query without a correct item is marked -1 and NaN.

    Not differentiable. Deterministic: the result depends on neither thread count nor blocking.
    Memory: O(Q + G), for "cosine" and 16-bit features a copy of them.

    Raises:
        ValueError: A shape or device does not fit, a group is missing, or a distance is NaN (names
            the row), as between features that are NaN or infinite.
        TypeError: A dtype does not fit.
        RuntimeError: The features require a gradient.
    """
    what = "feature_rank_statistics"
    _checks.require_choice(what, "backend", backend, BACKENDS)
    _checks.require_choice(what, "drop", drop, DROP_RULES)
    _checks.require_choice(what, "metric", metric, _METRICS)
    _checks.require_dtype(what, "query", query, _FLOATS)
    _checks.require_dtype(what, "gallery", gallery, (query.dtype,))
    _checks.require_shape(what, "query", query, ("Q", "D"))
    _checks.require_shape(what, "gallery", gallery, ("G", query.shape[1]))
    _checks.require_same_device(what, query=query, gallery=gallery)
    _checks.require_no_grad(what, query=query, gallery=gallery)
    labels = _labels(
        what, query, len(gallery), query_ids, gallery_ids, query_groups, gallery_groups, drop
    )
    if query.dtype in (torch.float16, torch.bfloat16):
        query, gallery = query.float(), gallery.float()
    if metric == "cosine":
        query, gallery = _unit(query), _unit(gallery)
    code, offset = _METRICS[metric]
    reference_count = reference.feature_rank_statistics
    count = reference_count if backend == "reference" else feature_rank_statistics_op
    found = count(query, gallery, *labels, code, offset, DROP_RULES.index(drop))
    return _without_nan(what, RankStatistics(*found), first_row)


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
    longest: float | None = None,
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
        metric: "euclidean", "squared_euclidean" or "dot".
        drop: See `rank_statistics`.
        longest: `longest_row(gallery)`, where several calls share it; None: computed.
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
    code = _wide_features(what, query, gallery, metric, backend)
    labels = _labels(
        what, query, len(gallery), query_ids, gallery_ids, query_groups, gallery_groups, drop
    )
    bound = longest_row(gallery) if longest is None else longest
    count = reference.wide_rank_statistics if backend == "reference" else wide_rank_statistics_op
    found = count(query, gallery, *labels, code, bound, DROP_RULES.index(drop))
    return _without_nan(what, RankStatistics(*found), first_row)


def ranking_distances(
    query: Tensor,
    gallery: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor | GalleryIndex,
    *,
    metric: WideMetric = "euclidean",
    longest: float | None = None,
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
        metric: "euclidean", "squared_euclidean" or "dot".
        longest: `longest_row(gallery)`, where several calls share it; None: computed.
        backend: "fused" (kernel of the tensors' device) or "reference" (float64 in plain torch).

    Returns:
        Shape (Q, G), float64.

    Not differentiable. Deterministic. Memory: O(Q G) for the output.

    Raises:
        ValueError: A shape or device does not fit. TypeError: A dtype does not fit.
        RuntimeError: The features require a gradient.
    """
    what = "ranking_distances"
    code = _wide_features(what, query, gallery, metric, backend)
    labels = _labels(what, query, len(gallery), query_ids, gallery_ids, None, None, "none")
    bound = longest_row(gallery) if longest is None else longest
    compute = reference.ranking_distances if backend == "reference" else ranking_distances_op
    return compute(query, gallery, labels[0], *labels[3:5], code, bound)


def longest_row(features: Tensor) -> float:
    """A length that no row exceeds, for `wide_rank_statistics`. Shape (N, D), floating point."""
    lengths = [
        torch.linalg.vector_norm(rows.double(), dim=1).max()
        for rows in features.split(_LENGTH_ROWS)
        if len(rows)
    ]
    return float(torch.stack(lengths).max()) * (1 + 1e-9) if lengths else 0.0


def _wide_features(
    what: str, query: Tensor, gallery: Tensor, metric: WideMetric, backend: Backend
) -> int:
    """Check features; returns the code of the metric."""
    _checks.require_choice(what, "backend", backend, BACKENDS)
    _checks.require_choice(what, "metric", metric, WIDE_METRICS)
    _checks.require_dtype(what, "query", query, (torch.float32,))
    _checks.require_dtype(what, "gallery", gallery, (torch.float32,))
    _checks.require_shape(what, "query", query, ("Q", "D"))
    _checks.require_shape(what, "gallery", gallery, ("G", query.shape[1]))
    _checks.require_same_device(what, query=query, gallery=gallery)
    _checks.require_no_grad(what, query=query, gallery=gallery)
    return _METRICS[metric][0]


def _labels(
    what: str,
    like: Tensor,
    num_gallery: int,
    query_ids: Tensor,
    gallery_ids: Tensor | GalleryIndex,
    query_groups: Tensor | None,
    gallery_groups: Tensor | None,
    drop: DropRule,
) -> tuple[Tensor, ...]:
    """Checked labels in the form of the raw ops."""
    _require_ids(what, "query_ids", query_ids, like.shape[0], like)
    if drop != "none":
        _require_groups(what, "query_groups", query_groups, like.shape[0], like, drop)
    if isinstance(gallery_ids, GalleryIndex):
        index = gallery_ids
        _checks.require(
            len(index) == num_gallery, what, "gallery_ids", f"index {num_gallery} items", len(index)
        )
        _checks.require(
            index.device == like.device, what, "gallery_ids", f"be on {like.device}", index.device
        )
        _checks.require(
            gallery_groups is None, what, "gallery_groups", "be None with an index of the gallery",
            "a value", "Give them to GalleryIndex.build.",
        )  # fmt: skip
    else:
        _require_ids(what, "gallery_ids", gallery_ids, num_gallery, like)
        if drop == "none":
            gallery_groups = None
        else:
            _require_groups(what, "gallery_groups", gallery_groups, num_gallery, like, drop)
        index = GalleryIndex.build(gallery_ids, gallery_groups)
    identities = index.identities.find(query_ids)
    lists = (index.identities.of, index.identities.start, index.identities.items)
    if drop == "none":
        return (identities, identities, *lists, *lists)  # groups are not read
    _checks.require(
        index.groups is not None, what, "gallery_ids", f'index groups for drop="{drop}"', None,
        "Give them to GalleryIndex.build.",
    )  # fmt: skip
    groups = index.groups
    return (
        identities, groups.find(query_groups), *lists, groups.of, groups.start, groups.items
    )  # fmt: skip


def _require_groups(
    what: str, name: str, groups: Tensor | None, size: int, like: Tensor, drop: DropRule
) -> None:
    _checks.require(
        groups is not None, what, name, f'be given for drop="{drop}"', None,
        "Pass the camera or place of each item.",
    )  # fmt: skip
    _require_ids(what, name, groups, size, like)


def _require_ids(what: str, name: str, ids: Tensor, size: int, like: Tensor) -> None:
    _checks.require_dtype(what, name, ids, (torch.int64,))
    _checks.require_shape(what, name, ids, (size,))
    _checks.require_same_device(what, distances=like, **{name: ids})


def _require_columns(what: str, columns: Tensor, distances: Tensor) -> None:
    _checks.require_dtype(what, "columns", columns, (torch.int64,))
    _checks.require_shape(what, "columns", columns, ("G",))
    _checks.require_same_device(what, distances=distances, columns=columns)
    if columns.numel():
        low, high = (int(bound) for bound in torch.aminmax(columns))
        _checks.require(
            low >= 0 and high < distances.shape[1], what, "columns",
            f"lie in [0, {distances.shape[1]})", low if low < 0 else high,
        )  # fmt: skip


def _without_nan(what: str, found: RankStatistics, first_row: int) -> RankStatistics:
    bad = (found.num_positives < 0).nonzero()
    if bad.numel():
        _checks.require(
            False, what, "distances", "hold no NaN", f"nan in row {first_row + int(bad[0])}",
            "Check the features of that query.",
        )  # fmt: skip
    return found


def _unit(x: Tensor) -> Tensor:
    """Rows scaled to length 1, as in `pairwise_distance`; zero rows stay zero."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / torch.where(norm > 0, norm, 1)
