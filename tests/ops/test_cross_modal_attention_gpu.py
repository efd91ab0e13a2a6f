"""Triton attention kernels on a GPU: raw ops against the reference in float64."""

import pytest
import torch

from vireid_fast.ops.cross_modal_attention import AttentionIndex, reference
from vireid_fast.ops.cross_modal_attention.op import (
    cross_modal_attention_bwd_op,
    cross_modal_attention_fwd_op,
)
from vireid_fast.testing import assert_error_budget

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NAMES = ("out", "lse", "dq", "dk", "dv")
INDICES = {
    "one token": lambda: AttentionIndex.within([1, 1]),
    "12 crossed": lambda: AttentionIndex.cross([12] * 4, [12] * 4),
    "77 within": lambda: AttentionIndex.within([77, 77]),
    "129 crossed": lambda: AttentionIndex.cross([129] * 3, [129] * 3),
    "129 joint": lambda: AttentionIndex.joint([129] * 2, [129] * 2),
    "163 within": lambda: AttentionIndex.within([163] * 2),
    "ragged": lambda: AttentionIndex.cross([163, 1, 40], [77, 129, 12]),
    "unequal": lambda: AttentionIndex.pairs([3, 130], [258, 64]),
    "long": lambda: AttentionIndex.within([774, 300]),
    "repeated rows": lambda: AttentionIndex.from_rows(
        [[*range(60), 199], [*range(60, 180), 199]], num_queries=200
    ),
}


def arguments(index: AttentionIndex) -> tuple[list, list]:
    """Index arguments of the forward and of the backward op."""
    queries, keys = index.queries, index.keys
    query = [queries.rows, queries.slots, queries.start, queries.length]
    forward = [*query, keys.rows, keys.start, keys.length, queries.num_slots]
    backward = [
        *query, keys.rows, keys.slots, keys.start, keys.length, queries.num_slots, keys.num_slots
    ]  # fmt: skip
    return forward, backward


def run(forward_op, backward_op, index, tensors):
    """Output, lse and gradients through one pair of ops."""
    q, k, v, grad = tensors
    forward, backward = arguments(index)
    longest = (index.max_query, index.max_key, q.shape[2] ** -0.5)
    out, lse = forward_op(q, k, v, *forward, *longest)
    return (out, lse, *backward_op(grad, lse, q, k, v, *backward, *longest))


def fused(index, tensors):
    """Through the dispatcher: the kernels."""
    return run(cross_modal_attention_fwd_op, cross_modal_attention_bwd_op, index, tensors)


def plain(index, tensors):
    """The reference."""
    return run(
        reference.cross_modal_attention, reference.cross_modal_attention_bwd, index, tensors
    )


def make_tensors(index, heads, head, dtype):
    """q, k and v as views of one projection where there are as many of them, and a gradient."""
    rows = max(index.num_queries, index.num_keys)
    packed = torch.randn(rows, 3, heads, head, device="cuda").to(dtype)
    q, k, v = packed[: index.num_queries, 0], packed[: index.num_keys, 1], packed[:, 2]
    grad = torch.randn(index.queries.num_slots, heads, head, device="cuda").to(dtype)
    return [q, k, v[: index.num_keys], grad]


def check(index, tensors):
    """Every output of the kernels within the budget of its dtype."""
    outputs = fused(index, tensors)
    budgets = plain(index, tensors)
    exact = plain(index, [t.double() for t in tensors])
    # As in interpreted_cross_modal_attention.py: P carries the rounding of lse.
    rounding = 32 if tensors[0].dtype == torch.float32 else 4
    for triple in zip(outputs, budgets, exact, strict=True):
        assert_error_budget(*triple, rounding=rounding)
    return outputs


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", INDICES)
def test_values_and_every_gradient(name, dtype):
    index = INDICES[name]().to("cuda")
    tensors = make_tensors(index, 3, 64, dtype)
    outputs = check(index, tensors)
    again = fused(index, tensors)
    assert all(torch.equal(a, b) for a, b in zip(outputs, again, strict=True))


@pytest.mark.parametrize("tokens", [20, 129, 163, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head", [32, 40, 80, 128])
def test_head_sizes(head, dtype, tokens):
    index = AttentionIndex.cross([tokens] * 2, [tokens] * 2).to("cuda")
    check(index, make_tensors(index, 2, head, dtype))


def test_nan_stays_in_its_sequence():
    index = AttentionIndex.within([129, 129]).to("cuda")
    tensors = make_tensors(index, 2, 64, torch.bfloat16)
    clean = fused(index, tensors)
    tensors[1][200] = torch.nan
    dirty = fused(index, tensors)
    for name, a, b in zip(NAMES, clean, dirty, strict=True):
        own, other = (b.T[129:], b.T[:129]) if name == "lse" else (b[129:], b[:129])
        assert torch.isnan(own).any()
        assert torch.equal(other, a.T[:129] if name == "lse" else a[:129])


@pytest.mark.parametrize("tokens", [129, 258, 600])
def test_graph_capture(tokens):
    index = AttentionIndex.cross([tokens] * 2, [tokens] * 2).to("cuda")
    tensors = make_tensors(index, 12, 64, torch.bfloat16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Compiles the kernels, which a capture must not do.
        fused(index, tensors)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = fused(index, tensors)
    for tensor in tensors:
        tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    for a, b in zip(captured, fused(index, tensors), strict=True):
        assert torch.equal(a, b)
