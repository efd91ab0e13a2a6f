"""SemanticDiffusion: against loops, and what must not change it."""

import math

import pytest
import torch

from vireid_fast.nn import SemanticDiffusion
from vireid_fast.testing import assert_error_budget

WIDTH, TEXT, HEADS = 16, 10, 2


def make_diffusion(backend="fused", width=WIDTH, text=TEXT, dtype=torch.float64):
    torch.manual_seed(1)
    layer = SemanticDiffusion(width, text, HEADS, backend=backend)
    for parameter in layer.parameters():
        # Nothing at its start, or an error in a bias or in gamma would not show.
        torch.nn.init.normal_(parameter, std=0.7)
    return layer.to(dtype)


def make_inputs(batch=3, tokens=5, texts=7, width=WIDTH, text=TEXT, dtype=torch.float64):
    z = torch.randn(batch, tokens, width, dtype=torch.float64)
    bank = 3 * torch.randn(texts, text, dtype=torch.float64) + 1
    return z.to(dtype), bank.to(dtype)


def _normed(x, norm):
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return (x - mean) / math.sqrt(variance + norm.eps) * norm.weight + norm.bias


def _naive(layer, tokens, bank):
    size = WIDTH // HEADS
    texts = [
        layer.key_value.weight @ _normed(t, layer.text_norm) + layer.key_value.bias for t in bank
    ]
    out = tokens.clone()
    for item in out:
        for token in item:
            query = layer.query.weight @ _normed(token.clone(), layer.norm) + layer.query.bias
            heads = []
            for h in range(HEADS):
                part = slice(h * size, (h + 1) * size)
                scores = [float(query[part] @ t[:WIDTH][part]) / math.sqrt(size) for t in texts]
                weights = [math.exp(s - max(scores)) for s in scores]
                values = [t[WIDTH:][part] for t in texts]
                heads.append(
                    sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
                )
            token += layer.gamma * (layer.output.weight @ torch.cat(heads) + layer.output.bias)
    return out


@pytest.mark.parametrize("backend", ["fused", "reference"])
@torch.no_grad()
def test_equals_loops(backend):
    layer, (tokens, bank) = make_diffusion(backend), make_inputs()
    torch.testing.assert_close(layer(tokens, bank), _naive(layer, tokens, bank), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 5), (4, 3, 1), (2, 163, 11)], ids=str)
def test_fused_equals_reference_with_gradients(size):
    results = []
    for backend in ("fused", "reference"):
        layer = make_diffusion(backend)
        inputs = [x.requires_grad_() for x in make_inputs(*size)]
        out = layer(*inputs)
        out.square().sum().backward()
        results.append((out, *[x.grad for x in (*inputs, *layer.parameters())]))
        torch.manual_seed(0)
    for own, plain in zip(*results, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-10, atol=1e-10)


def test_float32_errs_no_more_than_the_reference():
    fused, plain = (make_diffusion(name, 64, 32, torch.float32) for name in ("fused", "reference"))
    tokens, bank = make_inputs(4, 9, 50, 64, 32)
    exact = make_diffusion("reference", 64, 32)(tokens, bank)
    own, reference = (layer(tokens.float(), bank.float()).detach() for layer in (fused, plain))
    assert_error_budget(own, reference, exact.detach())


def test_order_of_the_bank_and_the_rest_of_the_batch_do_not_matter():
    layer, (tokens, bank) = make_diffusion(), make_inputs(4, 6, 13)
    out = layer(tokens, bank)
    shuffled = layer(tokens, bank[torch.randperm(13)])
    torch.testing.assert_close(shuffled, out, rtol=0, atol=1e-13)
    torch.testing.assert_close(layer(tokens[1:2, 2:4], bank), out[1:2, 2:4], rtol=0, atol=1e-13)
    # Not every text alike: the bank is read.
    assert (layer(tokens, bank[:-1]) - out).abs().max() > 1e-3


def test_gamma_of_zero_gives_the_input_and_starts_small():
    layer, (tokens, bank) = make_diffusion(), make_inputs()
    with torch.no_grad():
        layer.gamma.zero_()
    assert torch.equal(layer(tokens, bank), tokens)
    assert torch.equal(SemanticDiffusion(8, 4, 2).gamma, torch.full((8,), 1e-2))


def test_errors():
    layer, (tokens, bank) = make_diffusion(), make_inputs()
    with pytest.raises(ValueError, match="heads must divide the width 16, got 3"):
        SemanticDiffusion(16, 4, 3)
    with pytest.raises(ValueError, match="backend must be one of"):
        SemanticDiffusion(16, 4, 2, backend="sdpa")
    with pytest.raises(TypeError, match="text_width must be an integer"):
        SemanticDiffusion(16, 4.0, 2)
    with pytest.raises(ValueError, match=r"tokens must have shape \(B, S, 16\)"):
        layer(tokens[0], bank)
    with pytest.raises(ValueError, match=r"bank must have shape \(C, 10\)"):
        layer(tokens, bank[:, 1:])
    with pytest.raises(ValueError, match="bank must hold a text, got none"):
        layer(tokens, bank[:0])
