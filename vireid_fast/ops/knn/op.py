"""Contract of the raw ops `knn`, `smallest_k` and `pair_distance`."""

import torch
from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.knn import reference


def _empty_lists(like: Tensor, num_rows: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        like.new_empty((num_rows, k)),
        like.new_empty((num_rows, k), dtype=torch.int64),
        like.new_empty((num_rows,)),
    )


def _fake_knn(query: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_lists(query, query.shape[0], min(k, database.shape[0]))


def _fake_smallest_k(distances: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_lists(distances, distances.shape[0], min(k, distances.shape[1]))


def _fake_pair_distance(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return x.new_empty((row.shape[0],))


knn_op = register_op(
    "knn(Tensor query, Tensor database, int k) -> (Tensor, Tensor, Tensor)",
    fake=_fake_knn,
    reference=reference.knn,
    cuda="C++",
)
smallest_k_op = register_op(
    "smallest_k(Tensor distances, int k) -> (Tensor, Tensor, Tensor)",
    fake=_fake_smallest_k,
    reference=reference.smallest_k,
    cuda="C++",
)
pair_distance_op = register_op(
    "pair_distance(Tensor x, Tensor row, Tensor column) -> Tensor",
    fake=_fake_pair_distance,
    reference=reference.pair_distance,
    cuda="C++",
)
