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
        out = layer(stream, tokens)
        half = TokenInjection(8).to(device)(stream.bfloat16(), tokens.new_zeros(1, 1, 8))
    # The projection of the tokens alone is in bfloat16.
    assert out.tokens.dtype == torch.float32 and half.normalized.dtype == torch.bfloat16
    for actual, expected in zip(out, layer(stream, tokens), strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-2)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="TokenInjection: mode must be one of"):
        TokenInjection(8, mode="append")


def test_bad_sizes_are_refused():
    with pytest.raises(TypeError, match=r"TokenInjection: width must be an integer, got 8\.5"):
        TokenInjection(8.5)
    with pytest.raises(ValueError, match="start must be at least 0, got -1"):
        TokenInjection(8, start=-1)
    with pytest.raises(ValueError, match=r"tokens must have shape \(C, M, 6\), got \(2, 3, 8\)"):
        TokenInjection(8, token_width=6)(torch.zeros(2, 4, 8), torch.zeros(2, 3, 8))


def test_prompt_learner_refuses_what_does_not_fit_its_template():
    template = torch.randn(8, 6)
    for changes, match in (
        ({"start": 6}, r"start must be in \[0, 5\], so that the learned tokens stay .*, got 6"),
        ({"length": 0}, r"length must be at least 1, got 0"),
        ({"positions": template[:7]}, r"positions must have shape \(8, 6\), got \(7, 6\)"),
        ({"template": template[0]}, r"template must have shape \(L, W\), got \(6,\)"),
        ({"backend": "kernel"}, r"backend must be one of .* got 'kernel'"),
    ):
        good = {"template": template, "positions": template, "start": 2, "length": 3}
        with pytest.raises(ValueError, match=f"PromptLearner: {match}"):
            PromptLearner(num_identities=5, **{**good, **changes})


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
