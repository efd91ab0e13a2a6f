"""cross_modal_attention: values and gradients of every backend against naive loops and float64."""

import pytest
import torch
from torch.nn import functional as F

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops import AttentionIndex, cross_modal_attention
from vireid_fast.ops.cross_modal_attention import plan, reference
from vireid_fast.ops.cross_modal_attention.op import (
    cross_modal_attention_bwd_op,
    cross_modal_attention_fwd_op,
)
from vireid_fast.testing import (
    AttentionInputs,
    assert_error_budget,
    grouped_rows,
    limit_threads,
    make_attention_inputs,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def shifted_rows(clips, frames, patches):
    """Temporal patch shift: frame t reads patch n of frame t + n mod 3 - 1, its own class token."""
    tokens = 1 + patches
    return [
        [(clip * frames + t) * tokens]
        + [(clip * frames + (t + n % 3 - 1) % frames) * tokens + 1 + n for n in range(patches)]
        for clip in range(clips)
        for t in range(frames)
    ]


LAYOUTS = {
    "one token": lambda: AttentionIndex.within([1]),
    "one against many": lambda: AttentionIndex.cross([1], [17]),
    "primes": lambda: AttentionIndex.within([2, 3, 5, 7, 11, 13]),
    "cross": lambda: AttentionIndex.cross([12, 12], [12, 12]),
    "cross ragged": lambda: AttentionIndex.cross([1, 31, 8], [33, 2, 19]),
    "joint ragged": lambda: AttentionIndex.joint([1, 31, 8], [33, 2, 19]),
    "pairs": lambda: AttentionIndex.pairs([4, 9, 9], [21, 1, 16]),
    "129": lambda: AttentionIndex.cross([129], [129]),
    "163 and 77": lambda: AttentionIndex.cross([163], [77]),
    "grouped": lambda: AttentionIndex.from_rows(grouped_rows(2, 3, 4, 2, 2)[0]),
    "shifted": lambda: AttentionIndex.from_rows(shifted_rows(2, 4, 9)),
    "uneven repeats": lambda: AttentionIndex.from_rows(
        [[0, 2], [0, 1, 0], [2, 0, 3]], [[1, 1, 0], [4], [2, 1]], num_queries=6, num_keys=7
    ),
    "shared keys": lambda: AttentionIndex.from_rows(
        [[0, 1, 2], [3], [4, 5]], [list(range(19))] * 3
    ),
}


@pytest.fixture(params=["kernel", "sdpa", "reference"])
def backend(request):
    return request.param


@pytest.fixture
def runnable(backend, device):
    """The backend, on a device that it is built for."""
    missing = plan.missing_build(device)
    if backend == "kernel" and missing:
        pytest.skip(missing)
    return backend


def sequences(side):
    entries = list(range(side.num_rows)) if side.rows is None else side.rows.tolist()
    spans = zip(side.start.tolist(), side.length.tolist(), strict=True)
    return [entries[first : first + length] for first, length in spans]


def naive(query, key, value, index, scale):
    """Loops over sequences, heads and queries; the mean over repeated queries."""
    out, number = torch.zeros_like(query), torch.zeros(query.shape[0], 1, 1, dtype=query.dtype)
    for q_rows, k_rows in zip(sequences(index.queries), sequences(index.keys), strict=True):
        for row in q_rows:
            for head in range(query.shape[1]):
                scores = torch.stack([scale * query[row, head] @ key[j, head] for j in k_rows])
                weight = torch.softmax(scores, 0)
                total = sum(w * value[j, head] for w, j in zip(weight, k_rows, strict=True))
                out = out.index_put((torch.tensor(row), torch.tensor(head)), total, True)
            number[row] += 1
    return out / number.clamp(min=1)


def with_gradients(inputs, dtype, backend, weight, scale=None):
    """Output, then the gradients of query, key and value."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in inputs[:3]]
    out = cross_modal_attention(*leaves, inputs.index, scale=scale, backend=backend)
    return out.detach(), *torch.autograd.grad(out, leaves, weight.to(out))


def assert_all_within_budget(inputs, dtype, backend):
    """Output and every gradient err no more than the reference of that dtype does."""
    weight = torch.randn(inputs.query.shape, dtype=torch.float64).to(inputs.query)
    exact = with_gradients(inputs, torch.float64, "reference", weight)
    plain = with_gradients(inputs, dtype, "reference", weight)
    actual = with_gradients(inputs, dtype, backend, weight)
    # SDPA takes the row sums of P dP from its rounded output; beside it, matrix products in half
    # precision round P and dS to the dtype.
    rounding = 64.0 if backend == "sdpa" else 4.0 if dtype == torch.float32 else 16.0
    for value, own, truth in zip(actual, plain, exact, strict=True):
        if truth.any():
            assert_error_budget(value, own, truth, rounding=rounding)
        else:
            # With one key dP and its row sum cancel, up to the rounding of values of about 10.
            assert value.abs().max() <= 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", [name for name in LAYOUTS if not name[0].isdigit()])
@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_equals_naive_loops_in_float64(name, backend):
    inputs = make_attention_inputs(LAYOUTS[name](), 2, 4, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in inputs[:3]]
    exact = naive(*leaves, inputs.index, 0.3)
    weight = torch.randn_like(exact)
    out, *grads = with_gradients(inputs, torch.float64, backend, weight, scale=0.3)
    torch.testing.assert_close(out, exact, rtol=0, atol=1e-14)
    for actual, expected in zip(grads, torch.autograd.grad(exact, leaves, weight), strict=True):
        # A dozen additions of values of about 1.
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_errs_no_more_than_the_reference(name, dtype, runnable, device):
    inputs = make_attention_inputs(LAYOUTS[name]().to(device), 3, 32, dtype=dtype)
    assert_all_within_budget(inputs, dtype, runnable)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.skipif(not HAS_EXTENSION, reason="the CPU extension is not built")
def test_every_instruction_set(name, dtype):
    with limit_instruction_set(name):
        for layout, width in (("cross ragged", 40), ("163 and 77", 64), ("uneven repeats", 128)):
            inputs = make_attention_inputs(LAYOUTS[layout](), 2, width, dtype=dtype)
            assert_all_within_budget(inputs, dtype, "kernel")


@pytest.mark.parametrize("width", [32, 40, 56, 64, 80, 96, 104, 128])
def test_head_sizes(width, runnable, device):
    inputs = make_attention_inputs(LAYOUTS["cross ragged"]().to(device), 2, width)
    assert_all_within_budget(inputs, torch.float32, runnable)


@pytest.mark.parametrize("tokens", [*range(1, 20), 31, 32, 33, 63, 64, 65, 127, 128, 129])
def test_every_short_length(tokens, runnable, device):
    inputs = make_attention_inputs(AttentionIndex.cross([tokens], [tokens + 1]).to(device), 1, 32)
    assert_all_within_budget(inputs, torch.float32, runnable)


def test_modes_equal_sdpa_on_permuted_copies(runnable, device):
    batch, visible, infrared, heads, width = 3, 7, 12, 2, 32
    first = batch * visible

    def attend(x, rows, key_rows):
        q, k, v = (x[i][r].transpose(1, 2) for i, r in enumerate((rows, key_rows, key_rows)))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    visible_rows = torch.arange(first, device=device).view(batch, visible)
    infrared_rows = first + torch.arange(batch * infrared, device=device).view(batch, infrared)
    both = torch.cat([visible_rows, infrared_rows], 1)
    for mode, pairs in (
        ("cross", [(visible_rows, infrared_rows), (infrared_rows, visible_rows)]),
        ("joint", [(both, both)]),
        ("self", [(visible_rows, visible_rows), (infrared_rows, infrared_rows)]),
    ):
        index = AttentionIndex.uniform(mode, batch, visible, infrared, device)
        x = make_attention_inputs(index, heads, width)
        expected = torch.empty_like(x.query)
        for rows, key_rows in pairs:
            expected[rows] = attend(x[:3], rows, key_rows)
        out = cross_modal_attention(*x, backend=runnable)
        # Outputs are means of normal values, below 4; a few roundings of float32.
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)


def test_swapping_modalities_swaps_outputs(runnable, device):
    index = AttentionIndex.uniform("cross", 2, 5, 9, device)
    x = make_attention_inputs(index, 2, 32)
    out = cross_modal_attention(*x, backend=runnable)
    swapped = [torch.cat([t[10:], t[:10]]) for t in x[:3]]
    other = AttentionIndex.uniform("cross", 2, 9, 5, device)
    again = cross_modal_attention(*swapped, other, backend=runnable)
    assert torch.equal(out, torch.cat([again[18:], again[:18]]))


def test_class_tokens_get_the_mean_over_their_groups(runnable, device):
    lists, rows = grouped_rows(clips=1, frames=2, rows=4, columns=2, groups=2)
    x = make_attention_inputs(AttentionIndex.from_rows(lists, device=device), 2, 32)
    out = cross_modal_attention(*x, backend=runnable)
    parts = []
    for group in lists:
        alone = AttentionIndex.from_rows([group], num_queries=rows, device=device)
        parts.append(cross_modal_attention(*x[:3], alone, backend=runnable))
    # Frame tokens 0 and 9 are in both groups, every patch in one; the other group gives it 0.
    expected = parts[0] + parts[1]
    expected[[0, 9]] /= 2
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def test_row_that_no_sequence_queries_gets_zero(runnable, device):
    index = AttentionIndex.from_rows([[1, 3]], [[0, 2]], num_queries=5, num_keys=4, device=device)
    x = make_attention_inputs(index, 2, 32)
    leaves = [t.requires_grad_() for t in x[:3]]
    out = cross_modal_attention(*leaves, index, backend=runnable)
    assert not out[[0, 2, 4]].any() and out[[1, 3]].all()
    dq, dk, dv = torch.autograd.grad(out.square().sum(), leaves)
    assert not dq[[0, 2, 4]].any() and not dk[[1, 3]].any() and not dv[[1, 3]].any()


@pytest.mark.parametrize("name", ["cross ragged", "joint ragged", "uneven repeats"])
@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_gradcheck(name, backend):
    inputs = make_attention_inputs(LAYOUTS[name](), 1, 2, dtype=torch.float64)
    if name != "uneven repeats":
        index = {"cross ragged": AttentionIndex.cross, "joint ragged": AttentionIndex.joint}[name]
        inputs = make_attention_inputs(index([1, 3], [2, 4]), 1, 2, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in inputs[:3]]

    def function(query, key, value):
        return cross_modal_attention(query, key, value, inputs.index, backend=backend)

    assert torch.autograd.gradcheck(function, leaves)


def test_nan_stays_within_its_sequences_and_head(runnable, device):
    index = AttentionIndex.cross([5, 40], [7, 3]).to(device)
    x = make_attention_inputs(index, 2, 32)
    # Row 46 is an infrared token of pair 0: a key of visible rows 0-4, a query of itself.
    for t in x[:3]:
        t[46, 1] = torch.nan
    leaves = [t.requires_grad_() for t in x[:3]]
    out = cross_modal_attention(*leaves, index, backend=runnable)
    grads = torch.autograd.grad(out.sum(), leaves)
    spoiled = torch.zeros(55, 2, dtype=torch.bool, device=device)
    spoiled[:5, 1] = spoiled[45:52, 1] = True
    assert torch.isfinite(out[~spoiled]).all() and torch.isnan(out[:5, 1]).all()
    assert torch.isfinite(out[45, 1]).all()
    assert all(torch.isfinite(g[~spoiled]).all() for g in grads)
    # torch's SDPA gives 0 for a query that is NaN.
    assert torch.isnan(out[46, 1]).all() or runnable == "sdpa"


def test_views_and_expanded_inputs(runnable, device):
    index = AttentionIndex.uniform("cross", 2, 5, 9, device)
    packed = make_attention_inputs(index, 2, 32, packed=True)
    dense = [t.contiguous() for t in packed[:3]]
    expected = cross_modal_attention(*dense, index, backend=runnable)
    assert packed.query.stride() == (3 * 64, 32, 1)
    torch.testing.assert_close(
        cross_modal_attention(*packed, backend=runnable), expected, rtol=0, atol=1e-6
    )
    columns = [t.permute(2, 1, 0).contiguous().permute(2, 1, 0) for t in dense]
    torch.testing.assert_close(
        cross_modal_attention(*columns, index, backend=runnable), expected, rtol=0, atol=1e-6
    )
    # One query for all rows: the gradient is the sum over them.
    single = dense[0][:1].clone().requires_grad_()
    spread = single.expand(28, 2, 32)
    copy = spread.detach().clone().requires_grad_()
    out = cross_modal_attention(spread, *dense[1:], index, backend=runnable)
    same = cross_modal_attention(copy, *dense[1:], index, backend=runnable)
    torch.testing.assert_close(out, same, rtol=0, atol=1e-6)
    weight = torch.randn_like(out)
    (grad,) = torch.autograd.grad(out, single, weight)
    (rows,) = torch.autograd.grad(same, copy, weight)
    torch.testing.assert_close(grad, rows.sum(0, keepdim=True), rtol=1e-5, atol=1e-6)
    # The gradient of a sum is expanded: stride 0 in every dimension.
    leaf = dense[0].clone().requires_grad_()
    total = cross_modal_attention(leaf, *dense[1:], index, backend=runnable).sum()
    assert torch.autograd.grad(total, leaf)[0].shape == leaf.shape


@pytest.mark.parametrize("backend", ["kernel", "reference"])
def test_threads_and_other_sequences_do_not_change_the_result(runnable):
    lengths = [129, 7, 64, 33, 129, 12]
    x = make_attention_inputs(AttentionIndex.within(lengths), 4, 64)
    weight = torch.randn(x.query.shape)
    results = []
    for threads in (1, 2):
        with limit_threads(threads):
            results.append(with_gradients(x, torch.float32, runnable, weight))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    if runnable == "kernel":
        alone = AttentionInputs(*(t[129:136] for t in x[:3]), AttentionIndex.within([7]))
        short = with_gradients(alone, torch.float32, runnable, weight[129:136])
        assert all(torch.equal(a[129:136], b) for a, b in zip(results[0], short, strict=True))


def test_compiles_with_other_sizes(runnable, device):
    def loss(query, key, value, batch, visible, infrared):
        index = AttentionIndex.uniform("cross", batch, visible, infrared, query.device)
        return cross_modal_attention(query, key, value, index, backend=runnable).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for sizes in ((2, 5, 7), (3, 8, 4)):
        x = make_attention_inputs(AttentionIndex.uniform("cross", *sizes, device), 2, 32)
        eager, traced = ([t.clone().requires_grad_() for t in x[:3]] for _ in range(2))
        loss(*eager, *sizes).backward()
        compiled(*traced, *sizes).backward()
        for a, b in zip(eager, traced, strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["cross ragged", "grouped"])
def test_compiles_with_an_index_from_outside(name, runnable, device):
    x = make_attention_inputs(LAYOUTS[name]().to(device), 2, 32)

    def loss(query, key, value, index):
        return cross_modal_attention(query, key, value, index, backend=runnable).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    eager, traced = ([t.clone().requires_grad_() for t in x[:3]] for _ in range(2))
    loss(*eager, x.index).backward()
    compiled(*traced, x.index).backward()
    for a, b in zip(eager, traced, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
def test_captured_graph_replays(runnable):
    index = AttentionIndex.uniform("cross", 2, 12, 13, "cuda")
    x = make_attention_inputs(index, 4, 64, dtype=torch.float16)
    leaves = [t.requires_grad_() for t in x[:3]]

    def step():
        out = cross_modal_attention(*leaves, index, backend=runnable)
        return out, *torch.autograd.grad(out.float().square().sum(), leaves)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = [t.clone() for t in step()]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def raw_arguments(x):
    """Arguments of the raw forward op."""
    q, k = x.index.queries, x.index.keys
    return (
        *x[:3], q.rows, q.slots, q.start, q.length, k.rows, k.start, k.length,
        q.num_slots, q.longest, k.longest, 0.25,
    )  # fmt: skip


def raw_backward_arguments(x):
    """Arguments of the raw backward op."""
    _, lse = reference.cross_modal_attention(*raw_arguments(x))
    q, k = x.index.queries, x.index.keys
    grad = torch.randn(q.num_slots, *x.query.shape[1:]).to(x.query)
    return (
        grad, lse, *x[:3], q.rows, q.slots, q.start, q.length, k.rows, k.slots, k.start, k.length,
        q.num_slots, k.num_slots, q.longest, k.longest, 0.25,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["cross ragged", "grouped", "uneven repeats"])
def test_registration(name, dtype, device):
    index = LAYOUTS[name]().to(device)
    packed = index.num_queries == index.num_keys
    x = make_attention_inputs(index, 2, 32, dtype=dtype, packed=packed)
    torch.library.opcheck(cross_modal_attention_fwd_op, raw_arguments(x))
    torch.library.opcheck(cross_modal_attention_bwd_op, raw_backward_arguments(x))


@pytest.mark.parametrize("name", LAYOUTS)
def test_raw_ops_match_their_reference(name, device):
    x = make_attention_inputs(LAYOUTS[name]().to(device), 2, 32)
    out, lse = cross_modal_attention_fwd_op(*raw_arguments(x))
    plain, plain_lse = reference.cross_modal_attention(*raw_arguments(x))
    # Unwritten slots must hold 0 in all, and log sum exp errs by a rounding or two of 5.
    torch.testing.assert_close(out, plain, rtol=0, atol=4e-6)
    torch.testing.assert_close(lse, plain_lse, rtol=0, atol=4e-6)
    arguments = raw_backward_arguments(x)
    actual = cross_modal_attention_bwd_op(*arguments)
    expected = reference.cross_modal_attention_bwd(*arguments)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
