"""Towers of other makes: equal to their own code, or refused with all reasons."""

import pytest
import torch
from text_tower_oracles import (
    WIDTH,
    OpenAITower,
    PostNormBlock,
    huggingface_tower,
    our_tower,
    padded_ids,
)
from torch import nn

from vireid_fast.clip import TEMPLATES
from vireid_fast.nn import PromptGroup, PromptTextEncoder, check_tower

# A few roundings of float64 through three blocks.
EXACT = {"rtol": 0, "atol": 1e-12}
BACKENDS = ["fused", "reference"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"activation": nn.GELU()}], ids=str)
@torch.no_grad()
def test_openai_tower_equals_its_own_code(options, backend):
    tower = OpenAITower(**options)
    encoder = PromptTextEncoder(tower, backend=backend)
    ids = padded_ids()
    expected = tower.encode_text(ids)
    torch.testing.assert_close(encoder.encode_tokens(ids), expected, **EXACT)
    groups = []
    for index, template in enumerate(TEMPLATES.values()):
        own = ids[3 * index : 3 * index + 3, : template.length]
        x = tower.token_embedding(own) + tower.positional_embedding[: template.length]
        start = template.context_start
        groups.append(PromptGroup(x[0, :start], x[:, start:], template.token_ids[:start]))
    torch.testing.assert_close(torch.cat(encoder(groups)), expected, **EXACT)


def test_openai_tower_gradient_equals_its_own_code():
    tower = OpenAITower()
    embeddings = tower.token_embedding(padded_ids(("person",), 4)).detach()
    context = embeddings[:, 5:9].clone().requires_grad_()
    eot = torch.full((4,), 11)
    x = torch.cat([embeddings[:, :5], context, embeddings[:, 9:]], dim=1)
    weights = [p for p in tower.parameters() if p is not tower.token_embedding.weight]
    wanted = torch.autograd.grad(tower.encode_prompts(x, eot).square().sum(), [context, *weights])
    x = torch.cat([embeddings[:, :5], context, embeddings[:, 9:]], dim=1)
    x = x + tower.positional_embedding
    features = PromptTextEncoder(tower).encode_embeddings(x, 11, shared=5)
    actual = torch.autograd.grad(features.square().sum(), [context, *weights])
    for one, want in zip(actual, wanted, strict=True):
        largest = max(1.0, want.abs().max().item())
        torch.testing.assert_close(one / largest, want / largest, **EXACT)


def test_openai_text_encoder_without_token_table():
    tower = OpenAITower()
    del tower.token_embedding
    encoder = PromptTextEncoder(tower)
    with pytest.raises(NotImplementedError, match="tower must have a token_embedding"):
        encoder.encode_tokens(padded_ids())
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    plain = PromptTextEncoder(tower, backend="reference").encode_embeddings(x, 7)
    torch.testing.assert_close(encoder.encode_embeddings(x, 7), plain, **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("eos", [49407, 2, 269])
@pytest.mark.parametrize("name", ["CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"])
@torch.no_grad()
def test_huggingface_tower_equals_its_own_code(name, eos, backend):
    pytest.importorskip("transformers", reason="transformers is the oracle here")
    tower = huggingface_tower(name, eos_token_id=eos)
    ids = padded_ids(("visible", "person", "infrared"))
    if name == "CLIPModel":
        expected = tower.get_text_features(ids)
        expected = getattr(expected, "pooler_output", expected)
    else:
        out = tower(ids)
        expected = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
    encoder = PromptTextEncoder(tower, backend=backend)
    torch.testing.assert_close(encoder.encode_tokens(ids), expected, **EXACT)
    padding = (ids != 0).long()
    torch.testing.assert_close(encoder.encode_tokens(ids, padding), expected, **EXACT)


def test_huggingface_attention_over_padding_is_refused():
    pytest.importorskip("transformers", reason="transformers is the oracle here")
    encoder = PromptTextEncoder(huggingface_tower())
    ids = padded_ids(("person",))
    mask = torch.ones_like(ids)
    mask[1, 0] = 0
    with pytest.raises(NotImplementedError, match=r"attention_mask must show all .* row 1"):
        encoder.encode_tokens(ids, mask)
    with pytest.raises(ValueError, match=r"attention_mask must have shape \(3, 77\)"):
        encoder.encode_tokens(ids, mask[:, :5])


def test_huggingface_tower_without_eot_is_refused():
    pytest.importorskip("transformers", reason="transformers is the oracle here")
    tower = huggingface_tower()
    tower.text_model.config.eos_token_id = None
    with pytest.raises(NotImplementedError, match="EOT is unknown"):
        PromptTextEncoder(tower)


def test_huggingface_tower_that_looks_ahead_is_refused():
    pytest.importorskip("transformers", reason="transformers is the oracle here")
    tower = huggingface_tower()
    tower.text_model.config.is_causal = False
    for backend in BACKENDS:
        with pytest.raises(NotImplementedError, match="no causal mask"):
            PromptTextEncoder(tower, backend=backend)


def test_hooks_that_huggingface_leaves_behind_do_not_matter():
    pytest.importorskip("transformers", reason="transformers is the oracle here")
    tower, ids = huggingface_tower(), padded_ids(("person",))
    encoder = PromptTextEncoder(tower)
    expected = encoder.encode_tokens(ids)
    tower(ids, output_hidden_states=True)
    assert torch.equal(encoder.encode_tokens(ids), expected)


def test_huggingface_attention_dropout_is_refused_while_training():
    pytest.importorskip("transformers", reason="transformers is the oracle here")
    tower = huggingface_tower(attention_dropout=0.1)
    check_tower(tower)
    with pytest.raises(NotImplementedError, match=r"dropout is active: encoder\.layers\.0"):
        check_tower(tower.train())


class ScaledMlp(nn.Sequential):
    def forward(self, x):
        return 1.01 * super().forward(x)


def with_scaled_mlp(tower):
    tower.transformer.resblocks[1].mlp.__class__ = ScaledMlp
    return tower


def with_adapter(tower):
    # Adapters start as zero, so that a probe would not find them.
    tower.transformer.resblocks[2].adapter = nn.Linear(WIDTH, WIDTH)
    return tower


def with_low_rank_layer(tower):
    class LowRank(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    tower.transformer.resblocks[0].mlp.c_fc.__class__ = LowRank
    return tower


def with_hook(tower):
    tower.transformer.resblocks[1].mlp.register_forward_hook(lambda *_: None)
    return tower


def with_replaced_forward(tower):
    norm = tower.ln_final
    norm.forward = norm.forward
    return tower


def with_soft_mask(tower):
    tower.transformer.resblocks[1].attn_mask = torch.full((77, 77), -1.0).triu(1)
    return tower


def with_strange_mlp(tower):
    tower.transformer.resblocks[0].mlp = nn.Linear(WIDTH, WIDTH).double()
    return tower


REFUSED = {
    "no mask": (lambda: OpenAITower(mask=None), r"no causal mask: .*\.0\.attn_mask is None"),
    "soft mask": (lambda: with_soft_mask(OpenAITower()), "attn_mask is not the causal one"),
    "short mask": (lambda: OpenAITower(mask=torch.zeros(5, 5)), r"has shape \(5, 5\)"),
    "post-norm": (lambda: OpenAITower(block=PostNormBlock), "blocks do not compute"),
    "scaled": (lambda: with_scaled_mlp(OpenAITower()), "blocks do not compute"),
    "adapter": (lambda: with_adapter(OpenAITower()), r"resblocks\.2 has adapter besides"),
    "low rank": (lambda: with_low_rank_layer(OpenAITower()), r"mlp\.c_fc is a LowRank"),
    "mlp": (lambda: with_strange_mlp(OpenAITower()), r"mlp has no c_fc.*mlp has no c_proj"),
    "dropout": (lambda: OpenAITower(dropout=0.2).train(), r"resblocks\.0\.attn has rate 0\.2"),
    "hook": (lambda: with_hook(OpenAITower()), r"hooks on an inner module: .*resblocks\.1\.mlp"),
    "replaced": (lambda: with_replaced_forward(OpenAITower()), "replaced forward .* ln_final"),
    "other": (lambda: nn.Linear(3, 3), r"tower must have transformer\.resblocks"),
    "all": (
        lambda: with_hook(with_adapter(OpenAITower(mask=None, dropout=0.2).train())),
        r"(?s)\(1\) .*adapter.*no causal mask.*dropout is active.*hooks on an inner module",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_reasons(name):
    build, reason = REFUSED[name]
    with pytest.raises(NotImplementedError, match=reason):
        PromptTextEncoder(build())


def test_looks_again_at_each_call():
    tower = OpenAITower(dropout=0.2)
    encoder = PromptTextEncoder(tower)
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    encoder.encode_embeddings(x, 3)
    tower.train()
    with pytest.raises(NotImplementedError, match="dropout is active"):
        encoder.encode_embeddings(x, 3)
    tower.eval()
    handle = tower.transformer.register_forward_hook(lambda *_: None)
    with pytest.raises(NotImplementedError, match="hooks on an inner module: transformer"):
        encoder.encode_embeddings(x, 3)
    handle.remove()
    encoder.encode_embeddings(x, 3)


def test_reference_runs_what_the_shortcut_refuses():
    tower = with_hook(with_scaled_mlp(OpenAITower()))
    ids = padded_ids(("person",))
    actual = PromptTextEncoder(tower, backend="reference").encode_tokens(ids)
    torch.testing.assert_close(actual, tower.encode_text(ids), **EXACT)


def test_probe_leaves_random_state_and_training_mode():
    tower = our_tower().train()
    state = torch.get_rng_state()
    check_tower(tower)
    assert torch.equal(torch.get_rng_state(), state) and tower.training


def test_tower_without_finite_weights_is_refused():
    tower = our_tower()
    tower.transformer.resblocks[0].mlp.c_fc.weight.data.fill_(float("nan"))
    with pytest.raises(NotImplementedError, match="load its weights first"):
        check_tower(tower)
