"""Contract of the raw ops that rank, and of the distances that rank alike."""

import torch
from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.rank_statistics import reference

# Codes of `drop` in the raw ops; csrc/cpu/rank_counter.h holds the same list.
DROP_RULES = ("none", "same_group", "same_group_and_id")

# Labels of the queries as positions in the gallery's index (-1: no item has it), and the index:
# for identities and groups the label of each item, and the items of each label.
_LABELS = (
    "Tensor query_identities, Tensor query_groups, Tensor identity_of, Tensor identity_start,"
    " Tensor identity_items, Tensor group_of, Tensor group_start, Tensor group_items"
)
_STATISTICS = "(Tensor, Tensor, Tensor, Tensor, Tensor)"


def _empty(like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    kinds = (torch.int64, torch.int64, torch.float64, torch.float64, torch.int64)
    first, identity, precision, penalty, positives = (
        like.new_empty((like.shape[0],), dtype=kind) for kind in kinds
    )
    return first, identity, precision, penalty, positives


def _fake_matrix(distances: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _empty(distances)


def _fake_features(query: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _empty(query)


def _fake_distances(query: Tensor, gallery: Tensor, *_: object) -> Tensor:
    return query.new_empty((query.shape[0], gallery.shape[0]), dtype=torch.float64)


rank_statistics_op = register_op(
    f"rank_statistics(Tensor distances, {_LABELS}, Tensor? columns, int drop) -> {_STATISTICS}",
    fake=_fake_matrix,
    reference=reference.rank_statistics,
    cuda="C++",
)
feature_rank_statistics_op = register_op(
    f"feature_rank_statistics(Tensor query, Tensor gallery, {_LABELS}, int metric, float offset,"
    f" int drop) -> {_STATISTICS}",
    fake=_fake_features,
    reference=reference.feature_rank_statistics,
    cuda="C++",
)
wide_rank_statistics_op = register_op(
    f"wide_rank_statistics(Tensor query, Tensor gallery, {_LABELS}, Tensor query_lengths,"
    f" Tensor gallery_lengths, int metric, int drop) -> {_STATISTICS}",
    fake=_fake_features,
    reference=reference.wide_rank_statistics,
)
ranking_distances_op = register_op(
    "ranking_distances(Tensor query, Tensor gallery, Tensor query_identities,"
    " Tensor identity_start, Tensor identity_items, Tensor query_lengths, Tensor gallery_lengths,"
    " int metric) -> Tensor",
    fake=_fake_distances,
    reference=reference.ranking_distances,
)
