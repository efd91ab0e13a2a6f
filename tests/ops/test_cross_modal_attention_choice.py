"""cross_modal_attention: the plan of "auto", explicit backends, every error sentence."""

import sys
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from vireid_fast import AttentionIndex, attention_plan, cross_modal_attention
from vireid_fast.ops.cross_modal_attention import api, plan, xformers_backend
from vireid_fast.testing import make_attention_inputs

INDEX = AttentionIndex.cross([3, 5], [4, 2])
needs_kernel = pytest.mark.skipif(
    plan.missing_build(torch.device("cpu")) is not None, reason="the CPU extension is not built"
)


@pytest.fixture
def calls(monkeypatch):
    """Names of the backends that ran."""
    ran = []

    def note(name, run):
        def wrapper(*arguments):
            ran.append(name)
            return run(*arguments)

        return wrapper

    monkeypatch.setattr(api, "sdpa_attention", note("sdpa", api.sdpa_attention))
    pair = api._implementation("reference")
    monkeypatch.setattr(
        api, "_implementation", lambda name: (note(name, pair[0]), note(name, pair[1]))
    )
    return ran


@needs_kernel
@pytest.mark.parametrize("dtype", plan.KERNEL_DTYPES, ids=str)
def test_auto_takes_what_the_plan_says(dtype, calls):
    limit = plan.KERNEL_TOKENS["cpu"]
    for tokens in {1, max(1, limit), limit + 1}:
        expected = "sdpa" if tokens > limit else "kernel"
        assert attention_plan((1, 1, tokens, 32), dtype, "cpu").backend == expected
        assert attention_plan((1, 1, 1, tokens, 32), dtype, "cpu").backend == expected
        x = make_attention_inputs(AttentionIndex.pairs([1], [tokens]), 1, 32, dtype=dtype)
        cross_modal_attention(*x)
        assert calls == [expected]
        calls.clear()


def test_plan_says_why():
    assert "float64" in attention_plan((2, 4, 12, 64), torch.float64, "cpu").reason
    assert "head sizes" in attention_plan((2, 4, 12, 20), "float32", "cpu").reason
    assert "head sizes" in attention_plan((2, 4, 12, 136), "float32", "cpu").reason
    assert "CPU and CUDA" in attention_plan((2, 4, 12, 64), "float32", "meta").reason
    long = attention_plan((2, 4, 100_000, 64), "torch.bfloat16", torch.device("cpu"))
    assert long.backend == "sdpa"


def test_plan_without_vector_instructions(monkeypatch):
    monkeypatch.setattr(plan, "HAS_EXTENSION", True)
    monkeypatch.setitem(plan.KERNEL_TOKENS, "cpu", 0)
    chosen = attention_plan((2, 4, 12, 64), "float32", "cpu")
    assert chosen.backend == "sdpa" and "vector instructions" in chosen.reason


def test_plan_without_what_must_be_built(monkeypatch):
    monkeypatch.setattr(plan, "HAS_EXTENSION", False)
    assert attention_plan((2, 4, 12, 64), "float32", "cpu") == (
        "sdpa", "the kernel does not apply: the CPU extension is not built",
    )  # fmt: skip
    monkeypatch.setattr(plan, "_HAS_TRITON", False)
    assert "triton is not installed" in attention_plan((2, 4, 12, 64), "float16", "cuda").reason
    monkeypatch.setattr(plan, "_HAS_TRITON", True)
    assert attention_plan((2, 4, 129, 64), "float16", "cuda").backend == "kernel"


@pytest.mark.parametrize("width", [20, 136, 8])
def test_auto_takes_sdpa_for_other_head_sizes(width, calls):
    x = make_attention_inputs(INDEX, 2, width)
    cross_modal_attention(*x)
    cross_modal_attention(*(t.double() for t in x[:3]), INDEX)
    assert calls == ["sdpa", "sdpa"]


def test_scale_defaults_to_the_head_size():
    x = make_attention_inputs(INDEX, 2, 32)
    for backend in ("sdpa", "reference"):
        expected = cross_modal_attention(*x, scale=32**-0.5, backend=backend)
        assert torch.equal(cross_modal_attention(*x, backend=backend), expected)


def test_sdpa_reads_uniform_layouts_through_views(monkeypatch):
    seen = []
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *qkv, scale: seen.append(qkv) or attend(*qkv)
    )
    x = make_attention_inputs(AttentionIndex.uniform("cross", 3, 4, 6), 2, 16)
    cross_modal_attention(*x, backend="sdpa")
    assert len(seen) == 2
    for call in seen:
        owners = [t.untyped_storage().data_ptr() for t in x[:3]]
        assert [t.untyped_storage().data_ptr() for t in call] == owners


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"query": torch.zeros(14, 2, 32).int()}, TypeError,
         r"query must be float32 or float16 or bfloat16 or float64, got torch.int32"),
        ({"key": torch.zeros(14, 2, 32).half()}, TypeError, r"key must be float32, got .*float16"),
        ({"value": torch.zeros(14, 2, 32).double()}, TypeError, r"value must be float32, got"),
        ({"query": [[0.0]]}, TypeError, r"query must be a torch.Tensor, got list"),
        ({"query": torch.zeros(14, 64)}, ValueError, r"query must have shape \(Nq, H, D\)"),
        ({"query": torch.zeros(13, 2, 32)}, ValueError,
         r"query must have shape \(14, H, D\), got \(13, 2, 32\)"),
        ({"key": torch.zeros(14, 2, 40)}, ValueError,
         r"key must have shape \(14, 2, 32\), got \(14, 2, 40\)"),
        ({"key": torch.zeros(15, 2, 32)}, ValueError, r"key must have shape \(14, 2, 32\)"),
        ({"value": torch.zeros(14, 1, 32)}, ValueError, r"value must have shape \(14, 2, 32\)"),
        ({"key": torch.zeros(14, 2, 32, device="meta")}, ValueError, r"be on one device, got cpu"),
        ({"index": INDEX.to("meta")}, ValueError, r"index must be on one device, .* meta\. Move"),
        ({"index": [3, 5]}, TypeError, r"index must be an AttentionIndex, got list\. Make one"),
        ({"backend": "fused"}, ValueError, r"backend must be one of .*'kernel'.* got 'fused'"),
        ({"scale": torch.tensor(0.1)}, TypeError, r"scale must be a number, got tensor"),
    ],
)  # fmt: skip
def test_rejects_bad_arguments(changes, error, match):
    good = {**make_attention_inputs(INDEX, 2, 32)._asdict(), "backend": "auto", **changes}
    with pytest.raises(error, match=match):
        cross_modal_attention(**good)


def test_rejects_heads_of_no_width():
    empty = torch.zeros(14, 2, 0)
    with pytest.raises(ValueError, match=r"query must have heads of some width"):
        cross_modal_attention(empty, empty, empty, INDEX)


def test_explicit_kernel_names_every_obstacle():
    x = make_attention_inputs(INDEX, 2, 20, dtype=torch.float64)
    match = r"head size 20, torch.float64, cpu \(.*not in float64; .*multiples of 8 from 32 to 128"
    with pytest.raises(NotImplementedError, match=match):
        cross_modal_attention(*x, backend="kernel")
    moved = [t.to("meta") for t in x[:3]]
    with pytest.raises(NotImplementedError, match=r"runs on CPU and CUDA tensors.*'sdpa'"):
        cross_modal_attention(*moved, INDEX.to("meta"), backend="kernel")


def test_explicit_kernel_without_a_build_names_the_command(monkeypatch):
    monkeypatch.setattr(plan, "HAS_EXTENSION", False)
    x = make_attention_inputs(INDEX, 2, 32)
    match = r"must be built, got the CPU extension is not built\. .*pip install --no-build-isol"
    with pytest.raises(RuntimeError, match=match):
        cross_modal_attention(*x, backend="kernel")
    assert cross_modal_attention(*x).shape == x.query.shape


def test_xformers_that_is_absent(monkeypatch):
    monkeypatch.setattr(xformers_backend.importlib.util, "find_spec", lambda name: None)
    x = make_attention_inputs(INDEX, 2, 32)
    with pytest.raises(RuntimeError, match=r"xformers installed and CUDA tensors.*pip install xf"):
        cross_modal_attention(*x, backend="xformers")


def test_xformers_needs_cuda_tensors(monkeypatch):
    monkeypatch.setattr(xformers_backend.importlib.util, "find_spec", lambda name: object())
    x = make_attention_inputs(INDEX, 2, 32)
    with pytest.raises(ValueError, match=r"have CUDA tensors, got tensors on cpu"):
        cross_modal_attention(*x, backend="xformers")
    with pytest.raises(TypeError, match=r"float32, float16 or bfloat16 tensors, got torch.float64"):
        xformers_backend.require_xformers("op", torch.device("cuda"), torch.float64)


class StandInMask:
    """The part of BlockDiagonalMask that is used, as a plain additive mask."""

    @classmethod
    def from_seqlens(cls, query_lengths, key_lengths, device):
        parts = [torch.zeros(q, k) for q, k in zip(query_lengths, key_lengths, strict=True)]
        inside = torch.block_diag(*(part + 1 for part in parts)).bool()
        return torch.zeros(inside.shape, device=device).masked_fill(~inside, -torch.inf)


@pytest.fixture
def stand_in_xformers(monkeypatch):
    """A package with xFormers' interface, computed by SDPA; records the calls."""
    calls = []

    def attend(query, key, value, attn_bias=None, scale=None):
        calls.append(tuple(query.shape))
        q, k, v = (t.transpose(1, 2) for t in (query, key, value))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_bias, scale=scale)
        return mixed.transpose(1, 2)

    suffixes = ("", ".ops", ".ops.fmha", ".ops.fmha.attn_bias")
    modules = {f"xformers{suffix}": ModuleType(f"xformers{suffix}") for suffix in suffixes}
    modules["xformers.ops"].memory_efficient_attention = attend
    modules["xformers.ops.fmha.attn_bias"].BlockDiagonalMask = StandInMask
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield calls
    xformers_backend._mask.cache_clear()


@pytest.mark.parametrize(
    ("index", "number"),
    [
        (AttentionIndex.uniform("cross", 3, 4, 6), 2),
        (AttentionIndex.cross([3, 5, 1], [4, 2, 8]), 1),
        (AttentionIndex.within([3, 5, 1]), 1),
        (AttentionIndex.from_rows([[0, 1], [0, 4, 2], [3, 2, 0, 1]]), 1),
    ],
)
def test_xformers_is_given_the_same_sequences(index, number, stand_in_xformers):
    x = make_attention_inputs(index, 2, 16)
    out = xformers_backend.xformers_attention(*x, scale=0.3)
    expected = cross_modal_attention(*x, scale=0.3, backend="reference")
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)
    assert len(stand_in_xformers) == number


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (((2, 12, 64), "float32", "cpu"), ValueError,
         r"attention_plan: shape must be \(B, H, L, D\) or \(B, H, Lq, Lk, D\), got \(2, 12, 64\)"),
        (((2, 12, 0, 64), "float32", "cpu"), ValueError, r"shape\[2\] must be at least 1, got 0"),
        (((2, 12, 9.5, 64), "float32", "cpu"), TypeError, r"shape\[2\] must be an integer"),
        ((None, "float32", "cpu"), ValueError, r"shape must be \(B, H, L, D\) .* got None"),
        (((2, 12, 9, 64), "float32", "gpu"), ValueError, r"device must be a torch.device or its"),
        (((2, 12, 9, 64), "int8", "cpu"), ValueError, r"dtype must be one of .* got 'int8'"),
        (((2, 12, 9, 64), torch.int8, "cpu"), TypeError, r"dtype must be float32, float16, bfl"),
    ],
)  # fmt: skip
def test_plan_rejects_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        attention_plan(*arguments)
