"""prompt_injection: values, gradients, registration, edge cases, invariances."""

import pytest
import torch

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops import TokenNorm, prompt_injection
from vireid_fast.ops.prompt_injection import reference
from vireid_fast.ops.prompt_injection.op import prompt_injection_bwd_op, prompt_injection_fwd_op
from vireid_fast.testing import assert_error_budget, make_prompt_inputs

# prompts, length, width, classes, context length, start
SIZES = [
    (1, 1, 1, 1, 1, 0),
    (7, 11, 13, 5, 3, 4),
    (9, 12, 64, 3, 4, 5),
    (4, 6, 17, 2, 6, 0),
    (5, 7, 19, 4, 2, 5),
    (3, 5, 8, 2, 0, 2),
    (0, 5, 8, 2, 2, 1),
    (0, 5, 8, 0, 2, 1),
    (3, 4, 0, 2, 2, 1),
]
HALVES = [torch.float16, torch.bfloat16]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
needs_extension = pytest.mark.skipif(not HAS_EXTENSION, reason="the CPU extension is not built")


def raw_forward(inputs):
    """Arguments of the raw forward op."""
    template, positions, context, labels, start = inputs
    source = ([context], [labels], [start], [0])
    return (template, *source, positions, None, None, 0.0, len(labels), template.dtype)


def raw_backward(grad, labels, classes, slots, start):
    """Arguments of the raw backward op that ask for the gradient of the context alone."""
    layout = ([labels], [start], [0], [classes], [slots], True, grad.shape[1])
    return (grad, None, None, None, None, *layout, [0, 0, 0, 1])


def context_gradient(*arguments):
    *_, [gradient] = prompt_injection_bwd_op(*raw_backward(*arguments))
    return gradient


def leaves(inputs, dtype=None):
    """Fresh leaf copies of template, positions and context, then labels and start."""
    floats = [t.detach().to(dtype or t.dtype).clone().requires_grad_() for t in inputs[:3]]
    return [*floats, inputs.labels, inputs.start]


def gradients(inputs, dtype=None, backend="fused", weight=None):
    arguments = leaves(inputs, dtype)
    out = prompt_injection(*arguments, backend=backend)
    return torch.autograd.grad((out * weight.to(out.dtype)).sum(), arguments[:3])


def test_reference_matches_naive_loop():
    template, positions, context, labels, start = make_prompt_inputs(4, 5, 3, 2, 2, 1)
    out = prompt_injection(template, positions, context, labels, start, backend="reference")
    for b in range(4):
        for token in range(5):
            slot = token - start
            source = context[labels[b], slot] if 0 <= slot < 2 else template[token]
            assert torch.equal(out[b, token], source + positions[token])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_matches_reference(sizes, dtype, device):
    inputs = make_prompt_inputs(*sizes, dtype=dtype, device=device)
    # One addition per element: nothing may differ.
    assert torch.equal(prompt_injection(*inputs), prompt_injection(*inputs, backend="reference"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradients_match_reference(sizes, dtype, device):
    inputs = make_prompt_inputs(*sizes, dtype=dtype, device=device)
    prompts, length, width, *_ = sizes
    weight = torch.randn(prompts, length, width, dtype=torch.float64).to(device)
    actual = gradients(inputs, weight=weight)
    plain = gradients(inputs, backend="reference", weight=weight)
    # The exact gradient is of the rounded weight, which the kernels see.
    rounded = weight.to(dtype).double()
    exact = gradients(inputs, torch.float64, backend="reference", weight=rounded)
    for triple in zip(actual, plain, exact, strict=True):
        assert_error_budget(*triple)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_gradcheck_with_repeated_labels(backend, device):
    inputs = make_prompt_inputs(5, 6, 3, 2, 2, 3, dtype=torch.float64, device=device)
    *floats, labels, start = leaves(inputs)

    def function(template, positions, context):
        return prompt_injection(template, positions, context, labels, start, backend=backend)

    assert torch.autograd.gradcheck(function, floats)


def test_context_of_absent_class_has_zero_gradient(device):
    inputs = make_prompt_inputs(4, 6, 5, 3, 2, 1, device=device)
    inputs = inputs._replace(labels=torch.tensor([2, 0, 2, 2], device=device))
    grad = gradients(inputs, weight=torch.ones(4, 6, 5, device=device))[2]
    expected = torch.tensor([1.0, 0.0, 3.0], device=device)[:, None, None].expand(3, 2, 5)
    assert torch.equal(grad, expected)


@needs_extension
def test_repeats_accumulate_in_index_order():
    grad = torch.tensor([1e8, 1.0, -1e8, 1.0]).reshape(4, 1, 1)
    out = context_gradient(grad, torch.zeros(4, dtype=torch.int64), 1, 1, 0)
    # ((1e8 + 1) - 1e8) + 1 in float32; another order gives 2 or 0.
    assert out.item() == 1.0


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_gradient_is_summed_in_float32(dtype, device):
    # 4096 ones saturate a half-precision running sum.
    grad = torch.ones(4096, 1, 2, dtype=dtype, device=device)
    labels = torch.zeros(4096, dtype=torch.int64, device=device)
    out = context_gradient(grad, labels, 1, 1, 0)
    assert torch.equal(out, torch.full_like(out, 4096))


@needs_extension
def test_threads_do_not_change_the_result():
    inputs = make_prompt_inputs(600, 9, 67, 40, 4, 3)
    weight = torch.randn(600, 9, 67)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append((prompt_injection(*inputs), gradients(inputs, weight=weight)[2]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_non_contiguous_inputs(device):
    template, positions, context, labels, start = make_prompt_inputs(6, 7, 5, 4, 2, 3)
    dense = [t.to(device) for t in (template, positions, context, labels)]
    strided = [t.T.contiguous().T for t in dense[:2]]
    strided.append(dense[2].permute(2, 0, 1).contiguous().permute(1, 2, 0))
    strided.append(dense[3].repeat_interleave(2)[::2])
    expected = prompt_injection(*dense, start)
    assert torch.equal(prompt_injection(*strided, start), expected)


def test_gradient_only_where_asked(device):
    inputs = make_prompt_inputs(3, 5, 4, 2, 2, 1, device=device)
    inputs.context.requires_grad_()
    prompt_injection(*inputs).sum().backward()
    assert inputs.context.grad is not None
    assert inputs.template.grad is None and inputs.positions.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_registration(dtype, device):
    inputs = make_prompt_inputs(5, 6, 8, 3, 2, 1, dtype=dtype, device=device)
    permuted = inputs._replace(template=inputs.template.T.contiguous().T)
    for arguments in (inputs, permuted, inputs._replace(labels=inputs.labels[:0])):
        torch.library.opcheck(prompt_injection_fwd_op, raw_forward(arguments))
    grad = torch.randn(5, 6, 8, device=device).to(dtype)
    strided = grad.transpose(0, 2).contiguous().transpose(0, 2)
    for value, labels in ((grad, inputs.labels), (strided, inputs.labels),
                          (grad[:0], inputs.labels[:0])):  # fmt: skip
        torch.library.opcheck(prompt_injection_bwd_op, raw_backward(value, labels, 3, 2, 1))


def test_compiles_with_dynamic_shapes(device):
    def loss(template, positions, context, labels):
        return prompt_injection(template, positions, context, labels, 1).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for prompts, length, classes in ((5, 7, 3), (8, 9, 4)):
        inputs = make_prompt_inputs(
            prompts, length, 6, classes, 2, 1, dtype=torch.float64, device=device
        )
        eager, traced = leaves(inputs)[:4], leaves(inputs)[:4]
        loss(*eager).backward()
        compiled(*traced).backward()
        for a, b in zip(eager[:3], traced[:3], strict=True):
            # The traced graph may add gradients in another order.
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


def test_rejects_bad_arguments():
    good = make_prompt_inputs(3, 6, 4, 2, 2, 1)

    def call(**changes):
        prompt_injection(*good._replace(**changes))

    with pytest.raises(TypeError, match=r"template must be float32 or .* got torch.int64"):
        call(template=good.template.long())
    with pytest.raises(TypeError, match=r"positions must be float32, got torch.float64"):
        call(positions=good.positions.double())
    with pytest.raises(TypeError, match=r"context must be float32, got torch.float16"):
        call(context=good.context.half())
    with pytest.raises(TypeError, match=r"labels must be int64, got torch.int32"):
        call(labels=good.labels.int())
    with pytest.raises(ValueError, match=r"template must have shape \(L, W\)"):
        call(template=good.template[0])
    with pytest.raises(ValueError, match=r"positions must have shape \(6, 4\), got \(5, 4\)"):
        call(positions=good.positions[:5])
    with pytest.raises(ValueError, match=r"context must have shape \(C, M, 4\)"):
        call(context=good.context[..., :3])
    with pytest.raises(ValueError, match=r"context must have at most 6 tokens.*, got 7"):
        call(context=torch.randn(2, 7, 4))
    with pytest.raises(TypeError, match=r"start must be an integer, got 1.5"):
        call(start=1.5)
    with pytest.raises(TypeError, match=r"labels must be a torch.Tensor, got NoneType"):
        call(labels=None)
    with pytest.raises(TypeError, match=r"template must be float16 or float32, got torch.float64"):
        prompt_injection(*make_prompt_inputs(3, 6, 4, 2, 2, 1, dtype=torch.float64),
                         out_dtype=torch.float16)  # fmt: skip
    with pytest.raises(ValueError, match=r"labels must have shape \(B,\)"):
        call(labels=good.labels[None])
    with pytest.raises(ValueError, match=r"start must be in \[0, 4\], .*, got 5"):
        call(start=5)
    with pytest.raises(ValueError, match=r"start must be in \[0, 4\], .*, got -1"):
        call(start=-1)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got 2"):
        call(labels=torch.tensor([0, 2, 1]))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got -1"):
        call(labels=torch.tensor([0, 1, -1]))
    with pytest.raises(ValueError, match=r"must be on one device"):
        call(context=good.context.to("meta"))
    with pytest.raises(ValueError, match=r"backend must be one of .* got 'triton'"):
        prompt_injection(*good, backend="triton")


def test_reference_backward_matches_naive_loop():
    grad = torch.randn(5, 4, 3, dtype=torch.float64)
    labels = torch.tensor([1, 0, 1, 1, 0])
    expected = torch.zeros(3, 2, 3, dtype=torch.float64)
    for b in range(5):
        expected[labels[b]] += grad[b, 1:3]
    *_, [gradient] = reference.prompt_injection_bwd(*raw_backward(grad, labels, 3, 2, 1))
    torch.testing.assert_close(gradient, expected)


@needs_extension
def test_raw_op_rejects_what_memory_safety_forbids():
    good = make_prompt_inputs(3, 6, 4, 2, 2, 1)
    with pytest.raises(RuntimeError, match=r"labels must be in \[0, 2\), got 7 at position 1"):
        prompt_injection_fwd_op(*raw_forward(good._replace(labels=torch.tensor([0, 7, 1]))))
    with pytest.raises(RuntimeError, match=r"source must lie within the 6 tokens, got \[5, 7\)"):
        prompt_injection_fwd_op(*raw_forward(good._replace(start=5)))
    with pytest.raises(RuntimeError, match=r"labels must be in \[0, 1\), got 1 at position 0"):
        context_gradient(torch.zeros(2, 3, 4), torch.tensor([1, 0]), 1, 1, 0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_casts_where_dtypes_differ(dtype, device):
    inputs = make_prompt_inputs(9, 12, 67, 3, 4, 5, device=device)
    template, positions, context, labels, start = leaves(inputs)
    out = prompt_injection(template, positions, context, labels, start, out_dtype=dtype)
    assert out.dtype == dtype
    # One rounding of the sum in float32.
    assert torch.equal(out, prompt_injection(*inputs).to(dtype))
    weight = torch.randn(9, 12, 67, device=device).to(dtype)
    grads = torch.autograd.grad(out, (template, positions, context), weight)
    assert {grad.dtype for grad in grads} == {torch.float32}
    expected = gradients(inputs, torch.float32, backend="reference", weight=weight)
    for actual, plain in zip(grads, expected, strict=True):
        torch.testing.assert_close(actual, plain, rtol=1e-5, atol=1e-5)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_instruction_sets_agree(dtype):
    inputs = make_prompt_inputs(40, 9, 131, 7, 4, 3)
    norm = TokenNorm(torch.randn(131), torch.randn(131))
    results = []
    for name in INSTRUCTION_SETS:
        with limit_instruction_set(name):
            template, positions, context, labels, start = leaves(inputs)
            out = prompt_injection(
                template, positions, context, labels, start, norm=norm, out_dtype=dtype
            )
            loss = (out.tokens.float().sin() * out.normalized.float()).sum()
            grads = torch.autograd.grad(loss, (template, positions, context))
            results.append((*out, *grads))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_extension
def test_special_values_round_as_torch_rounds():
    # Every bfloat16, its neighbours in float32, and the edges of the float16 range.
    bits = torch.arange(-(2**15), 2**15).int() << 16
    values = torch.cat([bits, bits + 1, bits + 0x7FFF, bits + 0x8000, bits + 0x8001])
    values = values.view(torch.float32)
    edges = torch.tensor([65504.0, 65519.9, 65520.0, 6.1e-5, 5.96e-8, 2.98e-8, 2.99e-8, 0.0, -0.0])
    values = torch.cat([values, edges, -edges])[None]
    labels = torch.zeros(1, dtype=torch.int64)

    def add_zero(values, dtype):
        empty = values.new_empty(1, 0, values.shape[1])
        zeros = torch.zeros(values.shape)
        return prompt_injection(values, zeros, empty, labels, 0, out_dtype=dtype)[0]

    for dtype in HALVES:
        every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)[None]
        for given in (values, every):
            # NaN has many forms; any of them will do.
            actual, expected = add_zero(given, dtype), (given.float() + 0).to(dtype)
            assert torch.equal(actual.isnan(), expected.isnan())
            assert torch.equal(actual[~actual.isnan()], expected[~expected.isnan()])


@pytest.mark.parametrize(
    ("width", "plain", "normed"),
    [
        (1, (16, 1, 1), (16, 1, 1)),
        (512, (512, 1, 4), (512, 1, 2)),
        (768, (1024, 1, 4), (1024, 1, 4)),
        (4097, (1024, 5, 4), (8192, 1, 16)),
    ],
)
def test_launch_plans_cover_the_width(width, plain, normed):
    pytest.importorskip("triton", reason="triton is not installed")
    from vireid_fast.ops.prompt_injection.triton import _norm_plan, _plan

    assert tuple(_plan(width)) == plain and tuple(_norm_plan(width)) == normed
