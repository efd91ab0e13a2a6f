"""inject_tokens: several sources, streams per item, layer normalisation; and what is refused."""

import pytest
import torch
from torch import nn

from vireid_fast._extension import HAS_EXTENSION
from vireid_fast.ops import Injected, TokenNorm, TokenSource, inject_tokens
from vireid_fast.ops.prompt_injection.op import prompt_injection_bwd_op, prompt_injection_fwd_op
from vireid_fast.testing import (
    InjectionCase,
    assert_error_budget,
    limit_threads,
    make_injection_inputs,
)

CASES = [
    InjectionCase(1, 3, 1, ("replace",)),
    InjectionCase(7, 5, 13, ("insert",), shared_stream=False),
    InjectionCase(5, 4, 67, ("add",), shared_stream=False),
    InjectionCase(37, 9, 19, ("replace", "insert", "add", "replace")),
    InjectionCase(6, 5, 131, ("add", "insert", "replace", "insert"), shared_stream=False),
    InjectionCase(4, 4, 8, ("insert", "replace", "insert", "add")),
    InjectionCase(70, 4, 3, ("add", "add", "add")),
    InjectionCase(0, 5, 4, ("replace", "insert", "add")),
    InjectionCase(0, 5, 4, ("insert", "add"), shared_stream=False),
    InjectionCase(2, 5, 6, (), shared_stream=False),
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
needs_extension = pytest.mark.skipif(not HAS_EXTENSION, reason="the CPU extension is not built")


def run(inputs, with_norm, backend="fused", exact=False, seed=1):
    """Outputs, then the gradients of every floating tensor."""
    dtype = torch.float64 if exact else inputs.stream.dtype
    floats = [t.double() if exact else t for t in inputs.floats()]
    floats = [t.detach().clone().requires_grad_() for t in floats]
    stream, sources, positions, norm = inputs.with_floats(floats)
    out = inject_tokens(
        stream, sources, positions=positions, norm=norm if with_norm else None, backend=backend
    )
    outs = tuple(out) if with_norm else (out,)
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(o.shape, generator=generator, dtype=torch.float64) for o in outs]
    # The exact gradient is of the rounded weights, which the kernels see.
    weights = [
        w.to(o.device, inputs.stream.dtype).to(dtype) for w, o in zip(weights, outs, strict=True)
    ]
    leaves = floats if with_norm else [*floats[:2], *floats[4:]]
    return *(o.detach() for o in outs), *torch.autograd.grad(outs, leaves, weights)


def test_reference_matches_naive_lists():
    case = InjectionCase(3, 6, 4, ("replace", "insert", "add", "insert"))
    inputs = make_injection_inputs(case, dtype=torch.float64)
    out = inject_tokens(inputs.stream, inputs.sources, backend="reference")
    for b in range(3):
        tokens = list(inputs.stream)
        for source in inputs.sources:
            rows = source.tokens[source.labels[b] if source.labels is not None
                                 else b % source.tokens.shape[0]]  # fmt: skip
            for m, row in enumerate(rows):
                at = source.start + m
                if source.mode == "insert":
                    tokens.insert(at, row)
                else:
                    tokens[at] = row if source.mode == "replace" else tokens[at] + row
        assert torch.equal(out[b], torch.stack(tokens))


@pytest.mark.parametrize("wide_sources", [False, True], ids=["same", "float32 sources"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_every_gradient(case, with_norm, dtype, wide_sources, device):
    half = dtype in (torch.float16, torch.bfloat16)
    source_dtype = torch.float32 if half and wide_sources else dtype
    inputs = make_injection_inputs(case, dtype=dtype, source_dtype=source_dtype, device=device)
    results = run(inputs, with_norm), run(inputs, with_norm, "reference")
    if not with_norm:
        assert torch.equal(results[0][0], results[1][0])
    exact = run(inputs, with_norm, "reference", exact=True)
    for triple in zip(*results, exact, strict=True):
        assert_error_budget(*triple)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("case", [CASES[1], CASES[5]], ids=str)
def test_gradcheck(case, backend, device):
    inputs = make_injection_inputs(
        case._replace(batch=3, width=3), dtype=torch.float64, device=device
    )
    floats = [t.requires_grad_() for t in inputs.floats()]

    def function(*values):
        stream, sources, positions, norm = inputs.with_floats(values)
        return tuple(
            inject_tokens(stream, sources, positions=positions, norm=norm, backend=backend)
        )

    assert torch.autograd.gradcheck(function, floats)


@pytest.mark.parametrize("used", [0, 1], ids=["tokens", "normalized"])
def test_gradient_of_one_output_alone(used, device):
    case = InjectionCase(5, 4, 7, ("insert", "add"), shared_stream=False)
    inputs = make_injection_inputs(case, dtype=torch.float64, device=device)
    results = []
    for backend in ("fused", "reference"):
        floats = [t.detach().clone().requires_grad_() for t in inputs.floats()]
        stream, sources, positions, norm = inputs.with_floats(floats)
        out = inject_tokens(stream, sources, positions=positions, norm=norm, backend=backend)
        out[used].square().sum().backward()
        results.append([t.grad for t in floats])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_norm_is_torchs_layer_norm(device):
    case = InjectionCase(3, 6, 32, ("insert",), shared_stream=False)
    inputs = make_injection_inputs(case, device=device)
    layer = nn.LayerNorm(32, eps=1e-6, device=device)
    nn.init.normal_(layer.weight)
    norm = TokenNorm(layer.weight, layer.bias, layer.eps)
    out = inject_tokens(inputs.stream, inputs.sources, norm=norm)
    assert isinstance(out, Injected)
    torch.testing.assert_close(out.normalized, layer(out.tokens), rtol=1e-5, atol=1e-5)


def test_items_come_from_what_differs(device):
    stream = torch.zeros(4, 2, device=device)
    token = torch.ones(1, 1, 2, device=device)
    assert inject_tokens(stream, [TokenSource(token, 0)]).shape == (1, 4, 2)
    per_item = [TokenSource(token.expand(3, 1, 2), 0, mode="insert")]
    assert inject_tokens(stream, per_item).shape == (3, 5, 2)
    assert inject_tokens(stream.expand(2, 4, 2), [TokenSource(token, 1)]).shape == (2, 4, 2)


def test_expanded_and_strided_inputs(device):
    case = InjectionCase(6, 5, 8, ("replace", "insert", "add"), shared_stream=False)
    dense = make_injection_inputs(case, device=device)
    shared = dense.stream[:1].contiguous()
    strided = dense.with_floats(
        [t.transpose(0, -1).contiguous().transpose(0, -1) for t in dense.floats()]
    )
    expanded = dense._replace(stream=shared.expand(6, -1, -1))
    copied = dense._replace(stream=shared.repeat(6, 1, 1))
    for odd, plain in ((strided, dense), (expanded, copied)):
        for a, b in zip(run(odd, True), run(plain, True), strict=True):
            assert torch.equal(a, b)
    out = inject_tokens(strided.stream, strided.sources)
    assert out.is_contiguous()


def test_expanded_gradient(device):
    case = InjectionCase(4, 3, 5, ("add",))
    stream, sources, _, _ = make_injection_inputs(case, device=device)
    stream.requires_grad_()
    inject_tokens(stream, sources).sum().backward()
    assert torch.equal(stream.grad, torch.full_like(stream, 4))


def test_nan_stays_where_it_is(device):
    case = InjectionCase(6, 4, 9, ("replace", "insert"), shared_stream=False)
    inputs = make_injection_inputs(case, device=device)
    inputs.stream[2, 3] = torch.nan
    inputs.sources[1].tokens[4, 0] = torch.nan
    results = run(inputs, True)
    for out in results[:2]:
        bad = out.isnan().flatten(1).any(1).tolist()
        assert bad == [False, False, True, False, True, False]
        assert not out[2, :3].isnan().any() and out[2, 4].isnan().all()
    # Through the norm, gradients of the NaN tokens are NaN; those of other items are not.
    grad_stream = results[2].isnan().flatten(1).any(1).tolist()
    assert grad_stream == [False, False, True, False, False, False]


@needs_extension
def test_threads_do_not_change_the_result():
    case = InjectionCase(150, 9, 67, ("replace", "insert", "add", "replace"), shared_stream=False)
    inputs = make_injection_inputs(case)
    results = []
    for threads in (1, 2):
        with limit_threads(threads):
            results.append(run(inputs, True))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def raw_arguments(inputs, with_norm):
    """Arguments of the raw forward op."""
    stream, sources, positions, norm = inputs
    weight, bias, eps = norm if with_norm else (None, None, 0.0)
    modes = [("replace", "insert", "add").index(source.mode) for source in sources]
    batch = next(len(s.labels) for s in sources if s.labels is not None)
    return (
        stream, [s.tokens for s in sources], [s.labels for s in sources],
        [s.start for s in sources], modes, positions, weight, bias, eps, batch, stream.dtype,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("with_norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("case", [CASES[1], CASES[3], CASES[7]], ids=str)
def test_registration(case, with_norm, dtype, device):
    inputs = make_injection_inputs(case, dtype=dtype, source_dtype=torch.float32, device=device)
    arguments = raw_arguments(inputs, with_norm)
    torch.library.opcheck(prompt_injection_fwd_op, arguments)
    out, normalized, statistics = prompt_injection_fwd_op(*arguments)
    _, tokens, labels, starts, modes, *_ = arguments
    sizes = [t.shape[0] for t in tokens], [t.shape[1] for t in tokens]
    layout = (labels, starts, modes, *sizes, case.shared_stream, case.length)
    norm = (normalized, out, statistics, inputs.norm.weight) if with_norm else (None,) * 4
    wanted = [1, 2, 2, *([2] * len(tokens))]
    torch.library.opcheck(prompt_injection_bwd_op, (out, *norm, *layout, wanted))
    nothing = [0, 0, 0, *([0] * (len(tokens) - 1)), 2]
    torch.library.opcheck(prompt_injection_bwd_op, (out, *norm, *layout, nothing))


def test_compiles_with_dynamic_shapes(device):
    def loss(stream, tokens, labels, positions, weight, bias):
        sources = [TokenSource(tokens, 1, labels, "insert"), TokenSource(tokens[:1], 0, mode="add")]
        norm = TokenNorm(weight, bias)
        out = inject_tokens(stream, sources, positions=positions, norm=norm)
        return out.tokens.sum() + out.normalized.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, length in ((3, 5), (4, 7)):
        shapes = (batch, length, 6), (5, 2, 6), (length + 2, 6), (6,), (6,)
        values = [torch.randn(s, dtype=torch.float64, device=device) for s in shapes]
        labels = torch.arange(batch, device=device)
        grads = []
        for function in (loss, compiled):
            floats = [v.clone().requires_grad_() for v in values]
            function(*floats[:2], labels, *floats[2:]).backward()
            grads.append([v.grad for v in floats])
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_autocast_changes_nothing(device):
    inputs = make_injection_inputs(CASES[3], device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        inside = run(inputs, True)
    assert all(torch.equal(a, b) for a, b in zip(inside, run(inputs, True), strict=True))


@pytest.mark.gpu
def test_is_captured_by_a_cuda_graph():
    inputs = make_injection_inputs(CASES[4], device="cuda")
    run(inputs, True)
    graph = torch.cuda.CUDAGraph()
    floats = [t.detach().clone().requires_grad_() for t in inputs.floats()]
    stream, sources, positions, norm = inputs.with_floats(floats)
    with torch.cuda.graph(graph):
        out = inject_tokens(stream, sources, positions=positions, norm=norm)
        grads = torch.autograd.grad(out.normalized.sum() + out.tokens.sum(), floats)
    graph.replay()
    expected = inject_tokens(stream, sources, positions=positions, norm=norm)
    again = torch.autograd.grad(expected.normalized.sum() + expected.tokens.sum(), floats)
    assert torch.equal(out.normalized, expected.normalized)
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))


class TestRefusals:
    stream = torch.zeros(2, 5, 4)
    source = TokenSource(torch.zeros(3, 2, 4), 1, torch.tensor([0, 2]))

    def call(self, stream=None, sources=None, **changes):
        source = self.source._replace(**changes)
        return inject_tokens(
            self.stream if stream is None else stream, [source] if sources is None else sources
        )

    def test_types(self):
        with pytest.raises(TypeError, match=r"stream must be a torch.Tensor, got list"):
            inject_tokens([[0.0]], [self.source])
        with pytest.raises(TypeError, match=r"sources\[1\] must be a TokenSource, got Tensor"):
            self.call(sources=[self.source, self.stream])
        with pytest.raises(TypeError, match=r"sources\[0\].tokens must be float32, got .*float64"):
            self.call(tokens=torch.zeros(3, 2, 4, dtype=torch.float64))
        with pytest.raises(TypeError, match=r"sources\[0\].labels must be int64, got torch.int32"):
            self.call(labels=torch.zeros(2, dtype=torch.int32))
        with pytest.raises(TypeError, match=r"norm must be a TokenNorm, got LayerNorm"):
            inject_tokens(self.stream, [], norm=nn.LayerNorm(4))
        with pytest.raises(TypeError, match=r"norm.eps must be a number, got '1'"):
            inject_tokens(self.stream, [], norm=TokenNorm(torch.ones(4), torch.ones(4), "1"))
        with pytest.raises(TypeError, match=r"norm.bias must be float32, got torch.float64"):
            inject_tokens(self.stream, [], norm=TokenNorm(torch.ones(4), torch.zeros(4).double()))

    def test_shapes(self):
        match = r"stream must have shape \(L, W\) or \(B, L, W\), got \(4,\)"
        with pytest.raises(ValueError, match=match):
            self.call(stream=torch.zeros(4))
        with pytest.raises(ValueError, match=r"sources\[0\].tokens must have shape \(C, M, 4\)"):
            self.call(tokens=torch.zeros(3, 2, 5))
        with pytest.raises(ValueError, match=r"positions must have shape \(7, 4\), got \(5, 4\)"):
            sources = [self.source._replace(mode="insert")]
            inject_tokens(self.stream, sources, positions=torch.zeros(5, 4))
        with pytest.raises(ValueError, match=r"norm.weight must have shape \(4,\), got \(5,\)"):
            inject_tokens(self.stream, [], norm=TokenNorm(torch.ones(5), torch.zeros(5)))
        with pytest.raises(ValueError, match=r"one number of items, got stream 2, .*labels 3"):
            self.call(labels=torch.zeros(3, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"one number of items, got .*sources\[0\].tokens 3"):
            self.call(labels=None)

    def test_ranges(self):
        with pytest.raises(ValueError, match=r"sources\[0\].labels must be in \[0, 3\), got 3"):
            self.call(labels=torch.tensor([3, 0]))
        with pytest.raises(ValueError, match=r"sources\[0\].labels must be in \[0, 3\), got -1"):
            self.call(labels=torch.tensor([0, -1]))
        with pytest.raises(ValueError, match=r"sources\[0\].start must be in \[0, 3\], .* got 4"):
            self.call(start=4)
        with pytest.raises(ValueError, match=r"sources\[0\].start must be in \[0, 5\], .* got 6"):
            self.call(start=6, mode="insert")
        with pytest.raises(ValueError, match=r"sources\[0\].start must be in .* got -1"):
            self.call(start=-1)
        with pytest.raises(ValueError, match=r"sources\[0\].tokens must have at most 5 tokens"):
            self.call(tokens=torch.zeros(3, 6, 4))
        with pytest.raises(ValueError, match=r"sources\[0\].mode must be one of .* got 'append'"):
            self.call(mode="append")
        with pytest.raises(ValueError, match=r"norm.eps must be at least 0, got -1"):
            inject_tokens(self.stream, [], norm=TokenNorm(torch.ones(4), torch.zeros(4), -1))
        with pytest.raises(NotImplementedError, match=r"sources must be at most 4, got 5"):
            self.call(sources=[self.source] * 5)

    def test_devices_and_choices(self):
        with pytest.raises(ValueError, match=r"must be on one device"):
            self.call(tokens=self.source.tokens.to("meta"))
        with pytest.raises(ValueError, match=r"out_dtype must be one of"):
            inject_tokens(self.stream, [], out_dtype=torch.int64)
        with pytest.raises(ValueError, match=r"backend must be one of .* got 'triton'"):
            inject_tokens(self.stream, [], backend="triton")

    @pytest.mark.parametrize("backend", ["fused", "reference"])
    def test_labels_of_every_backend(self, backend):
        with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got -1"):
            sources = [self.source._replace(labels=torch.tensor([-1, 0]))]
            inject_tokens(self.stream, sources, backend=backend)

    def test_second_derivative(self):
        tokens = self.source.tokens.clone().requires_grad_()
        out = inject_tokens(self.stream, [self.source._replace(tokens=tokens)])
        [grad] = torch.autograd.grad(out.square().sum(), tokens, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()
