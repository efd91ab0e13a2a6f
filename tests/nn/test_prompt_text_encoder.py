"""The shortcut equals our full tower, gradients included, whatever the prompts share."""

import copy

import pytest
import torch
from text_tower_oracles import grouped, learned_prompts, our_tower, padded_ids

from vireid_fast.clip import TEMPLATES
from vireid_fast.nn import PromptGroup, PromptTextEncoder

# A few roundings of float64 through three blocks.
EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(1)
    return our_tower()


@pytest.fixture(scope="module")
def encoder(tower):
    return PromptTextEncoder(tower)


def full(tower, prompts):
    """The tower at 77 tokens, whatever stands after EOT."""
    count, length, width = prompts.shape
    noise = torch.randn(count, 77 - length, width, dtype=prompts.dtype)
    eot = torch.full((count,), length - 1)
    return tower.encode_embeddings(torch.cat([prompts, noise], dim=1), eot)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_group_equals_full_tower(tower, name, count, backend):
    prompts = learned_prompts(tower, TEMPLATES[name], count)
    group = grouped(prompts, TEMPLATES[name])
    actual = PromptTextEncoder(tower, backend=backend)(group)
    torch.testing.assert_close(actual, full(tower, prompts), **EXACT)


@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("block", [None, 1, 4, 7, 100])
def test_templates_of_one_call_equal_full_tower(tower, with_ids, block):
    groups, expected = [], []
    for count, template in zip((3, 1, 0, 6), TEMPLATES.values(), strict=True):
        prompts = learned_prompts(tower, template, max(1, count))[:count]
        group = grouped(learned_prompts(tower, template, 1), template)
        suffix = prompts[:, template.context_start :]
        groups.append(group._replace(suffix=suffix))
        if not with_ids:
            groups[-1] = groups[-1]._replace(prefix_ids=None)
        expected.append(full(tower, prompts))
    for actual, want in zip(PromptTextEncoder(tower, block=block)(groups), expected, strict=True):
        torch.testing.assert_close(actual, want, **EXACT)


def random_group(prefix, count, length, ids=None, width=32):
    """Rows of a prefix follow from its ids, as equal ids promise equal rows."""
    ids = tuple(ids if ids is not None else range(prefix))
    rows = [torch.sin(torch.arange(width) * (1.3 + i) + p).double() for p, i in enumerate(ids)]
    rows = torch.stack(rows) if rows else torch.zeros(0, width, dtype=torch.float64)
    return PromptGroup(rows, torch.randn(count, length, width, dtype=torch.float64), ids)


@pytest.mark.parametrize(
    ("prefix", "count", "length"),
    [(0, 3, 1), (0, 1, 77), (76, 2, 1), (5, 1, 1), (1, 2, 76), (0, 4, 9)],
)
def test_extreme_shapes_equal_full_tower(tower, encoder, prefix, count, length):
    group = random_group(prefix, count, length)
    prompts = torch.cat([group.prefix.expand(count, -1, -1), group.suffix], dim=1)
    torch.testing.assert_close(encoder(group), full(tower, prompts), **EXACT)


def test_trie_of_several_levels_equals_full_tower(tower, encoder):
    prefixes = [(1, 2, 3, 4), (1, 2, 3, 5, 6), (1, 2), (), (9,), (1, 2, 3, 4), (1, 8, 3)]
    groups = [random_group(len(p), 2 + i, 1 + i, p) for i, p in enumerate(prefixes)]
    for actual, group in zip(encoder(groups), groups, strict=True):
        prompts = torch.cat(
            [group.prefix.expand(len(group.suffix), -1, -1), group.suffix], dim=1
        )
        torch.testing.assert_close(actual, full(tower, prompts), **EXACT)


def test_gradients_equal_full_tower(tower):
    """To learned tokens, to a learned shared prefix, and to every weight of the tower."""
    template = TEMPLATES["person"]
    prompts = learned_prompts(tower, template, 4)
    start = template.context_start
    weight = torch.randn(4, 24, dtype=torch.float64)
    results = []
    for encode in (
        lambda prefix, suffix, own: PromptTextEncoder(own, block=3)(PromptGroup(prefix, suffix)),
        lambda prefix, suffix, own: full(
            own, torch.cat([prefix.expand(len(suffix), -1, -1), suffix], dim=1)
        ),
    ):
        own = copy.deepcopy(tower)
        prefix = prompts[0, :start].clone().requires_grad_()
        suffix = prompts[:, start:].clone().requires_grad_()
        (encode(prefix, suffix, own) * weight).sum().backward()
        grads = {"prefix": prefix.grad, "suffix": suffix.grad}
        grads |= {n: p.grad for n, p in own.named_parameters() if p.grad is not None}
        results.append(grads)
    assert results[0].keys() == results[1].keys() and len(results[0]) > 30
    for name, want in results[1].items():
        largest = max(1.0, want.abs().max().item())
        torch.testing.assert_close(results[0][name] / largest, want / largest, **EXACT)


def test_learned_prefixes_with_equal_ids_get_their_own_gradients(encoder):
    group = random_group(3, 2, 2)
    first, second = (group.prefix.clone().requires_grad_() for _ in range(2))
    groups = [group._replace(prefix=first), group._replace(prefix=second)]
    torch.cat(encoder(groups)).sum().backward()
    alone = group.prefix.clone().requires_grad_()
    encoder(group._replace(prefix=alone)).sum().backward()
    torch.testing.assert_close(first.grad, alone.grad, **EXACT)
    torch.testing.assert_close(second.grad, alone.grad, **EXACT)
    alone.grad = None
    groups = [group._replace(prefix=alone), group._replace(prefix=alone)]
    torch.cat(encoder(groups)).sum().backward()
    torch.testing.assert_close(alone.grad, 2 * first.grad, **EXACT)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_gradcheck(activation):
    tiny = our_tower(width=4, heads=2, layers=2, context_length=6, projected_width=3,
                     vocabulary_size=9, activation=activation)  # fmt: skip
    tiny.requires_grad_(False)
    encoder = PromptTextEncoder(tiny)
    prefix = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    suffix = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, s: encoder(PromptGroup(p, s)), (prefix, suffix))


@pytest.mark.parametrize("backend", ["fused", "reference"])
@torch.no_grad()
def test_tokens_equal_full_tower(tower, backend):
    encoder = PromptTextEncoder(tower, backend=backend)
    ids = padded_ids()[torch.tensor([3, 0, 11, 3, 7, 5, 1])]
    expected = tower.encode_tokens(ids)
    torch.testing.assert_close(encoder.encode_tokens(ids), expected, **EXACT)
    # Padding may be any token.
    ids[:, 17:] = 49407
    torch.testing.assert_close(encoder.encode_tokens(ids[:, :20]), expected, **EXACT)
    assert encoder.encode_tokens(ids[:0]).shape == (0, 24)


def test_token_gradients_equal_full_tower(tower):
    ids = padded_ids(("person", "visible"))[[0, 1, 0, 4]]
    results = []
    for encode in (lambda own: PromptTextEncoder(own).encode_tokens(ids),
                   lambda own: own.encode_tokens(ids)):  # fmt: skip
        own = copy.deepcopy(tower)
        encode(own).square().sum().backward()
        results.append([own.token_embedding.weight.grad, own.positional_embedding.grad])
    for actual, want in zip(*results, strict=True):
        torch.testing.assert_close(actual, want, **EXACT)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("shared", [0, 1, 5])
def test_embeddings_equal_full_tower(tower, backend, shared):
    encoder = PromptTextEncoder(tower, backend=backend)
    prompts = learned_prompts(tower, TEMPLATES["person"], 4)
    prompts = torch.cat([prompts, torch.randn(4, 3, 32, dtype=torch.float64)], dim=1)
    for eot in (11, 5, torch.full((4,), 11), torch.tensor([11, 5, 7, 5])):
        actual = encoder.encode_embeddings(prompts, eot, shared)
        torch.testing.assert_close(actual, tower.encode_embeddings(prompts, eot), **EXACT)
    assert encoder.encode_embeddings(prompts[:0], 11, shared).shape == (0, 24)


def test_gradient_of_expanded_prefix_is_exact(tower, encoder):
    prompts = learned_prompts(tower, TEMPLATES["person"], 3)
    results = []
    for encode in (lambda x: encoder.encode_embeddings(x, 11, 5),
                   lambda x: tower.encode_embeddings(x, 11)):  # fmt: skip
        prefix = prompts[0, :5].clone().requires_grad_()
        encode(torch.cat([prefix.expand(3, -1, -1), prompts[:, 5:]], dim=1)).sum().backward()
        results.append(prefix.grad)
    torch.testing.assert_close(*results, **EXACT)


def test_strided_and_expanded_inputs(tower, encoder):
    group = random_group(3, 4, 5)
    strided = group._replace(
        prefix=group.prefix.t().contiguous().t(),
        suffix=group.suffix.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    )
    torch.testing.assert_close(encoder(strided), encoder(group), **EXACT)
    expanded = group._replace(suffix=group.suffix[:1].expand(4, -1, -1))
    torch.testing.assert_close(encoder(expanded), encoder(group)[:1].expand(4, -1), **EXACT)


@torch.no_grad()
def test_nan_stays_in_its_prompt_and_template(encoder):
    groups = [random_group(3, 3, 4, (1, 2, 3)), random_group(2, 2, 4, (1, 7))]
    clean = encoder(groups)
    groups[0].suffix[1, 2, 5] = float("nan")
    spoiled = encoder(groups)
    assert spoiled[0][1].isnan().all()
    torch.testing.assert_close(spoiled[0][[0, 2]], clean[0][[0, 2]], **EXACT)
    groups[0].prefix[2] = float("nan")
    spoiled = encoder(groups)
    assert spoiled[0].isnan().all()
    torch.testing.assert_close(spoiled[1], clean[1], **EXACT)


@torch.no_grad()
def test_float32_errs_no_more_than_the_full_tower(tower, device):
    single = copy.deepcopy(tower).float().to(device)
    prompts = learned_prompts(tower, TEMPLATES["day_night"], 6)
    exact = full(tower, prompts)
    group = grouped(prompts.float().to(device), TEMPLATES["day_night"])
    error = (PromptTextEncoder(single)(group).cpu() - exact).abs().max()
    plain = PromptTextEncoder(single, backend="reference")(group).cpu()
    assert error <= 2 * (plain - exact).abs().max() + 4e-7 * exact.abs().max()


@torch.no_grad()
def test_autocast_bfloat16(tower):
    single = copy.deepcopy(tower).float()
    prompts = learned_prompts(tower, TEMPLATES["person"], 6)
    exact = full(tower, prompts)
    encoder = PromptTextEncoder(single)
    group = grouped(prompts.float(), TEMPLATES["person"])
    with torch.autocast("cpu", torch.bfloat16):
        actual = encoder(group)
        plain = PromptTextEncoder(single, backend="reference")(group)
    assert actual.dtype == plain.dtype == torch.bfloat16
    budget = 2 * (plain - exact).abs().max() + 2**-7 * exact.abs().max()
    assert (actual - exact).abs().max() <= budget


def test_backward_under_autocast(tower):
    encoder = PromptTextEncoder(copy.deepcopy(tower).float())
    group = grouped(learned_prompts(tower, TEMPLATES["person"], 2).float(), TEMPLATES["person"])
    suffix = group.suffix.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        encoder(group._replace(suffix=suffix)).float().sum().backward()
    exact = group.suffix.clone().requires_grad_()
    encoder(group._replace(suffix=exact)).sum().backward()
    # Eight bits of mantissa through three blocks and back.
    assert (suffix.grad - exact.grad).norm() <= 0.05 * exact.grad.norm()


def test_compiles_whole(tower):
    own = copy.deepcopy(tower).requires_grad_(False)
    encoder = PromptTextEncoder(own)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (3, 5):
        template = TEMPLATES["person"]
        groups = [grouped(learned_prompts(own, t, count), t)
                  for t in (template, TEMPLATES["visible"])]  # fmt: skip
        results = []
        for run in (compiled, encoder):
            suffixes = [g.suffix.clone().requires_grad_() for g in groups]
            out = torch.cat(run([g._replace(suffix=s)
                                 for g, s in zip(groups, suffixes, strict=True)]))  # fmt: skip
            out.sum().backward()
            results.append([out, *(s.grad for s in suffixes)])
        for actual, want in zip(*results, strict=True):
            torch.testing.assert_close(actual, want, **EXACT)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_tokens_and_embeddings_compile_whole(tower, backend):
    own = copy.deepcopy(tower).requires_grad_(False)
    encoder = PromptTextEncoder(own, backend=backend)
    ids = padded_ids()[:4]
    tokens = torch.compile(encoder.encode_tokens, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(tokens(ids), own.encode_tokens(ids), **EXACT)
    prompts = learned_prompts(own, TEMPLATES["person"], 4)
    embeddings = torch.compile(encoder.encode_embeddings, fullgraph=True, backend="aot_eager")
    for eot in (11, torch.tensor([11, 3, 0, 11])):
        want = own.encode_embeddings(prompts, eot)
        torch.testing.assert_close(embeddings(prompts, eot), want, **EXACT)


def test_same_result_again_and_for_any_thread_count(encoder):
    from vireid_fast.testing import limit_threads

    group = random_group(4, 9, 6)
    first = encoder(group)
    assert torch.equal(encoder(group), first)
    with limit_threads(2):
        torch.testing.assert_close(encoder(group), first, **EXACT)


def test_tower_is_not_registered(tower):
    encoder = PromptTextEncoder(tower)
    assert not encoder.state_dict() and not list(encoder.parameters())
    assert not list(encoder.children())
    model = torch.nn.ModuleDict({"text": copy.deepcopy(tower)})
    model["encoder"] = PromptTextEncoder(model["text"])
    again = copy.deepcopy(model)
    assert again["encoder"].view.tower is again["text"]


def test_empty_calls(encoder):
    assert encoder([]) == []
    group = random_group(3, 0, 4)
    assert encoder(group).shape == (0, 24)
    assert [f.shape for f in encoder([group, random_group(1, 2, 3)])] == [(0, 24), (2, 24)]


def test_rejects_bad_groups(encoder):
    good = random_group(3, 2, 4)
    bad = [
        (ValueError, r"prefix must have shape \(P, 32\), got \(3, 31\)",
         good._replace(prefix=good.prefix[:, :31])),
        (ValueError, r"suffix must have shape \(B, T, 32\)", good._replace(suffix=good.prefix)),
        (ValueError, r"suffix must have at least 1 token, which is EOT",
         good._replace(suffix=good.suffix[:, :0])),
        (ValueError, r"prefix and suffix must have 1 to 77 tokens .* got 78",
         good._replace(suffix=good.suffix[:, :1].expand(2, 75, 32))),
        (TypeError, r"suffix must be float64, got torch\.float32",
         good._replace(suffix=good.suffix.float())),
        (ValueError, r"prefix_ids must name the 3 tokens of the prefix, got 2 ids",
         good._replace(prefix_ids=(1, 2))),
        (ValueError, r"prefix and tower must be on one device",
         good._replace(prefix=good.prefix.to("meta"))),
    ]  # fmt: skip
    for error, match, group in bad:
        with pytest.raises(error, match=match):
            encoder(group)
    with pytest.raises(TypeError, match=r"groups must hold PromptGroup only, got Tensor"):
        encoder([good.suffix])


def test_rejects_bad_tokens_and_embeddings(tower, encoder):
    ids = padded_ids()[:3]
    without = ids.clone()
    without[1, 11] = 5
    prompts = torch.randn(2, 6, 32, dtype=torch.float64)
    calls = [
        (ValueError, r"ids must have EOT \(id 49407\) in each row, got none in row 1",
         lambda: encoder.encode_tokens(without)),
        (TypeError, r"ids must be int64", lambda: encoder.encode_tokens(ids.int())),
        (ValueError, r"ids must have 1 to 77 tokens",
         lambda: encoder.encode_tokens(ids.repeat(1, 2))),
        (ValueError, r"eot must lie in 0\.\.5, got 6",
         lambda: encoder.encode_embeddings(prompts, 6)),
        (ValueError, r"eot must lie in 0\.\.5, got -1",
         lambda: encoder.encode_embeddings(prompts, torch.tensor([3, -1]))),
        (TypeError, r"eot must be an int or an int64 tensor, got float",
         lambda: encoder.encode_embeddings(prompts, 2.0)),
        (ValueError, r"shared must lie in 0\.\.4 \(EOT\), got 5",
         lambda: encoder.encode_embeddings(prompts, 4, shared=5)),
        (ValueError, r"prompts must be equal in their first 2 tokens",
         lambda: encoder.encode_embeddings(prompts, 4, shared=2)),
        (ValueError, r"backend must be one of", lambda: PromptTextEncoder(tower, backend="fast")),
        (ValueError, r"block must be at least 1", lambda: PromptTextEncoder(tower, block=0)),
    ]  # fmt: skip
    for error, match, call in calls:
        with pytest.raises(error, match=match):
            call()
    unknown = PromptTextEncoder(our_tower(vocabulary_size=50))
    with pytest.raises(ValueError, match=r"ids must have EOT \(an id above 0\)"):
        unknown.encode_tokens(torch.zeros(2, 5, dtype=torch.int64))
