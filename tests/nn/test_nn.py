"""Pooling, necks, prompts, semantic integration."""

import math

import pytest
import torch

from vireid_fast.nn import BNNeck, GeMPooling, PromptLearner, SemanticIntegration


def test_gem_equals_the_formula():
    x = torch.rand(2, 3, 4, 5) - 0.2
    pooled = GeMPooling(3.0)(x)
    expected = x.clamp_min(1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(GeMPooling(1.0)(x.abs() + 0.1), (x.abs() + 0.1).mean((2, 3)))


def test_bnneck_normalises_and_classifies():
    neck = BNNeck(6, 4)
    out = neck(torch.randn(16, 6) * 5 + 3)
    assert out.normalized.mean(0).abs().max() < 1e-5
    torch.testing.assert_close(out.logits, out.normalized @ neck.classifier.weight.T)
    assert neck.classifier.bias is None and neck.classifier.weight.std() < 0.01


def _learner(identities=5):
    return PromptLearner(torch.randn(8, 6), torch.randn(8, 6), identities, start=2, length=3)


def test_prompts_hold_template_context_and_positions():
    learner = _learner()
    labels = torch.tensor([4, 0, 4])
    out = learner(labels)
    expected = learner.template.repeat(3, 1, 1)
    expected[:, 2:5] = learner.context[labels]
    torch.testing.assert_close(out, expected + learner.positions)


def test_prompt_gradients_reach_only_used_rows_and_accumulate():
    learner = _learner()
    weights = torch.randn(3, 8, 6)
    (learner(torch.tensor([1, 3, 1])) * weights).sum().backward()
    grad = learner.context.grad
    assert grad[[0, 2, 4]].abs().sum() == 0
    torch.testing.assert_close(grad[1], weights[0, 2:5] + weights[2, 2:5])
    torch.testing.assert_close(grad[3], weights[1, 2:5])


def test_prompt_learner_refuses_no_identities():
    with pytest.raises(ValueError, match="num_identities must be at least 1, got 0"):
        _learner(0)


def _attention_as_published(module, visible, infrared):
    """One query, one key: softmax over one score."""
    q, k = torch.tanh(module.query(visible)), torch.tanh(module.key(infrared))
    v = torch.tanh(module.value(infrared))
    rows = []
    for i in range(len(visible)):
        score = (q[i] * k[i]).sum() / math.sqrt(q.shape[1])
        rows.append(torch.softmax(score[None], 0)[0] * v[i])
    return visible + module.output(torch.stack(rows))


def test_integration_equals_the_published_attention():
    module = SemanticIntegration(8, variant="published").eval()
    visible, infrared = torch.randn(4, 8), torch.randn(4, 8)
    torch.testing.assert_close(
        module(visible, infrared), _attention_as_published(module, visible, infrared)
    )


def test_published_query_and_key_get_no_gradient():
    module = SemanticIntegration(8, variant="published").eval()
    module(torch.randn(4, 8), torch.randn(4, 8)).sum().backward()
    assert module.query.weight.grad is None and module.key.weight.grad is None
    assert module.value.weight.grad is not None
    released = _attention_as_published(module, torch.randn(4, 8), torch.randn(4, 8)).sum()
    [grad] = torch.autograd.grad(released, [module.query.weight])
    assert grad.abs().max() < 1e-7


def test_bank_variant_attends_and_unknown_variant_is_refused():
    module = SemanticIntegration(8, variant="bank").eval()
    module(torch.randn(4, 8), torch.randn(4, 8)).sum().backward()
    assert module.query.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="variant must be one of"):
        SemanticIntegration(8, variant="full")
