"""Triton kernels run by the interpreter on CPU tensors; started by test_triton_interpret.py.

TRITON_INTERPRET=1 must be set before the kernels are imported, hence a process of its own.
"""

import pytest
import torch

from vireid_fast.ops import prompt_injection
from vireid_fast.ops.prompt_injection import api, reference, triton
from vireid_fast.testing import assert_error_budget, make_prompt_inputs

SIZES = [(3, 5, 7, 2, 2, 1), (4, 6, 17, 3, 2, 4), (2, 3, 4, 2, 0, 1), (0, 3, 4, 2, 1, 1)]
DTYPES = [torch.float32, torch.float16]


@pytest.fixture(autouse=True)
def triton_on_cpu(monkeypatch):
    """Let the public function call the launchers where the CPU kernels would be."""
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


def test_width_beyond_one_block(monkeypatch):
    monkeypatch.setattr(triton, "_plan", lambda width: triton.Plan(16, -(-width // 16), 1))
    inputs = make_prompt_inputs(3, 4, 37, 2, 2, 1)
    assert torch.equal(triton.prompt_injection(*inputs), reference.prompt_injection(*inputs))
    grad = torch.randn(3, 4, 37)
    arguments = (grad, inputs.labels, 2, 2, 1)
    expected = reference.prompt_injection_bwd(*arguments)
    assert torch.equal(triton.prompt_injection_bwd(*arguments), expected)


def test_unknown_class_shows_as_nan():
    inputs = make_prompt_inputs(2, 4, 5, 2, 2, 1)._replace(labels=torch.tensor([1, 2]))
    out = triton.prompt_injection(*inputs)
    assert torch.isnan(out[1, 1:3]).all()
    assert torch.isfinite(out[0]).all() and torch.isfinite(out[1, [0, 3]]).all()


def test_repeats_accumulate_in_index_order():
    grad = torch.tensor([1e8, 1.0, -1e8, 1.0]).reshape(4, 1, 1)
    out = triton.prompt_injection_bwd(grad, torch.zeros(4, dtype=torch.int64), 1, 1, 0)
    assert out.item() == 1.0
