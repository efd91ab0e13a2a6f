"""pairwise_distance: values, gradients, registration, edge cases, invariances."""

import math

import pytest
import torch

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops import pairwise_distance
from vireid_fast.ops.pairwise_distance.op import Metric, pairwise_distance_op
from vireid_fast.testing import assert_error_budget, make_features

METRICS = ("euclidean", "squared_euclidean", "cosine", "dot")
SHAPES = [(1, 1, 1), (7, 13, 5), (64, 129, 97), (3, 2, 1031), (0, 5, 4), (5, 0, 4), (4, 3, 0)]
SHAPES += [(33, 257, 16), (37, 300, 31)]
needs_extension = pytest.mark.skipif(not HAS_EXTENSION, reason="the CPU extension is not built")


def make_inputs(shape, dtype=torch.float32, device="cpu"):
    n, m, width = shape
    x = make_features(n, width, dtype=dtype, device=device, seed=1)
    y = make_features(m, width, dtype=dtype, device=device, seed=2)
    return x, y


def naive(a, b, metric):
    squared = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
    dot = sum(p * q for p, q in zip(a, b, strict=True))
    if metric == "cosine":
        return 1 - dot / (math.hypot(*a) * math.hypot(*b))
    return {"euclidean": math.sqrt(squared), "squared_euclidean": squared, "dot": -dot}[metric]


@pytest.mark.parametrize("metric", METRICS)
def test_reference_matches_naive_loop(metric):
    x, y = make_inputs((5, 4, 3), torch.float64)
    expected = [[naive(a, b, metric) for b in y.tolist()] for a in x.tolist()]
    actual = pairwise_distance(x, y, metric=metric, backend="reference")
    # Sums of three float64 terms in another order.
    torch.testing.assert_close(actual, x.new_tensor(expected), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_matches_reference(metric, shape, dtype, device):
    x, y = make_inputs(shape, dtype, device)
    reference = pairwise_distance(x, y, metric=metric, backend="reference")
    exact = pairwise_distance(x.double(), y.double(), metric=metric, backend="reference")
    assert_error_budget(pairwise_distance(x, y, metric=metric), reference, exact)


def test_reference_rows_in_blocks_match_one_block(monkeypatch):
    from vireid_fast.ops.pairwise_distance import reference

    x, y = make_inputs((9, 4, 6))
    whole = reference.pairwise_distance(x, y, 0)
    monkeypatch.setattr(reference, "_BLOCK_ELEMENTS", 50)
    assert torch.equal(reference.pairwise_distance(x, y, 0), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_computed_in_float32(dtype, device):
    x, y = make_inputs((7, 9, 33), dtype, device)
    actual = pairwise_distance(x, y)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, pairwise_distance(x.float(), y.float()))


@pytest.mark.parametrize("metric", METRICS)
def test_non_contiguous_inputs(metric, device):
    x, y = make_inputs((12, 18, 22), device=device)
    strided_x, strided_y = x[::2, 1::2], y.T.contiguous().T[::3, 1::2]
    expected = pairwise_distance(strided_x.contiguous(), strided_y.contiguous(), metric=metric)
    actual = pairwise_distance(strided_x, strided_y, metric=metric)
    # Without our kernel torch's matrix product rounds strided operands in its own way.
    tolerance = 0 if HAS_EXTENSION else 1e-5
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_equal_rows_are_at_zero(backend, device):
    # Far from the origin, where |x|^2 + |y|^2 - 2 x.y would leave a rest.
    x = make_features(6, 37, distinct=2, device=device) + 1000
    distances = pairwise_distance(x, x, backend=backend)
    same = (torch.arange(6)[:, None] - torch.arange(6)) % 2 == 0
    assert torch.equal(distances.cpu() == 0, same)


def test_cosine_of_zero_row_is_one(device):
    x = torch.zeros(2, 5, device=device)
    distances = pairwise_distance(x, make_features(3, 5, device=device), metric="cosine")
    assert torch.equal(distances, torch.ones(2, 3, device=device))


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_instruction_sets_agree_bitwise(metric, dtype):
    for shape in SHAPES:
        x, y = make_inputs(shape, dtype)
        outputs = []
        for name in INSTRUCTION_SETS:
            with limit_instruction_set(name):
                outputs.append(pairwise_distance(x, y, metric=metric))
        assert all(torch.equal(out, outputs[0]) for out in outputs), shape


@needs_extension
def test_value_depends_on_its_two_rows_alone():
    x, y = make_inputs((70, 300, 45))
    whole = pairwise_distance(x, y)
    assert torch.equal(pairwise_distance(x[41:42], y), whole[41:42])
    assert torch.equal(pairwise_distance(x, y[117:118]), whole[:, 117:118])
    assert torch.equal(pairwise_distance(y, x), whole.T)


@needs_extension
def test_threads_do_not_change_the_result():
    x, y = make_inputs((150, 601, 19))
    before = torch.get_num_threads()
    outputs = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            outputs.append(pairwise_distance(x, y))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("metric", METRICS)
def test_gradcheck(metric, backend, device):
    x, y = (t.requires_grad_() for t in make_inputs((4, 5, 3), torch.float64, device))
    assert torch.autograd.gradcheck(
        lambda a, b: pairwise_distance(a, b, metric=metric, backend=backend), (x, y)
    )


@pytest.mark.parametrize("metric", METRICS)
def test_gradient_matches_autograd_of_the_formula(metric, device):
    x, y = (t.requires_grad_() for t in make_inputs((17, 23, 41), torch.float32, device))

    def formula(a, b):
        if metric == "dot":
            return -(a @ b.T)
        if metric == "cosine":
            return 1 - torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)
        squared = (a[:, None] - b).square().sum(-1)
        return squared.sqrt() if metric == "euclidean" else squared

    weight = make_features(17, 23, dtype=torch.float64, device=device, seed=3)

    def gradients(function, dtype):
        a, b = x.detach().to(dtype).requires_grad_(), y.detach().to(dtype).requires_grad_()
        return torch.autograd.grad((function(a, b) * weight.to(dtype)).sum(), (a, b))

    actual = gradients(lambda a, b: pairwise_distance(a, b, metric=metric), torch.float32)
    plain, exact = gradients(formula, torch.float32), gradients(formula, torch.float64)
    for triple in zip(actual, plain, exact, strict=True):
        # The matrix products of the backward sum in another order than the formula does.
        assert_error_budget(*triple, rounding=16)


def test_gradient_at_zero_distance_is_zero(device):
    x = make_features(4, 8, distinct=1, device=device).requires_grad_()
    y = x.detach().clone().requires_grad_()
    grads = torch.autograd.grad(pairwise_distance(x, y).sum(), (x, y))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)


def test_gradient_only_where_asked(device):
    x, y = make_inputs((3, 4, 5), device=device)
    x.requires_grad_()
    pairwise_distance(x, y).sum().backward()
    assert x.grad.shape == x.shape and y.grad is None


def test_half_gradient_has_the_dtype_of_its_input(device):
    x, y = (t.requires_grad_() for t in make_inputs((3, 4, 5), torch.float16, device))
    pairwise_distance(x, y).sum().backward()
    assert x.grad.dtype == y.grad.dtype == torch.float16


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0, 3)], ids=str)
def test_gradient_of_empty_output(shape, device):
    x, y = (t.requires_grad_() for t in make_inputs(shape, device=device))
    pairwise_distance(x, y).sum().backward()
    assert not x.grad.any() and not y.grad.any()


@pytest.mark.parametrize("metric", list(Metric), ids=str)
def test_registration(metric, device):
    x, y = make_inputs((7, 9, 5), device=device)
    permuted = x.T.contiguous().T, y.T.contiguous().T
    for inputs in ((x, y), permuted, (x[:0], y), (x.double(), y.double())):
        torch.library.opcheck(pairwise_distance_op, (*inputs, int(metric)))


@pytest.mark.parametrize("metric", METRICS)
def test_compiles_with_dynamic_shapes(metric, device):
    def loss(a, b):
        return pairwise_distance(a, b, metric=metric).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((5, 7, 6), (8, 3, 4)):
        eager = [t.requires_grad_() for t in make_inputs(shape, torch.float64, device)]
        traced = [t.detach().clone().requires_grad_() for t in eager]
        loss(*eager).backward()
        compiled(*traced).backward()
        for a, b in zip(eager, traced, strict=True):
            # The traced graph may add gradients in another order.
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


def test_rejects_bad_arguments():
    x, y = make_inputs((3, 4, 5))
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor, got list"):
        pairwise_distance([[1.0]], y)
    with pytest.raises(TypeError, match=r"x must be float32 or float64 or .* got torch.int64"):
        pairwise_distance(x.long(), y.long())
    with pytest.raises(TypeError, match=r"y must be float32, got torch.float64"):
        pairwise_distance(x, y.double())
    with pytest.raises(ValueError, match=r"x must have shape \(N, D\), got \(3,\)"):
        pairwise_distance(x[:, 0], y)
    with pytest.raises(ValueError, match=r"y must have shape \(M, 5\), got \(4, 4\)"):
        pairwise_distance(x, y[:, :4])
    with pytest.raises(ValueError, match=r"metric must be one of .*cosine.* got 'manhattan'"):
        pairwise_distance(x, y, metric="manhattan")
    with pytest.raises(ValueError, match=r"backend must be one of .* got 'fast'"):
        pairwise_distance(x, y, backend="fast")
    with pytest.raises(ValueError, match=r"x and y must be on one device"):
        pairwise_distance(x, y.to("meta"))


@needs_extension
def test_raw_op_rejects_what_memory_safety_forbids():
    x, y = make_inputs((3, 4, 5))
    with pytest.raises(RuntimeError, match=r"y must have size 5 in dimension 1, got 4"):
        pairwise_distance_op(x, y[:, :4], 0)
    with pytest.raises(RuntimeError, match=r"x must have 2 dimensions, got 1"):
        pairwise_distance_op(x[0], y, 0)
    with pytest.raises(RuntimeError, match=r"y must have the dtype of x"):
        pairwise_distance_op(x, y.double(), 0)
    with pytest.raises(RuntimeError, match=r"metric must be 0, 1 or 2, got 3"):
        pairwise_distance_op(x, y, 3)


def test_double_backward_is_refused():
    x, y = (t.requires_grad_() for t in make_inputs((3, 4, 5)))
    (grad,) = torch.autograd.grad(pairwise_distance(x, y).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
