"""Accelerated models give every tensor the gradient that the original gives it."""

import copy

import foreign_models as foreign
import pytest
import torch
from torch import nn

from vireid_fast import accelerate


@pytest.fixture
def pair():
    torch.manual_seed(0)
    plain = foreign.ReIdModel().double()
    plain.text_encoder.dtype = torch.float64
    fast = copy.deepcopy(plain)
    assert {entry.name for entry in accelerate(fast).replaced} >= {"text_encoder", "prompt_learner"}
    return plain, fast


def _seed_backward(features):
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).to(features)
    (features * weights).sum().backward()


@pytest.mark.parametrize("through", [lambda x: x, torch.clone, lambda x: 1 * x], ids="xc*")
def test_each_prompt_gets_the_gradient_of_its_own_prefix(pair, through):
    labels, grads = torch.tensor([0, 1, 1, 3]), []
    ids = pair[0].prompt_learner.tokenized_prompts
    for model in pair:
        # By value they begin with the learner's frozen prefix, yet they want a gradient.
        prompts = pair[0].prompt_learner(labels).detach().requires_grad_()
        _seed_backward(model.text_encoder(through(prompts), ids))
        grads.append(prompts.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("keep", ["retain_grad", "hook"])
def test_prompts_that_keep_their_gradient_share_nothing(pair, keep):
    labels, grads = torch.tensor([4, 2, 2]), []
    for model in pair:
        prompts = model.prompt_learner(labels)
        if keep == "hook":
            prompts.register_hook(grads.append)
        else:
            prompts.retain_grad()
        _seed_backward(model.text_encoder(prompts, model.prompt_learner.tokenized_prompts))
        if keep == "retain_grad":
            grads.append(prompts.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-11, atol=1e-13)


def test_prompts_changed_in_place_share_nothing(pair):
    labels, grads = torch.tensor([4, 2, 2]), []
    shift = torch.randn(3, 1, foreign.WIDTH, dtype=torch.float64)
    for model in pair:
        learned = shift.clone().requires_grad_()
        prompts = model.prompt_learner(labels)
        prompts[:, :5] += learned
        _seed_backward(model.text_encoder(prompts, model.prompt_learner.tokenized_prompts))
        grads.append(learned.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-11, atol=1e-13)


class _GatedTextEncoder(nn.Module):
    """Adds what its gate lets through: nothing, before training."""

    def __init__(self, clip_model: nn.Module) -> None:
        super().__init__()
        for name in ("transformer", "positional_embedding", "ln_final", "text_projection"):
            setattr(self, name, getattr(clip_model, name))
        self.dtype = clip_model.dtype
        self.gate = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.adapter = nn.Linear(16, 16)

    def forward(self, prompts, tokenized_prompts):
        features = foreign.TextEncoder.forward(self, prompts, tokenized_prompts)
        return features + self.gate * self.adapter(features)


def test_a_part_that_is_still_zero_is_seen_by_its_gradient():
    model = _GatedTextEncoder(foreign.CLIP())
    report = accelerate(model)
    assert not report.replaced
    assert "differ" in report.left[0].detail
    assert not model.gate.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_accelerates_inside_autocast_and_inference_mode():
    for context in (torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode()):
        model = foreign.ReIdModel()
        with context:
            made_inside = foreign.ReIdModel()
            assert len(accelerate(made_inside).replaced) == 3
            report = accelerate(model)
        assert len(report.replaced) == 3, str(report)
