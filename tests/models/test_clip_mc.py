"""CLIP-MC as a module: prompts, descriptions, slots, test features, ablations."""

import pytest
import torch
import torch.nn.functional as F

from vireid_fast.clip import TEMPLATE_WORDS, TEMPLATES, WordVocabulary, build_clip
from vireid_fast.models import CSDN
from vireid_fast.models.clip_mc import ClipMC
from vireid_fast.nn import prompt_text_encoder

SIZE = (32, 16)
VOCABULARY = WordVocabulary(TEMPLATE_WORDS)
WORDS = {"visible": "a visible photo of", "infrared": "an infrared photo of"}
OTHER = {"visible": "infrared", "infrared": "visible"}
SIZES = {
    "ViT-small": {"visual_width": 32, "visual_heads": 2, "visual_layers": 2, "patch_size": 8},
    "RN-small": {"visual_width": 4, "layer4_stride": 1},
}
# Roundings of float64 through two blocks of each tower.
EXACT = {"rtol": 1e-11, "atol": 1e-11}


def _clip(name="ViT-small", **changes):
    sizes = {"vocabulary_size": len(VOCABULARY), **SIZES[name], **changes}
    return build_clip(
        name, image_size=SIZE, joint_width=12, text_width=16, text_heads=2, text_layers=2,
        **sizes,
    )  # fmt: skip


def _model(name="ViT-small", **options):
    """In evaluation mode and float64, with random values wherever training starts at a constant."""
    torch.manual_seed(3)
    model = ClipMC(_clip(name), 5, VOCABULARY, **options)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            own = key.startswith(("generator.", "context.", "modality_embedding", "compensation."))
            if own or key.endswith("bn3.weight"):
                parameter.add_(0.3 * torch.randn_like(parameter))
        if model.complete_neck is not None:
            model.complete_neck.norm.running_mean.normal_()
            model.complete_neck.norm.running_var.uniform_(0.5, 2.0)
    return model.double().eval()


def _images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *SIZE, dtype=torch.float64, generator=generator)


def _pair(images, modality):
    return (images, None) if modality == "visible" else (None, images)


def _naive_text(model, context, tokens):
    """One prompt, assembled word by word and padded to 77 tokens with noise."""
    tower = model.text
    words = [VOCABULARY.id_of("person"), VOCABULARY.id_of("."), VOCABULARY.eot]
    rows = [
        tower.token_embedding.weight[VOCABULARY.sos], *context, *tokens,
        *(tower.token_embedding.weight[word] for word in words),
    ]  # fmt: skip
    eot = len(rows) - 1
    rows += list(torch.randn(77 - len(rows), tower.width, dtype=torch.float64))
    prompt = torch.stack(rows) + tower.positional_embedding
    return tower.encode_embeddings(prompt[None], torch.tensor([eot]))[0]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize(
    "options",
    [{}, {"meta_network": True}, {"instance_prompts": False}, {"base_tokens": 2},
     {"instance_prompts": False, "meta_network": True}, {"learned_context": False}],
    ids=str,
)  # fmt: skip
def test_descriptions_equal_naive_prompts_through_the_whole_tower(name, backend, options):
    model = _model(name, backend=backend, **options)
    features = model.encode_images(_images(2), _images(1, 1))
    tokens = model.generator(features.tokens).expand(3, -1, -1)
    both = model(_images(2), _images(1, 1))
    together = {"visible": both.visible_text, "infrared": both.infrared_text}
    for modality in WORDS:
        actual = model.describe(features, modality)
        context = model.context(modality, features.projected).expand(3, -1, -1)
        expected = torch.stack(
            [_naive_text(model, c, s) for c, s in zip(context, tokens, strict=True)]
        )
        torch.testing.assert_close(actual, expected, **EXACT)
        torch.testing.assert_close(together[modality], expected, **EXACT)
    assert not torch.allclose(*together.values())


def test_contexts_start_as_their_words_in_a_word_vocabulary():
    model = ClipMC(_clip(), 5, VOCABULARY)
    for modality, text in WORDS.items():
        ids = [VOCABULARY.id_of(word) for word in text.split()]
        assert torch.equal(model.context(modality), model.text.token_embedding.weight[ids])


def test_prompts_have_clip_s_token_ids():
    model = ClipMC(_clip(vocabulary_size=49408), 5)
    assert model.start_id.tolist() == [49406]
    assert model.context_ids.tolist() == [[320, 8626, 1125, 539], [550, 22867, 1125, 539]]
    assert model.tail_ids.tolist() == [2533, 269, 49407]


def test_contexts_follow_a_text_tower_that_was_loaded_later():
    model = _model()
    with torch.no_grad():
        model.text.token_embedding.weight.normal_()
    model.reset_context()
    words = torch.tensor([VOCABULARY.id_of(word) for word in WORDS["infrared"].split()])
    assert torch.equal(model.context("infrared"), model.text.token_embedding.weight[words])


@pytest.mark.parametrize("name", SIZES)
def test_each_feature_is_in_the_slot_of_its_modality(name):
    model = _model(name)
    visible, infrared = _images(2), _images(3, 1)
    out = model(visible, infrared)
    layer = model.compensation
    own = layer.original(F.normalize(out.projected))
    as_visible = own + layer.gate * layer.compensated(F.normalize(out.visible_text))
    as_infrared = own + layer.gate * layer.compensated(F.normalize(out.infrared_text))
    expected = torch.cat(
        [torch.cat([own[:2], as_infrared[:2]], 1), torch.cat([as_visible[2:], own[2:]], 1)]
    )
    torch.testing.assert_close(out.complete, expected, **EXACT)
    for rows, pair, modality in (
        (slice(2), (visible, None), "visible"), (slice(2, 5), (None, infrared), "infrared")
    ):  # fmt: skip
        features = model.encode_images(*pair)
        missing = model.describe(features, OTHER[modality])
        z = model.complete(features.projected, missing, modality)
        torch.testing.assert_close(z, expected[rows], **EXACT)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("modality", ["visible", "infrared"])
def test_test_features_follow_the_formula(name, modality):
    model = _model(name)
    images = _images(3)
    parts = []
    for view in (images, images.flip(3)):
        features = model.encode_images(*_pair(view, modality))
        own = model.compensation.original(F.normalize(features.projected))
        missing = model.describe(features, OTHER[modality])
        other = own + model.compensation.gate * model.compensation.compensated(
            F.normalize(missing)
        )
        z = torch.cat((own, other) if modality == "visible" else (other, own), dim=1)
        norm = model.complete_neck.norm
        z = (z - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        parts += [F.normalize(z), F.normalize(features.pooled)]
    actual = model.test_features(images, modality)
    assert actual.dtype == torch.float32 and actual.shape == (3, model.feature_width)
    # The result is float32.
    torch.testing.assert_close(actual.double(), torch.cat(parts, dim=1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(actual.square().sum(1), torch.full((3,), 4.0))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("options", [{}, {"meta_network": True}, {"compensation": False}], ids=str)
def test_a_row_depends_on_no_other_row_and_not_on_the_blocks(name, options):
    model = _model(name, **options)
    images = _images(5)
    whole = model.test_features(images, "visible")
    # Both are rounded to float32 at the end.
    for block in (1, 2, 5):
        blocked = model.test_features(images, "visible", block=block)
        torch.testing.assert_close(blocked, whole, rtol=1e-6, atol=1e-6)
    for row, image in zip(whole, images, strict=True):
        alone = model.test_features(image[None], "visible")[0]
        torch.testing.assert_close(alone, row, rtol=1e-6, atol=1e-6)
    beside = model.test_features(torch.cat((images[:1], 100 * _images(4, 9))), "visible")[0]
    torch.testing.assert_close(beside, whole[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SIZES)
def test_features_of_a_modality_do_not_depend_on_data_of_the_other(name):
    model = _model(name)
    images = _images(3)
    before = model.test_features(images, "visible")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.test_features(_images(4, 7), "infrared")
    assert torch.equal(model.test_features(images, "visible"), before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    alone, beside = model(images, None), model(images, 10 * _images(2, 5))
    for own, other in zip(alone, beside, strict=True):
        torch.testing.assert_close(own, other[:3], **EXACT)


def test_what_all_prompts_begin_with_is_computed_once(monkeypatch):
    model = _model()
    rows = []
    run = prompt_text_encoder.last_tokens

    def counted(blocks, x, *others):
        rows.append(len(x))
        return run(blocks, x, *others)

    monkeypatch.setattr(prompt_text_encoder, "last_tokens", counted)
    images = _images(90)
    model.test_features(images, "infrared", block=30)
    # Start of text and four context tokens once; of each image and its mirror image the other 7.
    assert len(rows) > 1 and sum(rows) == 5 + 2 * 90 * 7
    rows.clear()
    model(images[:3], images[:4])
    assert sum(rows) == 2 * 5 + 2 * 7 * 7


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("options", [{}, {"meta_network": True}], ids=str)
def test_backends_are_one_function_with_one_state_dict(name, options):
    fused, plain = _model(name, **options), _model(name, backend="reference", **options)
    plain.load_state_dict(fused.state_dict())
    results = []
    for model in (fused, plain):
        out = model(_images(2), _images(3, 1))
        sum(part.square().sum() for part in out).backward()
        grads = [p.grad for p in model.parameters()]
        results.append([*out, *(g for g in grads if g is not None)])
    assert len(results[0]) == len(results[1])
    for own, other in zip(*results, strict=True):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(own / scale, other / scale, rtol=0, atol=1e-11)
    own, other = (model.test_features(_images(2), "visible") for model in (fused, plain))
    # float32 in the end.
    torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SIZES)
def test_gradients_reach_what_is_learned_and_not_the_frozen_tower(name):
    model = _model(name, meta_network=True)
    # Its one hidden unit must be alive.
    model.context.meta_network[0].bias.data.fill_(3.0)
    out = model(_images(2), _images(2, 1))
    sum(part.square().sum() for part in (out.complete, out.instance, out.pooled)).backward()
    for key, parameter in model.named_parameters():
        if key.startswith(("generator.", "context.", "compensation.", "encoder.", "modality_")):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, key
    assert all(p.grad is None and not p.requires_grad for p in model.text.parameters())


def test_each_description_trains_its_own_context():
    model = _model()
    features = model.encode_images(_images(2), None)
    model.describe(features, "infrared").square().sum().backward()
    assert model.context.visible.grad is None and model.context.infrared.grad.abs().min() > 0
    assert model.generator.base.grad.abs().min() > 0 and model.generator.alpha.grad.abs().min() > 0


def test_a_tuned_text_tower_trains_all_but_its_token_table():
    model = _model(tune_text=True)
    model(_images(2), _images(2, 1)).complete.square().sum().backward()
    for key, parameter in model.text.named_parameters():
        assert parameter.requires_grad == (key != "token_embedding.weight")
        assert (parameter.grad is not None) == parameter.requires_grad, key
    # Positions of the 12 tokens alone.
    used = model.text.positional_embedding.grad.abs().amax(dim=1) > 0
    assert used.nonzero()[:, 0].tolist() == list(range(12))


def test_without_instance_prompts_one_text_stands_for_all_images():
    model = _model(instance_prompts=False)
    out = model(_images(3), None)
    assert out.instance is None and out.visible_text.shape == (3, 12)
    for text in (out.visible_text, out.infrared_text):
        assert torch.equal(text, text[:1].expand(3, -1))
    out.infrared_text.sum().backward()
    assert model.generator.base.grad.abs().max() > 0
    assert model.test_features(_images(2), "visible").shape == (2, model.feature_width)


def test_without_learned_contexts_the_words_stay():
    model = ClipMC(_clip(), 5, VOCABULARY, learned_context=False)
    assert not any(key.startswith("context.") for key, _ in model.named_parameters())
    words = [VOCABULARY.id_of(word) for word in WORDS["visible"].split()]
    assert torch.equal(model.context("visible"), model.text.token_embedding.weight[words])


def test_without_compensation_p_stands_for_z_and_no_text_is_computed(monkeypatch):
    model = _model(compensation=False)
    assert model.complete_neck is None and model(_images(2), None).complete is None
    assert model.feature_width == 2 * (12 + 32)
    monkeypatch.setattr(model, "_describe", None)
    monkeypatch.setattr(model, "generator", None)
    images = _images(3)
    parts = []
    for view in (images, images.flip(3)):
        features = model.encode_images(None, view)
        parts += [F.normalize(features.projected), F.normalize(features.pooled)]
    actual = model.test_features(images, "infrared").double()
    torch.testing.assert_close(actual, torch.cat(parts, 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SIZES)
def test_takes_the_shared_parts_of_a_csdn_run(name):
    template = TEMPLATES["person"]
    ids = torch.tensor(template.ids_for(VOCABULARY))
    csdn = CSDN(
        _clip(name), 5, dict.fromkeys(WORDS, ids), dict.fromkeys(WORDS, template.context_start)
    ).eval()
    model = ClipMC(_clip(name), 5, VOCABULARY).eval()
    shared = ("encoder.", "text.", "pooled_neck.", "projected_neck.")
    theirs = csdn.state_dict()
    wanted = [key for key in model.state_dict() if key.startswith(shared)]
    model.load_state_dict({key: theirs[key] for key in wanted}, strict=False)
    visible = _images(2).float()
    for own, other in zip(
        model.encode_images(visible, None)[:2], csdn.encode_images(visible, None), strict=True
    ):
        # All tokens in the last block, or the class token alone.
        torch.testing.assert_close(own, other)


def test_modalities_of_a_vit_share_a_stem_and_start_alike():
    model = ClipMC(_clip(), 5, VOCABULARY).eval()
    images = _images(2).float()
    one, other = model.encode_images(images, None), model.encode_images(None, images)
    assert torch.equal(one.projected, other.projected)
    assert ClipMC(_clip("RN-small"), 5, VOCABULARY).modality_embedding is None


def test_published_size_has_prompts_of_12_tokens_and_1792_wide_halves():
    clip = build_clip("ViT-B/16", image_size=(288, 144), visual_layers=1, text_layers=1)
    model = ClipMC(clip, 395).eval()
    assert model.feature_width == 2 * (1024 + 768)
    features = model.encode_images(torch.randn(1, 3, 288, 144), None)
    assert features.tokens.shape == (1, 163, 512)
    assert model.generator.layers[0].cross_attention.heads == 8
    assert model.describe(features, "infrared").shape == (1, 512)


def test_trains_under_autocast():
    model = _model().float().train()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(_images(2).float(), _images(2, 1).float())
        logits = model.complete_neck(out.complete).logits
    logits.float().square().sum().backward()
    assert torch.isfinite(model.generator.base.grad).all()


def test_refuses_what_does_not_fit():
    model = _model(compensation=False)
    features = model.encode_images(_images(1), None)
    with pytest.raises(ValueError, match="describe: modality must be one of"):
        model.describe(features, "thermal")
    with pytest.raises(ValueError, match="test_features: modality must be one of"):
        model.test_features(_images(1), "thermal")
    with pytest.raises(ValueError, match="test_features: block must be at least 1, got 0"):
        model.test_features(_images(1), "visible", block=0)
    with pytest.raises(ValueError, match="compensation must be part of the model, got False"):
        model.complete(features.projected, features.projected, "visible")
    with pytest.raises(ValueError, match="complete: modality must be one of"):
        _model().complete(features.projected, features.projected, "thermal")
    with pytest.raises(ValueError, match="visible or infrared must be given, got neither"):
        model(None, None)
    with pytest.raises(ValueError, match="num_identities must be positive, got 0"):
        ClipMC(_clip(), 0, VOCABULARY)
    with pytest.raises(ValueError, match="decoder_layers must be at least 1, got 0"):
        ClipMC(_clip(), 5, VOCABULARY, decoder_layers=0)
    with pytest.raises(ValueError, match="backend must be one of"):
        ClipMC(_clip(), 5, VOCABULARY, backend="fast")
    with pytest.raises(ValueError, match="word must be one of the 2 words of the vocabulary"):
        ClipMC(_clip(), 5, WordVocabulary(["a", "photo"]))
