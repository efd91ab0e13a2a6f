"""Attention of few queries with absorbed projections, against torch's layer."""

import pytest
import torch
from torch import nn

from vireid_fast.nn.one_query_attention import few_query_attention, unpack_projections
from vireid_fast.testing import assert_error_budget

WIDTH, HEADS = 12, 3


def _layer(dtype=torch.float64):
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def _absorbed(layer, asking, tokens):
    parts = unpack_projections(layer.in_proj_weight, layer.in_proj_bias)
    return layer.out_proj(few_query_attention(asking, tokens, *parts, HEADS))


@pytest.mark.parametrize("shape", [(2, 1, 5), (3, 4, 7), (1, 6, 1), (4, 9, 3)], ids=str)
def test_equals_torch_with_gradients(shape):
    batch, count, length = shape
    layer = _layer()
    asking = torch.randn(batch, count, WIDTH, dtype=torch.float64)
    tokens = torch.randn(batch, length, WIDTH, dtype=torch.float64)
    weight = torch.randn(batch, count, WIDTH, dtype=torch.float64)
    results = []
    for attend in (
        lambda a, t: _absorbed(layer, a, t),
        lambda a, t: layer(a, t, t, need_weights=False)[0],
    ):
        leaves = asking.clone().requires_grad_(), tokens.clone().requires_grad_()
        layer.zero_grad()
        out = attend(*leaves)
        (out * weight).sum().backward()
        grads = [parameter.grad.clone() for parameter in layer.parameters()]
        results.append([out.detach(), *(leaf.grad for leaf in leaves), *grads])
    for actual, expected in zip(*results, strict=True):
        # Roundings of sums of up to 36 products.
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_strided_queries_and_tokens():
    layer = _layer()
    asking = torch.randn(WIDTH, 3, 2, dtype=torch.float64).transpose(0, 2)
    tokens = torch.randn(5, 2, WIDTH, dtype=torch.float64).transpose(0, 1)
    expected = _absorbed(layer, asking.contiguous(), tokens.contiguous())
    torch.testing.assert_close(_absorbed(layer, asking, tokens), expected, rtol=1e-13, atol=1e-13)


def test_float32_keeps_the_error_budget():
    exact = _layer()
    layer = _layer(torch.float32)
    layer.load_state_dict(exact.state_dict())
    exact.load_state_dict(layer.state_dict())
    asking, tokens = torch.randn(3, 4, WIDTH), torch.randn(3, 50, WIDTH)
    plain = layer(asking, tokens, tokens, need_weights=False)[0]
    want = exact(asking.double(), tokens.double(), tokens.double(), need_weights=False)[0]
    # Absorbing sums the products over channels of two maps in another order; the largest value is
    # several times the typical one.
    assert_error_budget(_absorbed(layer, asking, tokens), plain, want, rounding=32)


def test_no_items():
    out = _absorbed(_layer(), torch.empty(0, 4, WIDTH).double(), torch.empty(0, 5, WIDTH).double())
    assert out.shape == (0, 4, WIDTH)
