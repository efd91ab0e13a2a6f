"""TokenInjection, and prompt groups of PromptLearner."""

import pytest
import torch

from vireid_fast.nn import PromptLearner, TokenInjection


def test_inserts_normalises_and_projects(device):
    layer = TokenInjection(8, token_width=6).to(device)
    torch.nn.init.normal_(layer.norm.weight)
    stream, tokens = torch.randn(3, 5, 8, device=device), torch.randn(3, 2, 6, device=device)
    out = layer(stream, tokens)
    expected = torch.cat([stream[:, :1], layer.projection(tokens), stream[:, 1:]], dim=1)
    torch.testing.assert_close(out.tokens, expected)
    torch.testing.assert_close(out.normalized, layer.norm(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["replace", "add"])
def test_bank_of_identities_gets_its_gradient(mode, device):
    layer = TokenInjection(4, start=2, mode=mode, norm=False).to(device)
    stream = torch.randn(3, 5, 4, device=device, requires_grad=True)
    bank = torch.randn(6, 2, 4, device=device, requires_grad=True)
    labels = torch.tensor([5, 1, 5], device=device)
    weight = torch.randn(3, 5, 4, device=device)
    (layer(stream, bank, labels) * weight).sum().backward()
    expected = torch.zeros_like(bank).index_add(0, labels, weight[:, 2:4])
    torch.testing.assert_close(bank.grad, expected)
    through = weight.clone()
    if mode == "replace":
        through[:, 2:4] = 0
    assert torch.equal(stream.grad, through)


def test_parameters_and_backends_agree(device):
    layer = TokenInjection(8, start=0).to(device)
    assert set(layer.state_dict()) == {"norm.weight", "norm.bias"}
    plain = TokenInjection(8, start=0, backend="reference").to(device)
    plain.load_state_dict(layer.state_dict())
    stream, tokens = torch.randn(2, 3, 8, device=device), torch.randn(1, 2, 8, device=device)
    for a, b in zip(layer(stream, tokens), plain(stream, tokens), strict=True):
        torch.testing.assert_close(a, b)


def test_runs_under_autocast(device):
    layer = TokenInjection(8, token_width=6).to(device)
    stream, tokens = torch.randn(2, 3, 8, device=device), torch.randn(1, 2, 6, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert layer(stream, tokens).tokens.dtype == torch.float32
        half = TokenInjection(8).to(device)(stream.bfloat16(), tokens.new_zeros(1, 1, 8))
    assert half.normalized.dtype == torch.bfloat16


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="TokenInjection: mode must be one of"):
        TokenInjection(8, mode="append")


@pytest.mark.parametrize("start", [0, 2])
def test_prompt_group_holds_the_same_prompts(start):
    learner = PromptLearner(torch.randn(8, 6), torch.randn(8, 6), 5, start=start, length=3)
    labels = torch.tensor([4, 0, 4])
    group = learner.prompt_group(labels)
    assert group.prefix.shape == (start, 6) and group.prefix_ids is None
    prefix = group.prefix.expand(3, start, 6)
    assert torch.equal(torch.cat([prefix, group.suffix], dim=1), learner(labels))
    assert set(learner.state_dict()) == {"template", "positions", "context"}


def test_prefix_ids_go_with_the_group():
    template = torch.randn(8, 6)
    learner = PromptLearner(template, template, 5, 2, 3, prefix_ids=(7, 9))
    assert learner.prompt_group(torch.tensor([1])).prefix_ids == (7, 9)
    with pytest.raises(ValueError, match="prefix_ids must hold 2 ids"):
        PromptLearner(template, template, 5, 2, 3, prefix_ids=(7,))
