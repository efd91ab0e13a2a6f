"""The layers one by one: names, state dict and function of what they replace."""

import copy

import foreign_models
import pytest
import torch
from foreign_models import CLIP, CONTEXT, TEMPLATE, WIDTH, make_ids

from vireid_fast import accelerate, dropin


@pytest.fixture
def clip_model() -> CLIP:
    return CLIP().double()


def template() -> torch.Tensor:
    ids = torch.zeros(1, CONTEXT, dtype=torch.int64)
    ids[0, : len(TEMPLATE)] = torch.tensor(TEMPLATE)
    return ids


def test_prompt_learner_equals_the_one_it_replaces(clip_model):
    theirs = foreign_models.PromptLearner(6, torch.float64, clip_model.token_embedding)
    mine = dropin.PromptLearner(6, template(), clip_model.token_embedding)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    mine.load_state_dict(theirs.state_dict())
    labels = torch.tensor([5, 0, 5, 2])
    assert torch.equal(mine(labels), theirs(labels))
    assert torch.equal(mine.tokenized_prompts, theirs.tokenized_prompts)
    direction = torch.randn(4, CONTEXT, WIDTH, dtype=torch.float64)
    for learner in (mine, theirs):
        learner(labels).backward(direction)
    torch.testing.assert_close(mine.cls_ctx.grad, theirs.cls_ctx.grad, rtol=1e-12, atol=1e-12)


def test_text_encoder_equals_the_one_it_replaces(clip_model):
    theirs = foreign_models.TextEncoder(clip_model)
    learner = dropin.PromptLearner(6, template(), clip_model.token_embedding)
    mine = dropin.TextEncoder(clip_model, [learner])
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    labels = torch.tensor([5, 0, 5, 2])
    outputs, gradients = [], []
    for encoder in (mine, theirs):
        learner.zero_grad(), encoder.zero_grad()
        out = encoder(learner(labels), learner.tokenized_prompts)
        out.square().sum().backward()
        outputs.append(out)
        parameters = [learner.cls_ctx, *encoder.parameters()]
        gradients.append([p.grad.clone() for p in parameters])
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_rows_of_different_lengths(clip_model):
    mine, theirs = dropin.TextEncoder(clip_model), foreign_models.TextEncoder(clip_model)
    prompts = torch.randn(4, CONTEXT, WIDTH, dtype=torch.float64, requires_grad=True)
    ids = make_ids(4)
    torch.testing.assert_close(mine(prompts, ids), theirs(prompts, ids), rtol=1e-12, atol=1e-12)
    ids[0] = ids[1]
    torch.testing.assert_close(mine(prompts, ids), theirs(prompts, ids), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("change", ["one row", "leaf", "own prefix", "nan"])
def test_a_prefix_that_is_not_shared_is_not_taken_for_shared(clip_model, change):
    learner = dropin.PromptLearner(6, template(), clip_model.token_embedding)
    mine = dropin.TextEncoder(clip_model, [learner])
    theirs = foreign_models.TextEncoder(clip_model)
    prompts = learner(torch.arange(4)).detach().clone()
    if change == "one row":
        prompts[2, 3, 0] += 1e-9
    elif change == "own prefix":
        prompts[:, :5] = torch.randn(4, 5, WIDTH, dtype=torch.float64)
    elif change == "nan":
        prompts[1, 0, 0] = torch.nan
    results = []
    for encoder in (mine, theirs):
        leaf = prompts.clone().requires_grad_()
        out = encoder(leaf if change == "leaf" else leaf * 1, learner.tokenized_prompts)
        out.square().sum().backward()
        # Padding after EOT gets no gradient, but NaN from NaN in the plain form.
        results.append((out, leaf.grad[:, : len(TEMPLATE)]))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_ids_changed_in_place_are_read_again(clip_model):
    mine, theirs = dropin.TextEncoder(clip_model), foreign_models.TextEncoder(clip_model)
    prompts, ids = torch.randn(2, CONTEXT, WIDTH, dtype=torch.float64), template()
    for _ in range(2):
        torch.testing.assert_close(mine(prompts, ids), theirs(prompts, ids), rtol=1e-12, atol=1e-12)
        ids[0, 15] = 60


def test_copies_and_accelerate(clip_model):
    learner = dropin.PromptLearner(3, template(), clip_model.token_embedding)
    mine = dropin.TextEncoder(clip_model, [learner])
    twin = copy.deepcopy(mine)
    prompts = learner(torch.arange(3))
    assert torch.equal(twin(prompts, template()), mine(prompts, template()))
    assert accelerate(mine).left[0].detail == "it is a fast layer of its own"


def test_attention_pool_loads_openai_weights():
    theirs = foreign_models.AttentionPool2d(9, WIDTH, 4, 8)
    mine = dropin.AttentionPool2d(3, WIDTH, 4, 8)
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(2, WIDTH, 3, 3)
    torch.testing.assert_close(mine(x), theirs(x))


def test_rejects_bad_arguments(clip_model):
    table = clip_model.token_embedding
    with pytest.raises(ValueError, match=r"num_class must be at least 1, got 0"):
        dropin.PromptLearner(0, template(), table)
    with pytest.raises(TypeError, match=r"tokenized_prompts must be int64"):
        dropin.PromptLearner(2, template().int(), table)
    with pytest.raises(ValueError, match=r"n_ctx must leave EOT after the learned tokens, got 8"):
        dropin.PromptLearner(2, template(), table, n_ctx=8)
    encoder = dropin.TextEncoder(clip_model)
    prompts = torch.zeros(2, CONTEXT, WIDTH, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"prompts must have shape \(B, 20, 32\)"):
        encoder(prompts[:, :5], template())
    with pytest.raises(ValueError, match=r"tokenized_prompts must have shape"):
        encoder(prompts, template()[:, :5])
    with pytest.raises(ValueError, match=r"tokenized_prompts must have 1 or B rows, got 3"):
        encoder(prompts, template().repeat(3, 1))
    with pytest.raises(ValueError, match=r"tokenized_prompts must have EOT, the largest id"):
        encoder(prompts, torch.zeros_like(template()))
    with pytest.raises(TypeError, match=r"tokenized_prompts must be int64"):
        encoder(prompts, template().float())
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\)"):
        dropin.PromptLearner(2, template(), table)(torch.tensor([2]))
    with pytest.raises(NotImplementedError, match="causal"):
        dropin.TextEncoder(CLIP(mask=False))
