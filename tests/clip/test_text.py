"""The text tower: cutting after EOT is exact, and inputs are checked."""

import pytest
import torch

from vireid_fast.clip import TEMPLATES, build_clip

OVERRIDES = {"text_width": 32, "text_heads": 2, "vocabulary_size": 49408, "visual_layers": 1}


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(1)
    return build_clip("ViT-small", **OVERRIDES).text.double().eval()


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@torch.no_grad()
def test_truncated_prompt_equals_77_tokens(name, tower):
    template = TEMPLATES[name]
    ids = torch.zeros(3, 77, dtype=torch.int64)
    ids[:, : template.length] = torch.tensor(template.token_ids)
    # A learned context differs by row.
    ids[:, template.context_start] = torch.tensor([1, 2, 3])
    full = tower.encode_tokens(ids)
    short = tower.encode_tokens(ids[:, : template.length])
    torch.testing.assert_close(short, full, rtol=0, atol=1e-12)
    embeddings = tower.token_embedding(ids) + tower.positional_embedding
    for eot in (template.eot, torch.full((3,), template.eot)):
        for length in (77, template.length):
            again = tower.encode_embeddings(embeddings[:, :length], eot)
            torch.testing.assert_close(again, full, rtol=0, atol=1e-12)
    assert full.std(dim=0).min() > 1e-6


def test_tokens_after_eot_get_no_gradient(tower):
    x = torch.randn(2, 9, 32, dtype=torch.float64, requires_grad=True)
    tower.encode_embeddings(x, torch.tensor([4, 6])).sum().backward()
    assert x.grad[0, 5:].abs().max() == 0 and x.grad[1, 7:].abs().max() == 0
    assert x.grad[0, 4].abs().max() > 0 and x.grad[1, 0].abs().max() > 0


def test_half_precision_norms_are_computed_in_float32(tower):
    from vireid_fast.clip.transformer import LayerNorm

    norm = LayerNorm(8)
    # The squares overflow float16.
    x = torch.linspace(-6e4, 6e4, 8).half().unsqueeze(0)
    out = norm(x)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out, norm(x.float()).half())


def test_empty_batch(tower):
    assert tower.encode_tokens(torch.zeros(0, 5, dtype=torch.int64).clone()).shape == (0, 256)


def test_rejects_bad_input(tower):
    x = torch.zeros(2, 5, 32, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"eot must lie in 0\.\.4, got 5"):
        tower.encode_embeddings(x, 5)
    with pytest.raises(ValueError, match=r"eot must have shape \(2,\), got \(3,\)"):
        tower.encode_embeddings(x, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"eot must be int64, got torch\.int32"):
        tower.encode_embeddings(x, torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"x must have shape \(B, L, 32\), got \(2, 5, 31\)"):
        tower.encode_embeddings(x[..., :31], 0)
    with pytest.raises(ValueError, match=r"x must have 1 to 77 tokens .* got 78"):
        tower.encode_embeddings(torch.zeros(1, 78, 32, dtype=torch.float64), 0)
    with pytest.raises(TypeError, match=r"ids must be int64, got torch\.float32"):
        tower.encode_tokens(torch.zeros(2, 5))
