"""Contract of the raw op `vireid_fast::pairwise_distance`."""

from enum import IntEnum

from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.pairwise_distance import reference


class Metric(IntEnum):
    """Metrics of the raw op; csrc/metric.h holds the same list."""

    EUCLIDEAN = 0
    SQUARED_EUCLIDEAN = 1
    NEGATIVE_DOT = 2


def _fake(x: Tensor, y: Tensor, metric: int) -> Tensor:
    return x.new_empty((x.shape[0], y.shape[0]))


pairwise_distance_op = register_op(
    "pairwise_distance(Tensor x, Tensor y, int metric) -> Tensor",
    fake=_fake,
    reference=reference.pairwise_distance,
    cuda="C++",
)
