"""Contract of the raw op `jaccard_distance`."""

from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.jaccard_distance import reference


def _fake(crow: Tensor, col: Tensor, weight: Tensor, num_query: int) -> Tensor:
    return weight.new_empty((num_query, crow.shape[0] - 1 - num_query))


jaccard_distance_op = register_op(
    "jaccard_distance(Tensor crow, Tensor col, Tensor weight, int num_query) -> Tensor",
    fake=_fake,
    reference=reference.jaccard_distance,
)
