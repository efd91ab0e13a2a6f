"""Contract of the raw op `centred_distance`."""

from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.centred_distance import reference


def _fake(x: Tensor, y: Tensor, centre: Tensor | None, out: Tensor) -> None:
    return None


centred_distance_op = register_op(
    "centred_distance(Tensor x, Tensor y, Tensor? centre, Tensor(a!) out) -> ()",
    fake=_fake,
    reference=reference.centred_distance,
    cuda="C++",
)
