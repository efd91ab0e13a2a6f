"""Tokens of the image encoder, one stem for both modalities, the modality embedding."""

import pytest
import torch

from vireid_fast.clip import TEMPLATE_WORDS, WordVocabulary, build_clip
from vireid_fast.models.two_stem import TwoStemEncoder

SIZE = (32, 16)
ARCHITECTURES = {
    "ViT-small": {"visual_width": 32, "visual_heads": 2, "visual_layers": 2, "patch_size": 8},
    "RN-small": {"visual_width": 4, "layer4_stride": 1},
}


def _encoder(name, **options):
    sizes = {"image_size": SIZE, "joint_width": 12, "text_layers": 1, **ARCHITECTURES[name]}
    clip = build_clip(name, vocabulary_size=len(WordVocabulary(TEMPLATE_WORDS)), **sizes)
    return TwoStemEncoder(clip.visual, **options).double().eval()


def _images(count):
    return torch.randn(count, 3, *SIZE, dtype=torch.float64)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_features_beside_the_tokens_are_those_of_forward(name, backend):
    encoder = _encoder(name, backend=backend)
    visible, infrared = _images(2), _images(3)
    plain, features = encoder(visible, infrared), encoder.encode_tokens(visible, infrared)
    # The class token alone, or all tokens: another order of summation.
    torch.testing.assert_close(features.pooled, plain.pooled, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(features.projected, plain.projected, rtol=1e-12, atol=1e-12)
    places = encoder.visual.grid[0] * encoder.visual.grid[1]
    assert features.tokens.shape == (5, 1 + places, 12)


def test_tokens_of_a_vit_are_projected_and_the_first_is_p():
    encoder = _encoder("ViT-small")
    images = _images(2)
    features = encoder.encode_tokens(images, None)
    trunk = encoder.visual.trunk
    tokens = trunk(encoder.visual.stem(images)).map
    for token, row in zip(tokens.unbind(1), features.tokens.unbind(1), strict=True):
        torch.testing.assert_close(row, token @ trunk.proj, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(features.tokens[:, 0], features.projected, rtol=1e-12, atol=1e-12)


def test_tokens_of_a_resnet_are_those_of_its_pool():
    encoder = _encoder("RN-small")
    images = _images(2)
    out = encoder.visual.trunk(encoder.infrared_stem(images))
    expected = encoder.visual.trunk.attnpool.project_tokens(out.map)
    assert torch.equal(encoder.encode_tokens(None, images).tokens, expected)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_stem_serves_both_modalities(name):
    encoder = _encoder(name, shared_stem=True)
    assert not any("infrared" in key for key in encoder.state_dict())
    images = _images(2)
    for output in (encoder, encoder.encode_tokens):
        for visible, infrared in zip(output(images, None), output(None, images), strict=True):
            assert torch.equal(visible, infrared)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_modality_embedding_moves_the_class_token_of_its_modality(backend):
    encoder = _encoder("ViT-small", backend=backend)
    visible, infrared = _images(2), _images(1)
    shift = torch.randn(2, 32, dtype=torch.float64)
    moved = encoder(visible, infrared, shift), encoder.encode_tokens(visible, infrared, shift)
    unmoved = encoder(visible, infrared, torch.zeros_like(shift))
    assert torch.equal(unmoved.projected, encoder(visible, infrared).projected)
    own = encoder.visual.trunk.class_embedding.data.clone()
    expected = []
    for row, pair in enumerate(((visible, None), (None, infrared))):
        encoder.visual.trunk.class_embedding.data = own + shift[row]
        expected.append(encoder.encode_tokens(*pair))
    for field in ("pooled", "projected"):
        want = torch.cat([getattr(features, field) for features in expected])
        for features in moved:
            torch.testing.assert_close(getattr(features, field), want, rtol=1e-12, atol=1e-12)
    want = torch.cat([features.tokens for features in expected])
    torch.testing.assert_close(moved[1].tokens, want, rtol=1e-12, atol=1e-12)


def test_modality_embedding_gets_the_gradient_of_its_own_images():
    encoder = _encoder("ViT-small")
    shift = torch.zeros(2, 32, dtype=torch.float64, requires_grad=True)
    encoder(None, _images(2), shift).projected.square().sum().backward()
    assert torch.equal(shift.grad[0], torch.zeros_like(shift.grad[0]))
    assert shift.grad[1].abs().min() > 0


def test_refuses_what_does_not_fit():
    shift = torch.zeros(2, 32, dtype=torch.float64)
    with pytest.raises(ValueError, match="modality_embedding must be None for an image tower"):
        _encoder("RN-small")(_images(1), None, shift)
    with pytest.raises(ValueError, match=r"class_shift must have shape \(1, 32\), got \(1, 31\)"):
        _encoder("ViT-small")(_images(1), None, shift[:, :31])
    with pytest.raises(ValueError, match="visible or infrared must be given, got neither"):
        _encoder("ViT-small").encode_tokens(None, None)
