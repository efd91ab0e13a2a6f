"""Contract of the raw ops from neighbour lists to sparse weights."""

import torch
from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.k_reciprocal import reference


def _fake_sets(indices: Tensor, k1: int) -> tuple[Tensor, Tensor]:
    num_entries = torch.library.get_ctx().new_dynamic_size()
    return indices.new_empty((indices.shape[0] + 1,)), indices.new_empty((num_entries,))


def _fake_rank(
    distances: Tensor, indices: Tensor, farthest: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    num_rows = indices.shape[0]
    return indices.new_empty((num_rows, k)), indices.new_empty((num_rows,), dtype=torch.bool)


def _fake_entry(
    query: Tensor, gallery: Tensor, crow: Tensor, col: Tensor, distances: Tensor, indices: Tensor
) -> Tensor:
    return query.new_empty(col.shape)


def _fake_weights(crow: Tensor, distances: Tensor) -> Tensor:
    return distances.new_empty(distances.shape)


def _fake_expand(
    crow: Tensor, col: Tensor, weight: Tensor, indices: Tensor, k2: int
) -> tuple[Tensor, Tensor, Tensor]:
    num_entries = torch.library.get_ctx().new_dynamic_size()
    return (
        crow.new_empty(crow.shape),
        col.new_empty((num_entries,)),
        weight.new_empty((num_entries,)),
    )


rank_normalised_op = register_op(
    "rank_normalised(Tensor distances, Tensor indices, Tensor farthest, int k) -> (Tensor, Tensor)",
    fake=_fake_rank,
    reference=reference.rank_normalised,
    cuda="C++",
)
entry_distance_op = register_op(
    "entry_distance(Tensor query, Tensor gallery, Tensor crow, Tensor col, Tensor distances,"
    " Tensor indices) -> Tensor",
    fake=_fake_entry,
    reference=reference.entry_distance,
    cuda="C++",
)
k_reciprocal_sets_op = register_op(
    "k_reciprocal_sets(Tensor indices, int k1) -> (Tensor, Tensor)",
    fake=_fake_sets,
    reference=reference.k_reciprocal_sets,
    cuda="C++",
)
reciprocal_weights_op = register_op(
    "reciprocal_weights(Tensor crow, Tensor distances) -> Tensor",
    fake=_fake_weights,
    reference=reference.reciprocal_weights,
    cuda="C++",
)
expand_query_op = register_op(
    "expand_query(Tensor crow, Tensor col, Tensor weight, Tensor indices, int k2)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_fake_expand,
    reference=reference.expand_query,
    cuda="C++",
)
