"""Contract of the raw op `rank_statistics`."""

import torch
from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.rank_statistics import reference

# Codes of `drop` in the raw op; csrc/cpu/rank_statistics.cpp holds the same list.
DROP_RULES = ("none", "same_group", "same_group_and_id")


def _fake(
    distances: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    query_groups: Tensor,
    gallery_groups: Tensor,
    drop: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_query = distances.shape[0]
    kinds = (torch.int64, torch.int64, torch.float64, torch.float64, torch.int64)
    first, identity, precision, penalty, positives = (
        distances.new_empty((num_query,), dtype=kind) for kind in kinds
    )
    return first, identity, precision, penalty, positives


rank_statistics_op = register_op(
    "rank_statistics(Tensor distances, Tensor query_ids, Tensor gallery_ids, Tensor query_groups,"
    " Tensor gallery_groups, int drop) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_fake,
    reference=reference.rank_statistics,
)
