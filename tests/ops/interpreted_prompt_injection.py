"""Token injection by the Triton interpreter on CPU tensors; started by test_triton_interpret.py.

TRITON_INTERPRET=1 must be set before the kernels are imported, hence a process of its own.
"""

import pytest
import torch

from vireid_fast.ops import inject_tokens, prompt_injection
from vireid_fast.ops.prompt_injection import api, reference, triton
from vireid_fast.testing import (
    InjectionCase,
    assert_error_budget,
    make_injection_inputs,
    make_prompt_inputs,
)

SIZES = [(3, 5, 7, 2, 2, 1), (4, 6, 17, 3, 2, 4), (2, 3, 4, 2, 0, 1), (0, 3, 4, 2, 1, 1)]
CASES = [
    InjectionCase(3, 5, 7, ("insert",), shared_stream=False),
    InjectionCase(35, 4, 5, ("add",)),
    InjectionCase(3, 5, 17, ("replace", "insert", "add", "replace")),
    InjectionCase(4, 6, 19, ("add", "insert", "replace", "insert"), shared_stream=False),
    InjectionCase(1, 4, 1, ("insert", "replace", "insert", "add")),
]
DTYPES = [torch.float32, torch.float16]


@pytest.fixture(autouse=True)
def triton_on_cpu(monkeypatch):
    """Let the public functions call the launchers where the CPU kernels would be."""
    monkeypatch.setattr(api, "prompt_injection_fwd_op", triton.prompt_injection)
    monkeypatch.setattr(api, "prompt_injection_bwd_op", triton.prompt_injection_bwd)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_values_and_every_gradient(sizes, dtype):
    inputs = make_prompt_inputs(*sizes, dtype=dtype)
    weight = torch.randn(sizes[:3], dtype=torch.float64).to(dtype)

    def run(backend, kind):
        floats = [t.detach().to(kind).requires_grad_() for t in inputs[:3]]
        out = prompt_injection(*floats, inputs.labels, inputs.start, backend=backend)
        return out, torch.autograd.grad((out * weight.to(kind)).sum(), floats)

    out, grads = run("fused", dtype)
    plain_out, plain_grads = run("reference", dtype)
    _, exact_grads = run("reference", torch.float64)
    assert torch.equal(out, plain_out)
    for triple in zip(grads, plain_grads, exact_grads, strict=True):
        assert_error_budget(*triple)


@pytest.mark.parametrize("wide_sources", [False, True], ids=["same", "float32 sources"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_several_sources(case, with_norm, dtype, wide_sources):
    inputs = make_injection_inputs(
        case, dtype=dtype, source_dtype=torch.float32 if wide_sources else dtype
    )
    shape = (case.batch, *inputs.positions.shape)
    weights = [torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(2)]

    def run(backend, exact=False):
        floats = [t.double() if exact else t for t in inputs.floats()]
        floats = [t.detach().clone().requires_grad_() for t in floats]
        stream, sources, positions, norm = inputs.with_floats(floats)
        norm = norm if with_norm else None
        out = inject_tokens(stream, sources, positions=positions, norm=norm, backend=backend)
        outs = tuple(out) if with_norm else (out,)
        loss = sum((o * w.to(o.dtype)).sum() for o, w in zip(outs, weights, strict=False))
        leaves = floats if with_norm else [*floats[:2], *floats[4:]]
        return *outs, *torch.autograd.grad(loss, leaves)

    for triple in zip(run("fused"), run("reference"), run("reference", exact=True), strict=True):
        assert_error_budget(*(t.detach() for t in triple))


def test_width_beyond_one_block(monkeypatch):
    monkeypatch.setattr(triton, "_plan", lambda width: triton.Plan(16, -(-width // 16), 1))
    inputs = make_injection_inputs(InjectionCase(3, 4, 37, ("replace", "insert")))
    labels = [source.labels for source in inputs.sources]
    tokens = [source.tokens for source in inputs.sources]
    layout = (labels, [1, 2], [0, 1])
    rest = (inputs.positions, None, None, 0.0, 3, torch.float32)
    arguments = (inputs.stream, tokens, *layout, *rest)
    assert torch.equal(
        triton.prompt_injection(*arguments)[0], reference.prompt_injection(*arguments)[0]
    )
    grad = torch.randn(3, 5, 37)
    arguments = (grad, None, None, None, None, *layout, [5, 3], [2, 1], True, 4, [0, 0, 0, 1, 1])
    actual = triton.prompt_injection_bwd(*arguments)[4]
    expected = reference.prompt_injection_bwd(*arguments)[4]
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_unknown_class_shows_as_nan():
    inputs = make_prompt_inputs(2, 4, 5, 2, 2, 1)
    out, _, _ = triton.prompt_injection(
        inputs.template, [inputs.context], [torch.tensor([1, 2])], [1], [0], inputs.positions,
        None, None, 0.0, 2, torch.float32,
    )  # fmt: skip
    assert torch.isnan(out[1, 1:3]).all()
    assert torch.isfinite(out[0]).all() and torch.isfinite(out[1, [0, 3]]).all()


def test_repeats_accumulate_in_index_order():
    grad = torch.tensor([1e8, 1.0, -1e8, 1.0]).reshape(4, 1, 1)
    labels = [torch.zeros(4, dtype=torch.int64)]
    *_, [out] = triton.prompt_injection_bwd(
        grad, None, None, None, None, labels, [0], [0], [2], [1], True, 1, [0, 0, 0, 1]
    )
    assert out[0].item() == 1.0 and out[1].item() == 0.0


def test_norm_wider_than_a_program_is_refused():
    with pytest.raises(NotImplementedError, match="norm must have at most 16384 channels"):
        triton._norm_plan(16385)
    assert triton._norm_plan(768) == triton.Plan(1024, 1, 4)
