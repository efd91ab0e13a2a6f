"""Image and text features equal transformers' CLIPModel with the same random weights."""

import pytest
import torch
from clip_oracles import randomise
from torch.nn import functional as F

from vireid_fast.clip import build_clip, load_weights
from vireid_fast.clip.architectures import architecture

transformers = pytest.importorskip("transformers", reason="transformers is the oracle here")

# float32 rounding of features of unit size through a few layers.
TOLERANCE = 1e-5


def small_config(activation: str = "quick_gelu"):
    return transformers.CLIPConfig(
        text_config={
            "hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3,
            "num_attention_heads": 4, "vocab_size": 60, "max_position_embeddings": 20,
            "hidden_act": activation, "eos_token_id": 59,
        },
        vision_config={
            "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3,
            "num_attention_heads": 4, "image_size": 48, "patch_size": 8, "hidden_act": activation,
        },
        projection_dim=24,
    )  # fmt: skip


def ours(config, path, image_size=None):
    vision, text = config.vision_config, config.text_config
    model = build_clip(
        "ViT-B/32",
        image_size=image_size or (vision.image_size, vision.image_size),
        patch_size=vision.patch_size,
        joint_width=config.projection_dim,
        visual_width=vision.hidden_size,
        visual_layers=vision.num_hidden_layers,
        visual_heads=vision.num_attention_heads,
        text_width=text.hidden_size,
        text_layers=text.num_hidden_layers,
        text_heads=text.num_attention_heads,
        context_length=text.max_position_embeddings,
        vocabulary_size=text.vocab_size,
        activation=text.hidden_act,
    )
    return model.eval(), load_weights(model, path)


def huggingface_model(config, path):
    model = transformers.CLIPModel(config).eval()
    randomise(model, seed=3, scale=0.15)
    model.save_pretrained(path)
    return model


def token_ids(config, length: int) -> torch.Tensor:
    eot = config.text_config.vocab_size - 1
    ids = torch.randint(1, eot, (5, length))
    ids[torch.arange(5), torch.tensor([length - 1, 3, 1, 6, 4])] = eot
    return ids


@torch.no_grad()
def assert_same_features(model, reference, images, ids, **vision_options) -> None:
    vision = reference.vision_model(images, **vision_options)
    features = model.visual(images)
    tokens = reference.vision_model.post_layernorm(vision.last_hidden_state)
    torch.testing.assert_close(features.map, tokens, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(
        features.pooled, vision.pooler_output, rtol=TOLERANCE, atol=TOLERANCE
    )
    projected = reference.visual_projection(vision.pooler_output)
    torch.testing.assert_close(model.encode_image(images), projected, rtol=0, atol=TOLERANCE)
    text = reference.text_projection(reference.text_model(ids).pooler_output)
    torch.testing.assert_close(model.encode_text(ids), text, rtol=0, atol=TOLERANCE)
    assert projected.std() > 0.1 and text.std() > 0.1


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_features_equal_huggingface(activation, tmp_path):
    config = small_config(activation)
    reference = huggingface_model(config, tmp_path)
    model, report = ours(config, tmp_path)
    assert (report.format, report.activation) == ("huggingface", activation)
    assert not (report.missing or report.unexpected or report.resized or report.mismatched)
    assert_same_features(model, reference, torch.randn(3, 3, 48, 48), token_ids(config, 14))


@pytest.mark.parametrize("image_size", [(96, 32), (24, 56), (48, 64)])
def test_features_equal_huggingface_for_other_image_sizes(image_size, tmp_path, monkeypatch):
    config = small_config()
    reference = huggingface_model(config, tmp_path)
    model, report = ours(config, tmp_path, image_size)
    grid = (image_size[0] // 8, image_size[1] // 8)
    assert report.resized == {"visual.positional_embedding": ((6, 6), grid)}
    interpolate = F.interpolate

    def bilinear(*arguments, mode, **options):
        # Hugging Face resizes bicubically; CLIP re-identification uses bilinear.
        assert mode == "bicubic"
        return interpolate(*arguments, mode="bilinear", **options)

    monkeypatch.setattr(F, "interpolate", bilinear)
    assert_same_features(
        model, reference, torch.randn(2, 3, *image_size), token_ids(config, 9),
        interpolate_pos_encoding=True,
    )  # fmt: skip


def test_features_equal_huggingface_at_the_size_of_vit_b_32(tmp_path):
    # The default configuration is ViT-B/32; a short vocabulary and text tower save time.
    text_config = {"vocab_size": 60, "eos_token_id": 59, "num_hidden_layers": 2}
    config = transformers.CLIPConfig(text_config=text_config)
    reference = transformers.CLIPModel(config).eval()
    reference.save_pretrained(tmp_path)
    model, _ = ours(config, tmp_path)
    assert model.architecture == architecture("ViT-B/32", vocabulary_size=60, text_layers=2)
    assert_same_features(model, reference, torch.randn(1, 3, 224, 224), token_ids(config, 12))
