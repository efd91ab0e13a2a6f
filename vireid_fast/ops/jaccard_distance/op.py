"""Contract of the raw ops `jaccard_distance`, `invert_rows` and `blend_jaccard`."""

import torch
from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.jaccard_distance import reference


def _fake(crow: Tensor, col: Tensor, weight: Tensor, num_query: int) -> Tensor:
    return weight.new_empty((num_query, crow.shape[0] - 1 - num_query))


def _fake_invert(
    crow: Tensor, col: Tensor, weight: Tensor, first_row: int
) -> tuple[Tensor, Tensor, Tensor]:
    num_entries = torch.library.get_ctx().new_dynamic_size()
    return (
        crow.new_empty(crow.shape),
        crow.new_empty((num_entries,), dtype=torch.int32),
        weight.new_empty((num_entries,)),
    )


def _fake_blend(
    crow: Tensor,
    col: Tensor,
    weight: Tensor,
    first: Tensor,
    row: Tensor,
    row_weight: Tensor,
    farthest: Tensor,
    first_query: int,
    lambda_value: float,
    distances: Tensor,
) -> None:
    return None


jaccard_distance_op = register_op(
    "jaccard_distance(Tensor crow, Tensor col, Tensor weight, int num_query) -> Tensor",
    fake=_fake,
    reference=reference.jaccard_distance,
    cuda="C++",
)
invert_rows_op = register_op(
    "invert_rows(Tensor crow, Tensor col, Tensor weight, int first_row)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_fake_invert,
    reference=reference.invert_rows,
    cuda="C++",
)
blend_jaccard_op = register_op(
    "blend_jaccard(Tensor crow, Tensor col, Tensor weight, Tensor first, Tensor row,"
    " Tensor row_weight, Tensor farthest, int first_query, float lambda_value,"
    " Tensor(a!) distances) -> ()",
    fake=_fake_blend,
    reference=reference.blend_jaccard,
    cuda="C++",
)
