"""CrossModalInteraction: against CLIP's block, swapped modalities, copied weights."""

import pytest
import torch
from torch.nn import functional as F

from vireid_fast.clip.transformer import Block
from vireid_fast.nn import CrossModalInteraction

WIDTH, HEADS = 16, 2


def make_block():
    block = Block(WIDTH, HEADS, 2, "quick_gelu").double()
    torch.nn.init.normal_(block.attn.in_proj_weight, std=0.5)
    torch.nn.init.normal_(block.attn.in_proj_bias)
    torch.nn.init.normal_(block.ln_1.bias)
    return block


def make_tokens(batch=3, visible=7, infrared=5):
    return (
        torch.randn(batch, visible, WIDTH, dtype=torch.float64),
        torch.randn(batch, infrared, WIDTH, dtype=torch.float64),
    )


def _one_direction(block, asking, read):
    """The block's output for `asking`, whose attention sees `read` alone."""
    attention, size = block.attn, WIDTH // HEADS
    query, key, value = attention.in_proj_weight.chunk(3)
    biases = attention.in_proj_bias.chunk(3)
    mixed = torch.zeros_like(asking)
    for item in range(len(asking)):
        q = block.ln_1(asking[item]) @ query.T + biases[0]
        k = block.ln_1(read[item]) @ key.T + biases[1]
        v = block.ln_1(read[item]) @ value.T + biases[2]
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            weights = torch.softmax(q[:, part] @ k[:, part].T / size**0.5, 1)
            mixed[item, :, part] = weights @ v[:, part]
    x = asking + F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias)
    return x + block.mlp(block.ln_2(x))


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_each_modality_reads_the_other_one(backend):
    block, (visible, infrared) = make_block(), make_tokens()
    out = CrossModalInteraction(block, backend=backend)(visible, infrared)
    torch.testing.assert_close(out[0], _one_direction(block, visible, infrared))
    torch.testing.assert_close(out[1], _one_direction(block, infrared, visible))
    # Its own tokens change a modality through the residual alone, which keeps each in its place.
    moved = visible.clone()
    moved[:, 1:] = torch.randn_like(moved[:, 1:])
    again = CrossModalInteraction(block, backend=backend)(moved, infrared)
    torch.testing.assert_close(again[0][:, 0], out[0][:, 0])
    assert (again[1] - out[1]).abs().max() > 1e-3


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_joint_is_the_clip_block_on_the_tokens_of_both(backend):
    block, (visible, infrared) = make_block(), make_tokens()
    out = CrossModalInteraction(block, mode="joint", backend=backend)(visible, infrared)
    expected = block(torch.cat([visible, infrared], 1))
    torch.testing.assert_close(torch.cat(out, 1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["cross", "joint"])
def test_swapping_modalities_swaps_the_outputs(mode):
    layer, (visible, infrared) = CrossModalInteraction(make_block(), mode=mode), make_tokens()
    out, swapped = layer(visible, infrared), layer(infrared, visible)
    for own, other in zip(out, swapped[::-1], strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("mode", ["cross", "joint"])
def test_class_tokens_are_the_first_of_all_tokens(mode):
    layer, tokens = CrossModalInteraction(make_block(), mode=mode), make_tokens()
    for own, whole in zip(layer.class_tokens(*tokens), layer(*tokens), strict=True):
        torch.testing.assert_close(own, whole[:, 0], rtol=0, atol=1e-13)


def test_one_parameter_set_copied_from_the_block():
    block = make_block()
    layer = CrossModalInteraction(block)
    own = {name.removeprefix("attention."): p for name, p in layer.named_parameters()}
    copied = {name.removeprefix("attn."): p for name, p in block.named_parameters()}
    assert own.keys() == copied.keys()
    assert all(torch.equal(own[name], copied[name]) for name in own)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert all(p.abs().sum() > 0 for name, p in copied.items() if name.endswith("weight"))


def test_errors():
    with pytest.raises(ValueError, match="mode must be one of"):
        CrossModalInteraction(make_block(), mode="self")
    with pytest.raises(ValueError, match="backend must be one of"):
        CrossModalInteraction(make_block(), backend="kernel")
    with pytest.raises(TypeError, match="hold a CLIP attention"):
        CrossModalInteraction(torch.nn.Linear(2, 2))
    visible, infrared = make_tokens()
    with pytest.raises(ValueError, match=r"infrared must have shape \(3, T, 16\)"):
        CrossModalInteraction(make_block())(visible, infrared[:2])
