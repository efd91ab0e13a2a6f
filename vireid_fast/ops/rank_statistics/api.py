"""Public rank statistics: validation and choice of the backend."""

from collections.abc import Callable, Iterable
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
)

DropRule = Literal["none", "same_group", "same_group_and_id"]

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Metric -> its code in the raw op (those of `pairwise_distance`), and what is added to it.
_METRICS = {
    "euclidean": (0, 0.0),
    "squared_euclidean": (1, 0.0),
    "dot": (2, 0.0),
    "cosine": (2, 1.0),
    "unit_cosine": (2, 1.0),
}


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
    labels = checked_labels(
        what, distances, num_gallery, query_ids, gallery_ids, query_groups, gallery_groups, drop
    )
    if distances.dtype in (torch.float16, torch.bfloat16):
        distances = distances.float()
    count: Callable[..., Iterable[Tensor]] = (
        reference.rank_statistics if backend == "reference" else rank_statistics_op
    )
    found = RankStatistics(*count(distances, *labels, columns, DROP_RULES.index(drop)))
    return without_nan(what, found, first_row)


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
    labels = checked_labels(
        what, query, len(gallery), query_ids, gallery_ids, query_groups, gallery_groups, drop
    )
    if query.dtype in (torch.float16, torch.bfloat16):
        query, gallery = query.float(), gallery.float()
    if metric == "cosine":
        query, gallery = _unit(query), _unit(gallery)
    code, offset = _METRICS[metric]
    count: Callable[..., Iterable[Tensor]] = feature_rank_statistics_op
    if backend == "reference":
        count = reference.feature_rank_statistics
    found = count(query, gallery, *labels, code, offset, DROP_RULES.index(drop))
    return without_nan(what, RankStatistics(*found), first_row)


def checked_labels(
    what: str,
    like: Tensor,
    num_gallery: int,
    query_ids: Tensor,
    gallery_ids: Tensor | GalleryIndex,
    query_groups: Tensor | None,
    gallery_groups: Tensor | None,
    drop: DropRule,
) -> tuple[Tensor, ...]:
    """Checked labels in the form of the raw ops: of the queries, identities, groups."""
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
    groups = index.groups
    if groups is None:
        raise ValueError(_checks.sentence(
            what, "gallery_ids", f'index groups for drop="{drop}"', None,
            "Give them to GalleryIndex.build."))  # fmt: skip
    assert query_groups is not None  # checked above
    return (
        identities, groups.find(query_groups), *lists, groups.of, groups.start, groups.items
    )  # fmt: skip


def _require_groups(
    what: str, name: str, groups: Tensor | None, size: int, like: Tensor, drop: DropRule
) -> None:
    if groups is None:
        raise ValueError(_checks.sentence(
            what, name, f'be given for drop="{drop}"', None,
            "Pass the camera or place of each item."))  # fmt: skip
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


def without_nan(what: str, found: RankStatistics, first_row: int) -> RankStatistics:
    """`found`, or ValueError naming the first query with a distance that is NaN."""
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
