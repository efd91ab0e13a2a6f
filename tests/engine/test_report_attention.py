"""Attention weights: multiplied with the values they give what the modules give."""

import pytest
import torch
from torch.nn import functional as F

from vireid_fast.clip.transformer import Block
from vireid_fast.engine.report.attention import (
    clip_maps,
    interaction_weights,
    packed_weights,
    pool_weights,
    recorded,
)
from vireid_fast.nn import AttentionPool2d, CrossModalAttention, InstancePromptGenerator
from vireid_fast.nn.attention_pool import pool_tokens
from vireid_fast.nn.clip_blocks import run_block_for_classes
from vireid_fast.nn.clip_layouts import ClipGrid, GroupedLayout, ShiftedLayout

WIDTH, HEADS = 24, 3


def _mixed(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Weights (B, H, S, T) times values (B, T, W), heads side by side."""
    split = values.unflatten(2, (weights.shape[1], -1)).transpose(1, 2)
    return (weights @ split).transpose(1, 2).flatten(2)


def _values(layer, tokens: torch.Tensor) -> torch.Tensor:
    part = slice(2 * tokens.shape[2], None)
    bias = None if layer.in_proj_bias is None else layer.in_proj_bias[part]
    return F.linear(tokens, layer.in_proj_weight[part], bias)


def test_clip_attention():
    layer = Block(WIDTH, HEADS, 2, "gelu").double().attn
    tokens = torch.randn(2, 7, WIDTH, dtype=torch.float64)
    weights = packed_weights(layer, tokens, tokens)
    assert weights.shape == (2, HEADS, 7, 7)
    assert torch.allclose(weights.sum(3), torch.ones(2, HEADS, 7, dtype=torch.float64))
    expected = layer(tokens)
    assert torch.allclose(layer.out_proj(_mixed(weights, _values(layer, tokens))), expected)


@pytest.mark.parametrize("mode", ["cross", "joint", "self"])
@pytest.mark.parametrize("bias", [True, False])
def test_cross_modal_attention(mode, bias):
    layer = CrossModalAttention(WIDTH, HEADS, mode=mode, bias=bias, backend="reference").float()
    visible, infrared = torch.randn(2, 5, WIDTH), torch.randn(2, 8, WIDTH)
    expected = layer(visible, infrared)
    both = torch.cat([visible, infrared], 1)
    read = {"cross": (infrared, visible), "self": (visible, infrared), "joint": (both, both)}[mode]
    weights = interaction_weights(layer, visible, infrared)
    for own, tokens, out in zip(weights, read, expected, strict=True):
        assert torch.allclose(layer.out_proj(_mixed(own, _values(layer, tokens))), out, atol=1e-5)


def test_attention_of_the_prompt_generator():
    generator = InstancePromptGenerator(WIDTH, 10, layers=1, heads=HEADS).eval()
    layer = generator.layers[0].cross_attention
    torch.nn.init.normal_(layer.out_proj.weight)
    with recorded([layer]) as (calls,):
        generator(torch.randn(2, 6, 10))
    asking, memory = calls.inputs[0]
    weights = packed_weights(layer, asking, memory)
    found = layer.out_proj(_mixed(weights, _values(layer, memory)))
    assert torch.allclose(found, calls.outputs[0], atol=1e-5)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_attention_pool(backend):
    pool = AttentionPool2d((3, 2), WIDTH, HEADS, 5, backend=backend)
    maps = torch.randn(4, WIDTH, 3, 2)
    weights = pool_weights(pool, maps, maps)
    values = pool.v_proj(pool_tokens(pool, maps))
    assert torch.allclose(pool.c_proj(_mixed(weights, values)[:, 0]), pool(maps), atol=1e-4)


@pytest.mark.parametrize("layout", [GroupedLayout(2), ShiftedLayout("tps9")])
def test_maps_of_clips_give_the_class_tokens_of_the_block(layout):
    grid, block = ClipGrid(3, 4, 2), Block(WIDTH, 1, 2, "gelu")
    tokens = torch.randn(grid.frames, grid.tokens, WIDTH)
    normed = block.ln_1(tokens)
    maps = clip_maps(block.attn, normed, layout, grid)
    assert maps.shape == (3, 4, 2) and (maps >= 0).all()
    # The class tokens of the block, from naive loops over its sequences.
    flat, asked = normed.flatten(0, 1), torch.zeros(grid.frames, WIDTH)
    expected = torch.zeros(grid.frames * grid.tokens)
    sequences, classes = layout.sequences(grid), layout.class_tokens(grid)
    query, key, value = F.linear(flat, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(
        3, 1
    )
    for sequence in sequences.tolist():
        for row in sequence[:classes]:
            scores = torch.stack([query[row] @ key[other] for other in sequence]) / WIDTH**0.5
            shares = scores.softmax(0)
            if isinstance(layout, GroupedLayout):
                asked[row // grid.tokens] += shares @ value[sequence] / len(sequences)
            else:
                asked[row // grid.tokens] += shares @ value[sequence]
            for place, other in list(enumerate(sequence))[classes:]:
                expected[other] += shares[place] / classes
    found = tokens[:, 0] + block.attn.out_proj(asked)
    found = found + block.mlp(block.ln_2(found))
    assert torch.allclose(found, run_block_for_classes(block, tokens, grid, layout), atol=1e-5)
    assert torch.allclose(maps.flatten(1), expected.view(3, 9)[:, 1:], atol=1e-6)


def test_recording_ends_with_its_block():
    layer = torch.nn.Linear(2, 2)
    with recorded([layer]) as (calls,):
        layer(torch.zeros(1, 2))
    layer(torch.zeros(1, 2))
    assert len(calls.inputs) == len(calls.outputs) == 1
