"""CLIP4VI-ReID's model: one text per identity, features without texts."""

import pytest
import torch
import torch.nn.functional as F

from vireid_fast.clip import build_clip
from vireid_fast.clip.templates import TEMPLATES
from vireid_fast.models import CLIP4VIReID

SIZE, C = (64, 32), 5


def _model(architecture="RN-small", length=4, backend="fused"):
    torch.manual_seed(0)
    overrides = {"layer4_stride": 1} if architecture == "RN-small" else {}
    clip = build_clip(architecture, image_size=SIZE, vocabulary_size=30, **overrides)
    template = TEMPLATES["person"].with_context_length(length)
    ids = torch.arange(1, template.length + 1)
    ids[-1] = 29
    model = CLIP4VIReID(clip, C, ids, template.context_start, length, backend=backend)
    return model.double().eval(), ids


@pytest.mark.parametrize("length", [0, 1, 2, 4, 8])
def test_a_text_is_the_full_towers_text_of_the_assembled_prompt(length):
    model, ids = _model(length=length)
    labels = torch.tensor([3, 0, 3])
    table = model.text.token_embedding.weight
    rows = []
    for label in labels.tolist():
        tokens = table[ids].clone()
        if length:
            start = TEMPLATES["person"].context_start
            tokens[start : start + length] = model.prompts.context[label]
        padded = torch.zeros(77, table.shape[1], dtype=torch.float64)
        padded[: len(ids)] = tokens
        hidden = (padded + model.text.positional_embedding)[None]
        hidden = model.text.ln_final(model.text.transformer(hidden, causal=True))
        rows.append(hidden[0, len(ids) - 1] @ model.text.text_projection)
    # 77 tokens against those that count: sums in another order.
    torch.testing.assert_close(model.encode_text(labels), torch.stack(rows), rtol=1e-10, atol=1e-12)
    bank = model.text_bank(block=2)
    torch.testing.assert_close(bank[labels], model.encode_text(labels), rtol=1e-10, atol=1e-12)
    if length == 0:
        assert bool((bank == bank[0]).all())


def test_without_tokens_there_is_nothing_to_learn_in_the_prompt():
    model, _ = _model(length=0)
    assert model.prompts is None
    assert not any(name.startswith("prompts") for name in model.state_dict())


def test_texts_are_classified_by_the_classifier_of_the_images():
    model, _ = _model()
    texts = torch.randn(4, model.encoder.projected_width, dtype=torch.float64)
    norm = model.text_norm
    expected = (texts - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    expected = (expected * norm.weight + norm.bias) @ model.projected_neck.classifier.weight.T
    torch.testing.assert_close(model.text_logits(texts), expected)


@pytest.mark.parametrize("architecture", ["RN-small", "ViT-small"])
@pytest.mark.parametrize("modality", ["visible", "infrared"])
def test_features_are_those_of_the_image_and_its_mirror_image(architecture, modality):
    model, _ = _model(architecture)
    images = torch.randn(3, 3, *SIZE, dtype=torch.float64)
    found = model.test_features(images, modality)
    assert found.shape == (3, model.feature_width)
    parts = []
    for view in (images, images.flip(3)):
        pair = (view, None) if modality == "visible" else (None, view)
        f, p = model.encode_images(*pair)
        parts += [F.normalize(model.pooled_neck.norm(f).float()), F.normalize(p.float())]
    assert torch.equal(found, torch.cat(parts, 1))
    # Nothing of the texts is in them.
    with torch.no_grad():
        model.prompts.context.normal_()
    assert torch.equal(model.test_features(images, modality), found)


def test_errors():
    with pytest.raises(ValueError, match="num_identities must be positive, got 0"):
        clip = build_clip("RN-small", image_size=SIZE, vocabulary_size=30)
        CLIP4VIReID(clip, 0, torch.arange(5), 1)
    model, _ = _model()
    with pytest.raises(ValueError, match=r"modality must be one of .* got 'thermal'"):
        model.test_features(torch.zeros(1, 3, *SIZE, dtype=torch.float64), "thermal")
