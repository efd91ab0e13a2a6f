"""Triton attention kernels run by the interpreter; started by test_triton_interpret.py.

TRITON_INTERPRET=1 must be set before the kernels are imported, hence a process of its own.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from vireid_fast.ops.cross_modal_attention import reference, triton
from vireid_fast.testing import assert_error_budget


class Case(NamedTuple):
    """Lengths of the sequences, and how rows are listed."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    heads: int = 1
    head: int = 64
    gather: bool = False


CASES = [
    Case((1,), (1,), heads=2),
    Case((5, 12), (12, 3), heads=2, head=32),
    Case((17, 77), (77, 1), head=80, gather=True),
    Case((129,), (129,)),
    Case((65, 30), (163, 100), gather=True),
    Case((48,), (258,)),
    Case((3,), (20,), head=128, gather=True),
    Case((130,), (145,), head=128),
    Case((70, 9), (300, 1), head=40, gather=True),
]
NAMES = ("out", "lse", "dq", "dk", "dv")


class Layout(NamedTuple):
    """Arguments of the raw ops that say which rows attend to which."""

    query_rows: Tensor | None
    query_slots: Tensor | None
    query_start: Tensor
    query_length: Tensor
    key_rows: Tensor | None
    key_slots: Tensor | None
    key_start: Tensor
    key_length: Tensor
    num_query_slots: int
    num_key_slots: int


def _side(lengths: tuple[int, ...], gather: bool):
    """Rows, slots, starts, lengths, number of rows and slots; gathered rows repeat."""
    length = torch.tensor(lengths)
    start = length.cumsum(0) - length
    total = sum(lengths)
    if not gather:
        return None, None, start, length, total, total
    num_rows = max(1, total - 2)
    rows = torch.arange(total).mul(7).remainder(num_rows)
    slots = torch.randperm(total + 3)[:total]
    return rows, slots, start, length, num_rows, total + 3


def make_case(case: Case, dtype: torch.dtype) -> tuple[Layout, list[Tensor]]:
    """Layout and q, k, v, grad; q, k and v are views of one packed projection where they can."""
    query_rows, query_slots, query_start, query_length, num_queries, query_slot_count = _side(
        case.queries, case.gather
    )
    key_rows, key_slots, key_start, key_length, num_keys, key_slot_count = _side(
        case.keys, case.gather
    )
    packed = torch.randn(max(num_queries, num_keys), 3, case.heads, case.head).to(dtype)
    q, k, v = (packed[:n, i] for i, n in enumerate((num_queries, num_keys, num_keys)))
    grad = torch.randn(query_slot_count, case.heads, case.head).to(dtype)
    layout = Layout(
        query_rows, query_slots, query_start, query_length, key_rows, key_slots, key_start,
        key_length, query_slot_count, key_slot_count,
    )  # fmt: skip
    return layout, [q, k, v, grad]


def run(module, case: Case, layout: Layout, tensors: list[Tensor]) -> dict[str, Tensor]:
    """Forward and backward through one implementation."""
    q, k, v, grad = tensors
    longest = (max(case.queries), max(case.keys), case.head**-0.5)
    out, lse = module.cross_modal_attention(
        q, k, v, *layout[:5], *layout[6:8], layout.num_query_slots, *longest
    )
    grads = module.cross_modal_attention_bwd(grad, lse, q, k, v, *layout, *longest)
    return dict(zip(NAMES, (out, lse, *grads), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_every_gradient(case, dtype):
    layout, tensors = make_case(case, dtype)
    actual = run(triton, case, layout, tensors)
    plain = run(reference, case, layout, tensors)
    exact = run(reference, case, layout, [t.double() for t in tensors])
    # P = exp(s - lse) carries the rounding of lse, 1 ulp of it: a single key's dk, exactly 0, shows
    # that as some ulp of |dP q|. Halves round far more elsewhere.
    rounding = 32 if dtype == torch.float32 else 4
    for name in NAMES:
        assert_error_budget(actual[name], plain[name], exact[name], rounding=rounding)


def test_bfloat16_through_the_upcast():
    case = Case((20, 5), (33, 16))
    layout, tensors = make_case(case, torch.bfloat16)
    actual = run(triton, case, layout, tensors)
    plain = run(reference, case, layout, tensors)
    exact = run(reference, case, layout, [t.double() for t in tensors])
    for name in NAMES:
        assert_error_budget(actual[name], plain[name], exact[name])


@pytest.mark.parametrize("keys", [(20, 33), (300, 290)], ids=["short", "long"])
def test_nan_stays_in_its_sequence_and_head(keys):
    case = Case((18, 7), keys, heads=2, head=32)
    layout, tensors = make_case(case, torch.float16)
    clean = run(triton, case, layout, tensors)
    q, k, v, grad = (t.clone() for t in tensors)
    k[keys[0] - 1, 1, 3] = v[keys[0] - 1, 1, 3] = torch.nan
    dirty = run(triton, case, layout, [q, k, v, grad])
    for name in ("out", "dq", "dk", "dv"):
        first = case.queries[0] if name in ("out", "dq") else keys[0]
        assert torch.equal(dirty[name][first:], clean[name][first:]), name
        assert torch.equal(dirty[name][:, 0], clean[name][:, 0]), name
    assert torch.isnan(dirty["out"][:18, 1]).any() and torch.isnan(dirty["dq"][:18, 1]).any()


def test_slots_that_nothing_writes_are_zero():
    case = Case((9,), (11,), gather=True)
    layout, tensors = make_case(case, torch.float32)
    actual = run(triton, case, layout, tensors)
    for name, slots in (("out", layout.query_slots), ("dq", layout.query_slots),
                        ("dk", layout.key_slots), ("dv", layout.key_slots)):  # fmt: skip
        untouched = torch.ones(actual[name].shape[0], dtype=torch.bool)
        untouched[slots] = False
        assert untouched.sum() == 3 and (actual[name][untouched] == 0).all()


def test_any_strides_are_read():
    case = Case((6, 4), (5, 7), heads=2, head=32)
    layout, (q, k, v, grad) = make_case(case, torch.float32)
    odd = [t.permute(2, 1, 0).contiguous().permute(2, 1, 0) for t in (q, k, v, grad)]
    expected = run(triton, case, layout, [t.contiguous() for t in (q, k, v, grad)])
    actual = run(triton, case, layout, odd)
    assert all(torch.equal(actual[name], expected[name]) for name in NAMES)
    wide = grad[:1, :, :1].expand_as(grad)
    actual = run(triton, case, layout, [q, k, v, wide])
    expected = run(triton, case, layout, [q, k, v, wide.contiguous()])
    assert all(torch.equal(actual[name], expected[name]) for name in NAMES)


def test_no_sequences_and_no_rows():
    case = Case((2,), (2,))
    layout, tensors = make_case(case, torch.float32)
    none = torch.zeros(0, dtype=torch.int64)
    empty = layout._replace(
        query_start=none, query_length=none, key_start=none, key_length=none,
        num_query_slots=0, num_key_slots=0,
    )  # fmt: skip
    actual = run(triton, case, empty, [t[:0] for t in tensors])
    assert [tuple(actual[name].shape) for name in NAMES] == [
        (0, 1, 64), (1, 0), (0, 1, 64), (0, 1, 64), (0, 1, 64)
    ]  # fmt: skip
