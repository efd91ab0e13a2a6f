"""Public rank statistics: validation and choice of the backend."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.rank_statistics import reference
from vireid_fast.ops.rank_statistics.op import DROP_RULES, rank_statistics_op

_WHAT = "rank_statistics"


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
    gallery_ids: Tensor,
    query_groups: Tensor | None = None,
    gallery_groups: Tensor | None = None,
    *,
    drop: Literal["none", "same_group", "same_group_and_id"] = "none",
    backend: Backend = "fused",
) -> RankStatistics:
    """Rank statistics of each query, from which CMC, mAP and mINP follow.

    The gallery is ordered by (distance, gallery index). With ranks r_1 < ... < r_P of the P correct
    items, counted from 1 after dropping: AP = mean_p p / r_p and INP = P / r_P (Ye et al., 2021).

    Args:
        distances: Small is near. Shape (Q, G), float32 or float64 (16-bit is widened), no NaN.
        query_ids: Identity of each query. Shape (Q,), int64, any values.
        gallery_ids: Identity of each gallery item. Shape (G,), int64.
        query_groups: Camera or place of each query, for `drop`. Shape (Q,), int64.
        gallery_groups: The same of each gallery item. Shape (G,), int64.
        drop: Gallery items removed before ranking: "none"; those of the query's group; or only
            those of the query's group and identity.
        backend: "fused" (counting kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        The statistics; a query without a correct item is marked -1 and NaN.

    Not differentiable. Deterministic. Memory: O(Q + G).

    Raises:
        ValueError: A shape or device does not fit, a group is missing, or a distance is NaN.
        TypeError: A dtype does not fit.
        RuntimeError: `distances` requires a gradient.
    """
    _checks.require_choice(_WHAT, "backend", backend, BACKENDS)
    _checks.require_choice(_WHAT, "drop", drop, DROP_RULES)
    _require_distances(distances)
    num_query, num_gallery = distances.shape
    _require_ids("query_ids", query_ids, num_query, distances)
    _require_ids("gallery_ids", gallery_ids, num_gallery, distances)
    if drop == "none":
        query_groups, gallery_groups = query_ids, gallery_ids  # not read
    for name, groups, size in (
        ("query_groups", query_groups, num_query),
        ("gallery_groups", gallery_groups, num_gallery),
    ):
        _checks.require(
            groups is not None, _WHAT, name, f'be given for drop="{drop}"', None,
            "Pass the camera or place of each item.",
        )  # fmt: skip
        _require_ids(name, groups, size, distances)
    if distances.dtype in (torch.float16, torch.bfloat16):
        distances = distances.float()
    count = reference.rank_statistics if backend == "reference" else rank_statistics_op
    rule = DROP_RULES.index(drop)
    return RankStatistics(
        *count(distances, query_ids, gallery_ids, query_groups, gallery_groups, rule)
    )


def _require_distances(distances: Tensor) -> None:
    floats = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    _checks.require_dtype(_WHAT, "distances", distances, floats)
    _checks.require_shape(_WHAT, "distances", distances, ("Q", "G"))
    _checks.require_no_grad(_WHAT, distances=distances)
    # The sum is a cheap first look: it is NaN if any entry is (or if infinities cancel).
    if bool(distances.sum().isnan()):
        rows = distances.isnan().any(1).nonzero()
        _checks.require(
            rows.numel() == 0, _WHAT, "distances", "hold no NaN",
            f"nan in row {int(rows[0]) if rows.numel() else -1}",
            "Check the features of that query.",
        )  # fmt: skip


def _require_ids(name: str, ids: Tensor, size: int, distances: Tensor) -> None:
    _checks.require_dtype(_WHAT, name, ids, (torch.int64,))
    _checks.require_shape(_WHAT, name, ids, (size,))
    _checks.require_same_device(_WHAT, distances=distances, **{name: ids})
