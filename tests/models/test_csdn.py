"""CSDN as a module: shapes, stems, texts, test features."""

import pytest
import torch
import torch.nn.functional as F

from vireid_fast.clip import TEMPLATE_WORDS, TEMPLATES, WordVocabulary, build_clip
from vireid_fast.models import CSDN
from vireid_fast.models.two_stem import TwoStemEncoder

SIZE = (64, 32)


def _csdn(architecture="RN-small", identities=5, words=("person", "person"), **overrides):
    backend = overrides.pop("backend", "fused")
    vocabulary = WordVocabulary(TEMPLATE_WORDS)
    sizes = {"image_size": SIZE, "vocabulary_size": len(vocabulary), "text_layers": 1}
    clip = build_clip(architecture, **sizes | overrides)
    templates = dict(zip(("visible", "infrared"), (TEMPLATES[name] for name in words), strict=True))
    return CSDN(
        clip,
        identities,
        {m: torch.tensor(template.ids_for(vocabulary)) for m, template in templates.items()},
        {m: template.context_start for m, template in templates.items()},
        backend=backend,
    ).eval()


def _images(count):
    return torch.randn(count, 3, *SIZE)


@pytest.mark.parametrize(
    ("architecture", "overrides", "width"),
    [("RN-small", {"layer4_stride": 1}, 512), ("ViT-small", {}, 192)],
)
def test_both_families_share_one_code_path(architecture, overrides, width):
    model = _csdn(architecture, **overrides)
    features = model.encode_images(_images(2), _images(3))
    assert features.pooled.shape == (5, width) and features.projected.shape == (5, 256)
    assert model.feature_width == 2 * (width + 256)
    assert model.test_features(_images(2), "infrared").shape == (2, model.feature_width)


def test_published_size_is_rn50_with_6144_wide_features():
    clip = build_clip("RN50", image_size=(288, 144), layer4_stride=1, text_layers=1)
    template = TEMPLATES["person"]
    ids = torch.tensor(template.token_ids)
    starts = dict.fromkeys(("visible", "infrared"), template.context_start)
    model = CSDN(clip, 395, {"visible": ids, "infrared": ids}, starts).eval()
    features = model.test_features(torch.randn(1, 3, 288, 144), "visible")
    assert features.shape == (1, 6144) == (1, model.feature_width)
    torch.testing.assert_close(features.square().sum(1), torch.tensor([4.0]))
    assert model.encode_text(torch.tensor([394]), "infrared").shape == (1, 1024)


def test_stems_start_equal_and_are_separate_while_the_trunk_is_shared():
    model = _csdn()
    images = _images(2)
    visible, infrared = model.encode_images(images, None), model.encode_images(None, images)
    assert torch.equal(visible.projected, infrared.projected)
    with torch.no_grad():
        model.encoder.infrared_stem.conv1.weight.mul_(-1)
    assert torch.equal(visible.projected, model.encode_images(images, None).projected)
    assert not torch.allclose(infrared.projected, model.encode_images(None, images).projected)
    both = model.encode_images(images, images).pooled
    torch.testing.assert_close(both[:2], visible.pooled)


def test_encoder_needs_images():
    with pytest.raises(ValueError, match="visible or infrared must be given, got neither"):
        _csdn().encode_images(None, None)


def test_test_features_follow_the_formula():
    model = _csdn()
    images = _images(3)
    parts = []
    for view in (images, images.flip(3)):
        f, p = model.encode_images(None, view)
        parts += [F.normalize(model.pooled_neck.norm(f)), F.normalize(p)]
    torch.testing.assert_close(model.test_features(images, "infrared"), torch.cat(parts, 1))
    with pytest.raises(ValueError, match="modality must be one of"):
        model.test_features(images, "thermal")


def test_texts_differ_by_identity_and_modality_and_the_tower_is_frozen():
    model = _csdn()
    labels = torch.tensor([3, 1, 3])
    texts = model.encode_text(labels, "visible")
    assert torch.equal(texts[0], texts[2]) and not torch.allclose(texts[0], texts[1])
    assert not torch.allclose(texts, model.encode_text(labels, "infrared"))
    texts.sum().backward()
    grad = model.prompts["visible"].context.grad
    assert grad[[0, 2, 4]].abs().sum() == 0 and grad[[1, 3]].abs().sum() > 0
    assert all(p.grad is None for p in model.text.parameters())


@pytest.mark.parametrize(
    "words", [("person", "person"), ("visible", "infrared"), ("day_night", "person")], ids=str
)
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_texts_of_both_modalities_together_are_those_of_each(words, backend):
    model = _csdn(words=words, backend=backend, text_layers=2).double()
    labels = torch.tensor([4, 0, 4, 2])
    for texts, modality in zip(model.encode_texts(labels), ("visible", "infrared"), strict=True):
        own = model.encode_text(labels, modality)
        torch.testing.assert_close(texts, own, rtol=1e-12, atol=1e-12)
        # The tower itself, on the assembled prompts.
        prompts = model.prompts[modality](labels)
        plain = model.text.encode_embeddings(prompts, prompts.shape[1] - 1)
        torch.testing.assert_close(texts, plain, rtol=1e-12, atol=1e-12)


def test_backends_are_one_function_with_one_state_dict():
    fused, plain = _csdn().double(), _csdn(backend="reference").double()
    plain.load_state_dict(fused.state_dict())
    images, labels = _images(2).double(), torch.tensor([3, 0])
    outputs = []
    for model in (fused, plain):
        features = model.encode_images(images, images)
        outputs.append((*features, *model.encode_texts(labels), model.integrated_bank()))
        sum(out.square().sum() for out in outputs[-1]).backward()
    for own, other in zip(*outputs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12)
    for (name, own), other in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None), name
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="backend must be one of"):
        _csdn(backend="kernel")


def test_banks_are_the_texts_of_all_identities():
    model = _csdn(identities=7)
    bank = model.text_bank("visible", block=3)
    torch.testing.assert_close(bank, model.encode_text(torch.arange(7), "visible"))
    fused = model.integrated_bank()
    torch.testing.assert_close(fused, model.integration(bank, model.text_bank("infrared")))
    assert not fused.requires_grad
    model.integration.train()
    assert not torch.allclose(fused, model.integrated_bank())


def test_two_stem_encoder_pools_maps_with_gem_only_for_convolutions():
    vocabulary = WordVocabulary(TEMPLATE_WORDS)
    sizes = {"image_size": SIZE, "vocabulary_size": len(vocabulary)}
    assert TwoStemEncoder(build_clip("ViT-small", **sizes).visual).pooling is None
    encoder = TwoStemEncoder(build_clip("RN-small", **sizes).visual)
    assert encoder.pooling.exponent.item() == 3.0
