"""The C++ kernels of cross_modal_attention, raw: every instruction set, dtype and register tail."""

import itertools

import pytest
import torch

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops.cross_modal_attention import reference
from vireid_fast.ops.cross_modal_attention.op import (
    cross_modal_attention_bwd_op,
    cross_modal_attention_fwd_op,
)
from vireid_fast.testing import assert_error_budget, limit_threads

pytestmark = pytest.mark.skipif(not HAS_EXTENSION, reason="the CPU extension is not built")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WIDTHS = [32, 40, 64, 72, 80, 96, 104, 128]
# Query and key lengths around the register tiles (4, 6 and 14 rows; 4 to 32 columns).
LENGTHS = {
    "one": ([1], [1]),
    "one query": ([1], [33]),
    "one key": ([29], [1]),
    "rows": (list(range(1, 31)), [5] * 30),
    "columns": ([3] * 34, list(range(1, 35))),
    "ragged": ([77, 12, 129], [13, 163, 12]),
    "long keys": ([5], [1031]),
    "row blocks": ([150], [774]),
}


class Problem:
    """Random inputs of both raw ops; queries, keys and values are views of packed projections."""

    def __init__(self, lengths, heads=2, width=64, dtype=torch.float32, scale=None, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def random(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.query_length, self.key_length = map(torch.tensor, lengths)
        self.num_queries, self.num_keys = (sum(side) for side in lengths)
        self.query = random(self.num_queries, 3, heads, width)[:, 1]
        self.key, self.value = random(self.num_keys, 3, heads, width)[:, 1:].unbind(1)
        self.grad = random(self.num_queries, heads, width)
        self.query_start = self.query_length.cumsum(0) - self.query_length
        self.key_start = self.key_length.cumsum(0) - self.key_length
        self.query_rows = self.query_slots = self.key_rows = self.key_slots = None
        self.num_slots, self.num_key_slots = self.num_queries, self.num_keys
        self.scale = width**-0.5 if scale is None else scale

    def run(self, forward, backward, dtype=None):
        """Outputs, log sum exp and the three gradients; inputs cast to `dtype` first."""
        dense = [
            x if dtype is None else x.to(dtype)
            for x in (self.grad, self.query, self.key, self.value)
        ]
        queries = (self.query_rows, self.query_slots, self.query_start, self.query_length)
        keys = (self.key_start, self.key_length)
        longest = (int(self.query_length.max()), int(self.key_length.max()))
        out, lse = forward(
            *dense[1:], *queries, self.key_rows, *keys, self.num_slots, *longest, self.scale
        )
        gradients = backward(
            dense[0], lse, *dense[1:], *queries, self.key_rows, self.key_slots, *keys,
            self.num_slots, self.num_key_slots, *longest, self.scale,
        )  # fmt: skip
        return out, lse, *gradients

    def kernel(self):
        return self.run(cross_modal_attention_fwd_op, cross_modal_attention_bwd_op)

    def plain(self, dtype=None):
        forward, backward = reference.cross_modal_attention, reference.cross_modal_attention_bwd
        return self.run(forward, backward, dtype)

    def check(self):
        exact = self.plain(torch.float64)
        for actual, own, right in zip(self.kernel(), self.plain(), exact, strict=True):
            # A probability errs as its score does: by the luck of one dot product's roundings.
            assert_error_budget(actual, own, right, rounding=8)


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request):
    with limit_instruction_set(request.param):
        yield request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_lengths(lengths, dtype, instruction_set):
    Problem(lengths, dtype=dtype).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_head_sizes(width, dtype, instruction_set):
    Problem(([1, 15, 37], [19, 1, 33]), width=width, dtype=dtype).check()


@pytest.mark.parametrize("scale", [0.0, -0.3, 3.0])
def test_scales(scale, instruction_set):
    # At 3 the softmax is nearly one-hot, and most probabilities underflow.
    Problem(([40], [55]), scale=scale).check()


def test_large_offset_of_the_scores_cancels(instruction_set):
    problem = Problem(([9], [21]))
    problem.key = problem.key + 40
    problem.check()


def test_single_key_has_probability_one(instruction_set):
    problem = Problem(([17], [1]), scale=5.0)
    out, _, grad_query, grad_key, _ = problem.kernel()
    assert torch.equal(out, problem.value.expand_as(out))
    assert not grad_query.any() and not grad_key.any()


def gathered(dtype=torch.float32):
    """Rows and slots in any order, a key row in two sequences, and slots that nobody writes."""
    problem = Problem(([7, 20], [18, 15]), dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    problem.query_rows = torch.randperm(27, generator=generator)
    problem.key_rows = torch.randint(0, 33, (33,), generator=generator)
    problem.num_slots, problem.num_key_slots = 31, 40
    problem.grad = torch.randn(31, 2, 64, generator=generator).to(dtype)
    problem.query_slots = torch.randperm(31, generator=generator)[:27]
    problem.key_slots = torch.randperm(40, generator=generator)[:33]
    return problem


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gathered_rows_and_slots(dtype, instruction_set):
    problem = gathered(dtype)
    problem.check()
    out, lse, grad_query, grad_key, grad_value = problem.kernel()
    free = [slot for slot in range(31) if slot not in problem.query_slots.tolist()]
    assert not out[free].any() and not lse[:, free].any() and not grad_query[free].any()
    free = [slot for slot in range(40) if slot not in problem.key_slots.tolist()]
    assert not grad_key[free].any() and not grad_value[free].any()


def test_rows_without_slots_store_where_they_load(instruction_set):
    problem = gathered()
    problem.query_slots, problem.num_slots = None, 27
    problem.grad = problem.grad[:27]
    problem.check()


def test_any_strides(instruction_set):
    problem = Problem(([9, 14], [21, 6]))
    expected = problem.kernel()
    problem.query = problem.query.permute(1, 0, 2).contiguous().permute(1, 0, 2)
    problem.key = problem.key.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    problem.value = torch.stack([problem.value] * 2, 3)[..., 1]
    problem.grad = problem.grad.flip(0).contiguous().flip(0)
    assert all(map(torch.equal, problem.kernel(), expected))


def test_expanded_inputs(instruction_set):
    problem = Problem(([9], [21]))
    problem.value = problem.value[:1, :1].expand(21, 2, 64)
    problem.grad = torch.tensor(0.5).expand(9, 2, 64)
    problem.check()


@pytest.mark.parametrize("argument", ["query", "key", "value", "grad"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_stays_within_its_sequence_and_head(argument, dtype, instruction_set):
    problem = Problem(([5, 20, 7], [33, 14, 40]), dtype=dtype)
    clean = problem.kernel()
    tensor = getattr(problem, argument).clone()
    # The bits of a NaN that a computation of 2^x from exponent bits would lose.
    bits = tensor.view(torch.int16 if tensor.element_size() == 2 else torch.int32)
    sequence = slice(5, 25) if argument in ("query", "grad") else slice(33, 47)
    bits[sequence.start + 3, 1, 6] = -1
    setattr(problem, argument, tensor)
    out, lse, *gradients = problem.kernel()
    if argument in ("query", "key"):
        rows = [8] if argument == "query" else list(range(5, 25))
        assert out[rows, 1].isnan().all() and lse[1, rows].isnan().all()
    if argument == "value":
        assert out[5:25, 1, 6].isnan().all()
    assert all(gradient[:, 1].isnan().any() for gradient in gradients[: 2 + (argument == "grad")])
    for poisoned, right in zip((out, lse.T, *gradients), clean, strict=True):
        right = right.T if right.dim() == 2 else right
        keys = poisoned.shape[0] == problem.num_keys
        inside = slice(33, 47) if keys else slice(5, 25)
        outside = torch.ones(poisoned.shape[:2], dtype=torch.bool)
        outside[inside, 1] = False
        assert torch.equal(poisoned[outside], right[outside])


def test_infinite_scores_are_as_in_torch(instruction_set):
    problem = Problem(([6], [35]), heads=1)
    problem.query = problem.query.abs()
    problem.key = problem.key.clone()
    problem.key[[2, 34], 0, 0] = -torch.inf
    out, lse, *_ = problem.kernel()
    right = problem.plain(torch.float64)
    torch.testing.assert_close(out.double(), right[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse.double(), right[1], rtol=1e-5, atol=1e-5)
    problem.key[7, 0, 0] = torch.inf
    assert problem.kernel()[0].isnan().all()


def test_half_types_round_as_torch_does(instruction_set):
    # With one key the output is the value, widened to float32 and narrowed again.
    for dtype in (torch.float16, torch.bfloat16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        tokens = every[every.isfinite()].reshape(-1, 1, 128)
        ones = torch.ones(len(tokens), dtype=torch.int64)
        start = torch.arange(len(tokens))
        out, _ = cross_modal_attention_fwd_op(
            torch.zeros_like(tokens), torch.zeros_like(tokens), tokens,
            None, None, start, ones, None, start, ones, len(tokens), 1, 1, 1.0,
        )  # fmt: skip
        assert torch.equal(out.view(torch.int16), tokens.view(torch.int16)) or torch.equal(
            out, tokens
        )


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half_outputs_are_the_nearest(dtype, instruction_set):
    # Halves of sums lie between two halves or on a tie; overflow becomes infinity.
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(-(2**15), 2**15, (2, 400, 1, 64), generator=generator).to(torch.int16)
    low, high = (b.view(dtype) for b in bits)
    finite = low.isfinite() & high.isfinite()
    low, high = (torch.where(finite, x, torch.zeros_like(x)) for x in (low, high))
    values = torch.stack([low, high], 1).reshape(800, 1, 64)
    start, ones = torch.arange(400), torch.ones(400, dtype=torch.int64)
    out, _ = cross_modal_attention_fwd_op(
        torch.zeros_like(low), torch.zeros_like(values), values,
        None, None, start, ones, None, 2 * start, 2 * ones, 400, 1, 2, 1.0,
    )  # fmt: skip
    assert torch.equal(out, ((low.float() + high.float()) * 0.5).to(dtype))


# Few long sequences are split between threads, many short ones are not; the backward of the last
# goes through the blocks of a sequence in all threads.
@pytest.mark.parametrize(
    "lengths", [LENGTHS["ragged"], ([3] * 40, [5] * 40), ([300], [77]), ([450], [333])]
)
def test_threads_do_not_change_the_result(lengths, instruction_set):
    problem = Problem(lengths, heads=5)
    with limit_threads(1):
        expected = problem.kernel()
    for threads in (2, 3, 16):
        with limit_threads(threads):
            assert all(map(torch.equal, problem.kernel(), expected))


def test_result_depends_on_its_own_sequence_and_row_alone(instruction_set):
    problem = Problem(([30, 17], [41, 20]))
    whole = problem.kernel()
    alone = Problem(([30, 17], [41, 20]))
    alone.query_length, alone.query_start = torch.tensor([1]), torch.tensor([30 + 11])
    alone.key_length, alone.key_start = torch.tensor([20]), torch.tensor([41])
    out, lse, grad_query, *_ = alone.kernel()
    assert torch.equal(out[41], whole[0][41]) and torch.equal(lse[:, 41], whole[1][:, 41])
    assert torch.equal(grad_query[41], whole[2][41])


def test_no_sequences():
    problem = Problem(([1], [1]))
    none = torch.zeros(0, dtype=torch.int64)
    out, lse = cross_modal_attention_fwd_op(
        problem.query, problem.key, problem.value,
        None, None, none, none, None, none, none, 3, 1, 1, 1.0,
    )  # fmt: skip
    assert torch.equal(out, torch.zeros(3, 2, 64)) and torch.equal(lse, torch.zeros(2, 3))


def integers(*values):
    return torch.tensor(values, dtype=torch.int64)


BAD = {
    "start": [("query_start", integers(-1, 7)), ("key_start", integers(0, 19))],
    "past the end": [("query_length", integers(7, 21)), ("key_length", integers(18, 2**62))],
    "no token": [("query_length", integers(0, 20)), ("key_length", integers(18, -1))],
    "number of sequences": [("key_length", integers(18)), ("query_start", integers(0))],
    "rows": [("query_rows", integers(*range(26), 27)), ("key_rows", integers(*range(32), -1))],
    "slots": [("query_slots", integers(*range(26), 31)), ("key_slots", integers(*range(32), -1))],
    "same slot": [("query_slots", integers(*range(26), 3)), ("key_slots", integers(*[0] * 33))],
    "number of slots": [("query_slots", integers(0)), ("key_slots", integers(*range(34)))],
    "index dtype": [("query_rows", torch.arange(27).int()), ("key_start", torch.zeros(2))],
    "index rank": [("query_length", torch.ones(2, 1, dtype=torch.int64))],
    "rank": [("query", torch.zeros(27, 64)), ("grad", torch.zeros(31, 128))],
    "heads": [("key", torch.zeros(33, 3, 64)), ("grad", torch.zeros(31, 1, 64))],
    "width": [("value", torch.zeros(33, 2, 32)), ("grad", torch.zeros(31, 2, 128))],
    "keys": [("value", torch.zeros(32, 2, 64)), ("key", torch.zeros(34, 2, 64))],
    "dtype": [("key", torch.zeros(33, 2, 64).half()), ("grad", torch.zeros(31, 2, 64).double())],
}
CASES = {f"{name}: {case[0]}": case for name, cases in BAD.items() for case in cases}


@pytest.mark.parametrize(("argument", "bad"), CASES.values(), ids=CASES)
def test_nothing_outside_the_tensors_is_touched(argument, bad):
    problem = gathered()
    setattr(problem, argument, bad)
    with pytest.raises(RuntimeError, match=r"cross_modal_attention_(fwd|bwd): "):
        problem.kernel()


def test_odd_head_size_and_float64_are_refused():
    for width, dtype, message in ((36, torch.float32, "multiple of 8"), (64, torch.float64, "16")):
        with pytest.raises(RuntimeError, match=message):
            Problem(([3], [3]), width=width, dtype=dtype).kernel()


def test_bad_lse_is_refused():
    problem = Problem(([3], [4]))
    for shape, dtype in itertools.product([(2, 3), (3, 2), (2,)], [torch.float32, torch.float64]):
        if shape == (2, 3) and dtype == torch.float32:
            continue
        with pytest.raises(RuntimeError, match="lse must"):
            cross_modal_attention_bwd_op(
                problem.grad, torch.zeros(shape, dtype=dtype), problem.query, problem.key,
                problem.value, None, None, problem.query_start, problem.query_length, None, None,
                problem.key_start, problem.key_length, 3, 4, 3, 4, 1.0,
            )  # fmt: skip
