"""Contract of the raw op `merge_lists`."""

import torch
from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.merge_lists import reference


def _fake(
    x: Tensor,
    y: Tensor,
    coarse: Tensor,
    slack: Tensor,
    distances: Tensor,
    indices: Tensor,
    farthest: Tensor,
    first_index: int,
    k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.shape[0]
    return (
        x.new_empty((rows, k)),
        x.new_empty((rows, k), dtype=torch.int64),
        x.new_empty((rows,)),
    )


merge_lists_op = register_op(
    "merge_lists(Tensor x, Tensor y, Tensor coarse, Tensor slack, Tensor distances,"
    " Tensor indices, Tensor farthest, int first_index, int k) -> (Tensor, Tensor, Tensor)",
    fake=_fake,
    reference=reference.merge_lists,
    cuda="C++",
)
