"""Counts of nearer items against a loop over pairs."""

import math

import pytest
import torch
from torch import Tensor

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops import count_nearer
from vireid_fast.ops.count_nearer.op import count_nearer_op
from vireid_fast.testing import limit_threads

BACKENDS = ["fused", "reference"]
SHAPES = [(1, 1, 1), (3, 0, 4), (0, 5, 0), (5, 17, 0), (7, 131, 40), (2, 2300, 9)]


def make_inputs(
    num_query: int, num_gallery: int, num_items: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Few distinct distances, NaN among them, and items on both sides of the columns and within."""
    generator = torch.Generator().manual_seed(num_gallery)
    values = torch.tensor([-1, 0.0, 0.5, 0.5, 2, math.inf, math.nan], dtype=dtype)

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    row = draw(max(1, num_query), num_items)
    crow = torch.searchsorted(row.sort().values, torch.arange(num_query + 1))
    bound = values[draw(6, num_items)]
    index = draw(num_gallery + 20, num_items)
    return values[draw(7, num_query, num_gallery)], crow, bound, index, 10


def counted_in_loops(
    distances: Tensor, crow: Tensor, bound: Tensor, index: Tensor, first: int
) -> list[int]:
    counts = []
    for query, row in enumerate(distances.tolist()):
        for p in range(int(crow[query]), int(crow[query + 1])):
            limit = (bound[p].item(), index[p].item())
            counts.append(sum((d, first + g) < limit for g, d in enumerate(row) if d == d))
    return counts


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_loops(backend, shape, dtype, device):
    inputs = make_inputs(*shape, dtype)
    found = count_nearer(*(x.to(device) for x in inputs[:4]), inputs[4], backend=backend)
    assert found.dtype == torch.int64 and found.device.type == device.type
    assert found.tolist() == counted_in_loops(*inputs)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set_and_thread_count(instruction_set):
    inputs = make_inputs(7, 131, 40)
    expected = counted_in_loops(*inputs)
    with limit_instruction_set(instruction_set):
        for threads in (1, 2):
            with limit_threads(threads):
                assert count_nearer(*inputs).tolist() == expected


def test_shards_add_up_to_the_rank():
    distances = torch.rand(5, 60).mul(8).floor()
    crow, index = torch.arange(0, 16, 3), torch.randint(60, (15,))
    bound = distances[torch.arange(5).repeat_interleave(3), index]
    whole = count_nearer(distances, crow, bound, index)
    parts = [distances[:, :7], distances[:, 7:7], distances[:, 7:]]
    counts = [
        count_nearer(part, crow, bound, index, first)
        for part, first in zip(parts, (0, 7, 7), strict=True)
    ]
    assert torch.equal(sum(counts), whole)
    order = distances.argsort(dim=1, stable=True).argsort(1)
    assert torch.equal(whole, order[torch.arange(5).repeat_interleave(3), index])


def test_strides_do_not_matter():
    distances, crow, bound, index, first = make_inputs(7, 131, 40)
    found = count_nearer(distances.T.contiguous().T, crow, bound, index, first)
    assert torch.equal(found, count_nearer(distances, crow, bound, index, first))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_registration(shape, device):
    inputs = make_inputs(*shape)
    torch.library.opcheck(count_nearer_op, (*(x.to(device) for x in inputs[:4]), inputs[4]))


def _changed(**changes):
    names = ("distances", "crow", "bound", "index", "first")
    return dict(zip(names, make_inputs(7, 131, 40), strict=True)) | changes


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"distances": torch.zeros(7, 131).half()}, TypeError, "distances must be float32 or fl"),
        ({"distances": torch.zeros(7)}, ValueError, "distances must have shape"),
        ({"bound": torch.zeros(40).double()}, TypeError, "bound must be float32"),
        ({"bound": torch.zeros(40, 1)}, ValueError, "bound must have shape"),
        ({"index": torch.zeros(40)}, TypeError, "index must be int64"),
        ({"index": torch.zeros(39).long()}, ValueError, r"index must have shape \(40,\)"),
        ({"crow": torch.zeros(7).long()}, ValueError, r"crow must have shape \(8,\)"),
        ({"crow": torch.zeros(8).long()}, ValueError, "crow must rise from 0 to the number of"),
        ({"crow": torch.zeros(8)}, TypeError, "crow must be int64"),
        ({"backend": "cuda"}, ValueError, "backend must be one of"),
        (
            {"distances": torch.zeros(7, 131).requires_grad_()},
            RuntimeError, "distances must not require a gradient",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(changes, error, text):
    with pytest.raises(error, match="count_nearer: " + text):
        count_nearer(**_changed(**changes))


@pytest.mark.skipif(not HAS_EXTENSION, reason="needs the compiled kernels")
def test_the_raw_op_checks_what_memory_safety_needs():
    distances, crow, bound, index, first = make_inputs(7, 131, 40)
    for wrong in (
        (distances[0], crow, bound, index), (distances, crow[:-1], bound, index),
        (distances, crow + 1, bound, index), (distances, crow, bound[1:], index),
        (distances, crow, bound.double(), index), (distances, crow, bound, index.int()),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="count_nearer: "):
            count_nearer_op(*wrong, first)
