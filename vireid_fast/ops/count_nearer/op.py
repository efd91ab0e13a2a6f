"""Contract of the raw op `count_nearer`."""

from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.count_nearer import reference


def _fake(distances: Tensor, crow: Tensor, bound: Tensor, index: Tensor, first: int) -> Tensor:
    return index.new_empty(index.shape)


count_nearer_op = register_op(
    "count_nearer(Tensor distances, Tensor crow, Tensor bound, Tensor index, int first) -> Tensor",
    fake=_fake,
    reference=reference.count_nearer,
    cuda="C++",
)
