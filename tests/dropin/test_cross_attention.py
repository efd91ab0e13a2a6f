"""`accelerate` on nn.MultiheadAttention between two token sets."""

import copy

import pytest
import torch
from foreign_models import WIDTH, CrossFusion
from torch import nn

from vireid_fast import accelerate, revert

LENGTHS = (5, 9)


def make_tokens(batch_first: bool, dtype=torch.float64):
    shapes = [(3, n, WIDTH) if batch_first else (n, 3, WIDTH) for n in LENGTHS]
    return [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in shapes]


def build(dtype=torch.float64, **options):
    model = CrossFusion(**options).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("heads", "bias"), [(1, True), (4, True), (2, False)])
def test_outputs_and_gradients_stay(batch_first, heads, bias):
    model = build(heads=heads, batch_first=batch_first, bias=bias)
    plain, tokens = copy.deepcopy(model), make_tokens(batch_first)
    assert [entry.name for entry in accelerate(model).replaced] == ["cross"]
    results = []
    for net in (model, plain):
        inputs = [x.detach().clone().requires_grad_() for x in tokens]
        out, weights = net(*inputs)
        assert weights is None
        out.square().sum().backward()
        results.append([out, *(x.grad for x in inputs), *(p.grad for p in net.parameters())])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_fast_way_is_taken(monkeypatch):
    model, tokens = build(), make_tokens(False)
    accelerate(model)
    monkeypatch.setattr(nn.MultiheadAttention, "forward", None)
    assert model(*tokens)[0].shape == (5, 3, WIDTH)


@pytest.mark.parametrize(
    "options",
    [
        {"need_weights": True},
        {"need_weights": True, "average_attn_weights": False},
        {"attn_mask": torch.arange(9) > torch.arange(4, 9)[:, None]},
        {"key_padding_mask": torch.arange(9).expand(3, 9) > 6},
    ],
)
def test_other_calls_run_torchs_own_way(options):
    model, tokens = build(heads=2), make_tokens(False)
    plain = copy.deepcopy(model)
    accelerate(model)
    for mine, theirs in zip(model(*tokens, **options), plain(*tokens, **options), strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)


def test_self_attention_and_plain_shapes_run_torchs_own_way():
    attention = build(heads=2, batch_first=True).cross
    plain = copy.deepcopy(attention)
    accelerate(attention)
    x, y = make_tokens(True)
    one = x[0], y[0], y[0]
    for arguments in ((x, x, x), (x, y, 2 * y), one):
        actual, expected = (m(*arguments, need_weights=False)[0] for m in (attention, plain))
        assert torch.equal(actual, expected)


def test_dropout_acts_in_training_only():
    model, tokens = build(heads=2, dropout=0.5), make_tokens(False)
    plain = copy.deepcopy(model)
    accelerate(model)
    torch.manual_seed(1)
    actual = model(*tokens)[0]
    torch.manual_seed(1)
    assert torch.equal(actual, plain(*tokens)[0])
    model.eval(), plain.eval()
    torch.testing.assert_close(model(*tokens)[0], plain(*tokens)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kdim": 16}, "another width"),
        ({"add_bias_kv": True}, "bias_k"),
        ({"add_zero_attn": True}, "zero key"),
    ],
)
def test_unsuitable_attentions_are_left(options, reason):
    model = build(**options)
    (entry,) = accelerate(model).left
    assert (entry.name, entry.kind) == ("cross", "cross attention")
    assert reason in entry.detail
    assert type(model.cross) is nn.MultiheadAttention


def test_torchs_decoder_uses_it_for_memory_only():
    layer = nn.TransformerDecoderLayer(WIDTH, 2, 64, dropout=0.0, batch_first=True).double()
    plain, (x, y) = copy.deepcopy(layer), make_tokens(True)
    assert [entry.name for entry in accelerate(layer).replaced] == ["multihead_attn"]
    torch.testing.assert_close(layer(x, y), plain(x, y), rtol=1e-12, atol=1e-12)
    revert(layer)
    assert torch.equal(layer(x, y), plain(x, y))


def test_float32_autocast_and_compile():
    model, tokens = build(torch.float32, batch_first=True), make_tokens(True, torch.float32)
    plain = copy.deepcopy(model)
    accelerate(model)
    expected = plain(*tokens)[0]
    torch.testing.assert_close(model(*tokens)[0], expected)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tokens)[0], expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, rounded = model(*tokens)[0], plain(*tokens)[0]
    assert actual.dtype == rounded.dtype
    scale = expected.abs().max()
    # bfloat16 keeps eight bits.
    assert (actual.float() - expected).abs().max() <= 0.05 * scale
