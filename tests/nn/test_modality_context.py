"""Modality contexts: where they start, what trains, the meta-network."""

import pytest
import torch

from vireid_fast.nn import ModalityContext

VISIBLE = torch.arange(8.0).view(4, 2)
INFRARED = -VISIBLE - 1


def test_starts_as_the_words_without_tying_to_them():
    words = VISIBLE.clone().requires_grad_()
    context = ModalityContext(words, INFRARED)
    assert torch.equal(context("visible"), VISIBLE) and torch.equal(context("infrared"), INFRARED)
    with torch.no_grad():
        words.zero_()
    assert torch.equal(context("visible"), VISIBLE)


def test_each_context_gets_its_own_gradient():
    context = ModalityContext(VISIBLE, INFRARED)
    (3 * context("infrared")).sum().backward()
    assert context.visible.grad is None
    assert torch.equal(context.infrared.grad, torch.full((4, 2), 3.0))


def test_fixed_words_are_saved_and_never_trained():
    fixed, learned = (
        ModalityContext(VISIBLE, INFRARED, fixed=True),
        ModalityContext(INFRARED, VISIBLE),
    )
    assert list(fixed.parameters()) == [] and not fixed("visible").requires_grad
    assert fixed.state_dict().keys() == learned.state_dict().keys()
    learned.load_state_dict(fixed.state_dict())
    assert torch.equal(learned("infrared"), INFRARED)


def test_meta_network_starts_without_effect_and_follows_its_formula():
    context = ModalityContext(VISIBLE, INFRARED, image_width=32)
    features = torch.randn(3, 32)
    assert torch.equal(context("visible", features), VISIBLE.expand(3, 4, 2))
    first, _, last = context.meta_network
    assert first.weight.shape == (2, 32)
    with torch.no_grad():
        last.weight.normal_()
        last.bias.normal_()
    tokens = context("infrared", features)
    for row, x in zip(tokens, features, strict=True):
        hidden = (first.weight @ (x / x.norm()) + first.bias).clamp_min(0)
        expected = INFRARED + (last.weight @ hidden + last.bias)
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(context("infrared", 7 * features), tokens)
    tokens.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in context.meta_network.parameters())


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="modality must be one of"):
        ModalityContext(VISIBLE, INFRARED)("thermal")
    with pytest.raises(ValueError, match=r"infrared must have shape \(4, 2\), got \(3, 2\)"):
        ModalityContext(VISIBLE, INFRARED[:3])
    with pytest.raises(ValueError, match="image_width must be None for fixed words, got 8"):
        ModalityContext(VISIBLE, INFRARED, fixed=True, image_width=8)
    with pytest.raises(ValueError, match="projected must be given for the meta-network, got None"):
        ModalityContext(VISIBLE, INFRARED, image_width=8)("visible")
