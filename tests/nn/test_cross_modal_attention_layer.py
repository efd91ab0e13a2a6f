"""CrossModalAttention: against torch's layer, weights of other layers, residual, autocast."""

import copy

import pytest
import torch
from torch import nn

from vireid_fast.clip.transformer import Block
from vireid_fast.nn import CrossModalAttention
from vireid_fast.ops.cross_modal_attention import plan

MODES = ["cross", "joint", "self"]
BATCH, VISIBLE, INFRARED, WIDTH, HEADS = 2, 7, 5, 64, 2


@pytest.fixture(autouse=True)
def forget_graphs():
    """The limit of graphs counts per function, all tests together."""
    torch.compiler.reset()


def make_inputs(device="cpu", dtype=torch.float32):
    return (
        torch.randn(BATCH, VISIBLE, WIDTH, dtype=torch.float64).to(device, dtype),
        torch.randn(BATCH, INFRARED, WIDTH, dtype=torch.float64).to(device, dtype),
    )


def make_attention(bias=True, dtype=torch.float32):
    """A torch layer whose biases are not zero."""
    module = nn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=True, dtype=dtype)
    if bias:
        nn.init.normal_(module.in_proj_bias)
        nn.init.normal_(module.out_proj.bias)
    return module


def plain(module, mode, visible, infrared):
    """What two calls of torch's layer give, or one call on both modalities' tokens."""
    if mode == "joint":
        both = torch.cat([visible, infrared], 1)
        return module(both, both, both, need_weights=False)[0].split([VISIBLE, INFRARED], 1)
    first, second = (visible, infrared) if mode == "self" else (infrared, visible)
    return (
        module(visible, first, first, need_weights=False)[0],
        module(infrared, second, second, need_weights=False)[0],
    )


@pytest.fixture(params=["auto", "kernel", "sdpa", "reference"])
def backend(request, device):
    missing = plan.missing_build(device)
    if request.param == "kernel" and missing:
        pytest.skip(missing)
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_equals_torch_layer_in_float64(mode, bias):
    module = make_attention(bias, torch.float64)
    layer = CrossModalAttention.from_multihead_attention(module, mode=mode)
    inputs = make_inputs(dtype=torch.float64)
    ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    residual = make_inputs(dtype=torch.float64)
    out = layer(*ours, residual)
    expected = [x + r for x, r in zip(plain(module, mode, *theirs), residual, strict=True)]
    for a, b in zip(out, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    sum(x.square().sum() for x in out).backward()
    sum(x.square().sum() for x in expected).backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-11)
    gradients = dict(module.named_parameters())
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
def test_backends_agree(mode, backend, device):
    module = make_attention().to(device)
    layer = CrossModalAttention.from_multihead_attention(module, mode=mode, backend=backend)
    inputs = make_inputs(device)
    for a, b in zip(layer(*inputs), plain(module, mode, *inputs), strict=True):
        # Outputs of about 1 after sums over 64 channels in float32.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_state_dict_is_that_of_torch():
    module = make_attention()
    layer = CrossModalAttention(WIDTH, HEADS)
    assert layer.state_dict().keys() == module.state_dict().keys()
    layer.load_state_dict(module.state_dict())
    without = CrossModalAttention(WIDTH, HEADS, bias=False)
    assert without.state_dict().keys() == make_attention(bias=False).state_dict().keys()


def test_copied_weights_are_independent():
    module = make_attention()
    layer = CrossModalAttention.from_multihead_attention(module)
    before = layer.in_proj_weight.clone()
    with torch.no_grad():
        module.in_proj_weight.zero_()
    assert torch.equal(layer.in_proj_weight, before)


class OpenAIBlock(nn.Module):
    """The attention of a block of OpenAI's towers."""

    def __init__(self, attention):
        super().__init__()
        self.attn = attention


def test_weights_of_openai_block():
    module = make_attention()
    layer = CrossModalAttention.from_clip_block(OpenAIBlock(module), mode="self")
    inputs = make_inputs()
    for a, b in zip(layer(*inputs), plain(module, "self", *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_weights_of_our_block():
    block = Block(WIDTH, HEADS, 1, "quick_gelu")
    nn.init.normal_(block.attn.in_proj_bias)
    visible, infrared = make_inputs()
    layer = CrossModalAttention.from_clip_block(block, mode="self")
    out = layer(block.ln_1(visible), block.ln_1(infrared), (visible, infrared))
    for a, x in zip(out, (visible, infrared), strict=True):
        torch.testing.assert_close(a, x + block.attn(block.ln_1(x)), rtol=0, atol=1e-5)


def test_weights_of_hugging_face_layer():
    clip = pytest.importorskip("transformers.models.clip.modeling_clip")
    config = pytest.importorskip("transformers").CLIPVisionConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=WIDTH,
        attn_implementation="sdpa",
    )  # fmt: skip
    block = clip.CLIPEncoderLayer(config).eval()
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        nn.init.normal_(getattr(block.self_attn, part).bias)
    layer = CrossModalAttention.from_clip_block(block, mode="self")
    inputs = make_inputs()
    for a, x in zip(layer(*inputs), inputs, strict=True):
        torch.testing.assert_close(a, block.self_attn(x)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_autocast_keeps_the_residual_exact(mode, backend, device):
    layer = CrossModalAttention(WIDTH, HEADS, mode=mode, backend=backend).to(device)
    inputs, residual = make_inputs(device), [x + 1000 for x in make_inputs(device)]
    leaves = [x.requires_grad_() for x in inputs]
    with torch.autocast(device.type, torch.bfloat16):
        out = layer(*leaves, residual)
        update = layer(*leaves)
    assert all(x.dtype == torch.float32 for x in out)
    assert all(x.dtype == torch.bfloat16 for x in update)
    for a, r, u, exact in zip(out, residual, update, layer(*leaves), strict=True):
        assert torch.equal(a, r + u)
        # Three roundings to bfloat16, of 8 bits, in a row.
        torch.testing.assert_close(u.float(), exact, rtol=0, atol=3e-2)
    sum(x.float().sum() for x in out).backward()
    assert all(torch.isfinite(x.grad).all() for x in leaves)
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


@pytest.mark.parametrize("backend", ["kernel", "sdpa", "reference"], indirect=True)
@pytest.mark.parametrize("mode", MODES)
def test_compiles_as_one_graph(mode, backend, device):
    layer = CrossModalAttention(WIDTH, HEADS, mode=mode, backend=backend).to(device)
    traced = copy.deepcopy(layer)
    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (2, 3):
        visible = torch.randn(batch, batch + 3, WIDTH, device=device)
        infrared = torch.randn(batch, 6, WIDTH, device=device)
        expected = layer(visible, infrared, (visible, infrared))
        actual = compiled(visible, infrared, (visible, infrared))
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        sum(x.square().sum() for x in expected).backward()
        sum(x.square().sum() for x in actual).backward()
    for a, b in zip(traced.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-3)


def test_compiles_under_autocast():
    layer = CrossModalAttention(WIDTH, HEADS, backend="sdpa")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    inputs = make_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(compiled(*inputs, inputs), layer(*inputs, inputs), strict=True):
            torch.testing.assert_close(a, b)


def test_swapping_modalities_swaps_outputs(backend, device):
    layer = CrossModalAttention(WIDTH, HEADS, backend=backend).to(device)
    visible, infrared = make_inputs(device)
    first, second = layer(visible, infrared)
    other_second, other_first = layer(infrared, visible)
    # The rows of the projection GEMM change their places.
    torch.testing.assert_close(first, other_first, rtol=0, atol=1e-6)
    torch.testing.assert_close(second, other_second, rtol=0, atol=1e-6)


def test_non_contiguous_and_expanded_inputs(backend, device):
    layer = CrossModalAttention(WIDTH, HEADS, backend=backend).to(device)
    visible, infrared = make_inputs(device)
    one = infrared[:1].expand(BATCH, INFRARED, WIDTH)
    strided = visible.transpose(0, 1).contiguous().transpose(0, 1)
    expected = layer(visible, one.contiguous(), (visible, one.contiguous()))
    for a, b in zip(layer(strided, one, (strided, one)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert torch.equal(one[0], one[1]) and torch.equal(one[0], infrared[0])


def test_one_token_each(backend, device):
    layer = CrossModalAttention(WIDTH, HEADS, backend=backend).to(device)
    visible, infrared = (x[:, :1] for x in make_inputs(device))
    # One key: its value is taken as it is.
    width = slice(2 * WIDTH, None)
    value = nn.functional.linear(infrared, layer.in_proj_weight[width], layer.in_proj_bias[width])
    torch.testing.assert_close(
        layer(visible, infrared)[0], layer.out_proj(value), rtol=0, atol=1e-6
    )


def test_rejects_bad_constructions():
    with pytest.raises(ValueError, match=r"heads must divide the width 64, got 3"):
        CrossModalAttention(64, 3)
    with pytest.raises(ValueError, match=r"heads must be at least 1, got 0"):
        CrossModalAttention(64, 0)
    with pytest.raises(TypeError, match=r"heads must be an integer, got 2.0"):
        CrossModalAttention(64, 2.0)
    with pytest.raises(ValueError, match=r"mode must be one of .*'joint'.* got 'both'"):
        CrossModalAttention(64, 4, mode="both")
    with pytest.raises(ValueError, match=r"backend must be one of .* got 'fused'"):
        CrossModalAttention(64, 4, backend="fused")


def test_rejects_bad_inputs():
    layer = CrossModalAttention(WIDTH, HEADS)
    visible, infrared = make_inputs()
    for arguments, error, match in (
        ((visible[..., :60], infrared), ValueError,
         r"CrossModalAttention: visible must have shape \(B, S, 64\), got \(2, 7, 60\)"),
        ((visible, infrared[..., :60]), ValueError, r"infrared must have shape \(2, T, 64\)"),
        ((visible, infrared[:1]), ValueError, r"infrared must have shape \(2, T, 64\), got \(1, 5"),
        ((visible[0], infrared), ValueError, r"visible must have shape \(B, S, 64\)"),
        ((visible[:, :0], infrared), ValueError, r"visible must hold at least one token"),
        ((visible[:0], infrared[:0]), ValueError, r"visible must hold at least one token"),
        ((visible, infrared.half()), TypeError, r"infrared must be float32, got torch.float16"),
        ((visible, infrared.to("meta")), ValueError,
         r"visible and infrared and weights must be on one device"),
        ((visible.half(), infrared.half()), TypeError,
         r"visible must be float32, got torch.float16"),
        ((visible, infrared, visible), TypeError, r"residual must be a pair of tensors, got Tens"),
        ((visible, infrared, (visible, visible)), ValueError,
         r"residual\[1\] must have shape \(2, 5, 64\), got \(2, 7, 64\)"),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            layer(*arguments)


def test_rejects_layers_it_does_not_equal():
    build = CrossModalAttention.from_multihead_attention
    with pytest.raises(NotImplementedError, match=r"module must be plain attention, got dropout 0"):
        build(nn.MultiheadAttention(8, 2, dropout=0.1))
    match = r"got keys or values of another width and bias_k and bias_v and add_zero_attn\. Keep"
    with pytest.raises(NotImplementedError, match=match):
        build(nn.MultiheadAttention(8, 2, kdim=4, add_bias_kv=True, add_zero_attn=True))
    with pytest.raises(TypeError, match=r"module must be an nn.MultiheadAttention, got Linear"):
        build(nn.Linear(8, 8))
    with pytest.raises(TypeError, match=r"block must hold a CLIP attention .* got Linear"):
        CrossModalAttention.from_clip_block(nn.Linear(8, 8))
