import pytest
import torch

from vireid_fast.clip import ARCHITECTURES, build_clip

# Parameters of the published models, towers together (openai/CLIP).
PUBLISHED = {
    "ViT-B/16": 149_620_737,
    "ViT-B/32": 151_277_313,
    "ViT-L/14": 427_616_513,
    "RN50": 102_007_137,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_models_have_their_parameter_count(name):
    with torch.device("meta"):
        model = build_clip(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "image_size", "map_shape", "widths"),
    [
        ("ViT-B/16", (288, 144), (2, 163, 768), (768, 512)),
        ("ViT-B/32", (256, 128), (2, 33, 768), (768, 512)),
        ("ViT-L/14", (280, 140), (2, 201, 1024), (1024, 768)),
        ("ViT-small", None, (2, 33, 192), (192, 256)),
        ("RN-small", None, (2, 512, 4, 2), (512, 256)),
    ],
)
def test_shapes(name, image_size, map_shape, widths):
    with torch.device("meta"):
        model = build_clip(name, image_size=image_size, vocabulary_size=30)
        features = model.visual(torch.empty(2, 3, *model.visual.image_size))
        text = model.encode_text(torch.zeros(2, 6, dtype=torch.int64))
    assert features.map.shape == map_shape
    assert features.pooled.shape == (2, widths[0]) == (2, model.visual.feature_width)
    assert features.projected.shape == text.shape == (2, widths[1])
    assert model.visual.projected_width == widths[1]


@pytest.mark.parametrize("name", ["ViT-small", "RN-small"])
def test_small_models_are_seeded_and_give_gradients(name):
    models = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        models.append(build_clip(name, vocabulary_size=20, image_size=(64, 32)))
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.isfinite(weights[0]).all()
    model = models[0]
    image = model.encode_image(torch.randn(4, 3, 64, 32))
    text = model.encode_text(torch.randint(0, 20, (4, 7)))
    logits = model.logit_scale.exp() * image @ text.T
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    # A convolution before a zero-initialised norm starts without gradient, but not without .grad.
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_initial_spread_follows_the_rules_of_clip():
    model = build_clip("ViT-small", vocabulary_size=400)
    block = model.text.transformer.resblocks[0]
    width, depth = 128, 3
    expected = {
        model.text.token_embedding.weight: 0.02,
        model.text.positional_embedding: 0.01,
        model.text.text_projection: width**-0.5,
        block.attn.in_proj_weight: width**-0.5,
        block.attn.out_proj.weight: (2 * width * depth) ** -0.5,
        block.mlp.c_fc.weight: (2 * width) ** -0.5,
        block.mlp.c_proj.weight: (2 * width * depth) ** -0.5,
        model.visual.trunk.proj: 192**-0.5,
    }
    for parameter, spread in expected.items():
        # Sampling error of a standard deviation over at least 9856 values is below 1 %.
        assert parameter.std().item() == pytest.approx(spread, rel=0.04)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)


def test_every_size_can_be_overridden():
    model = build_clip(
        "RN-small", visual_width=8, visual_layers=[1, 1, 1, 1], visual_heads=8, joint_width=24,
        text_width=16, text_layers=1, text_heads=2, context_length=10, vocabulary_size=11,
        image_size=[48, 32], layer4_stride=1, activation="gelu",
    )  # fmt: skip
    assert model.visual(torch.zeros(2, 3, 48, 32)).map.shape == (2, 256, 3, 2)
    assert model.encode_text(torch.zeros(2, 10, dtype=torch.int64)).shape == (2, 24)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("ViT-B/8", {}, r"name must be one of \['ViT-B/16'.*got 'ViT-B/8'"),
        ("ViT-small", {}, r"vocabulary_size must be given for ViT-small, got None\. Pass"),
        ("RN50", {"layer4_strid": 1}, r"every override must .* Did you mean 'layer4_stride'\?"),
        ("RN50", {"layer4_stride": 3}, r"layer4_stride must be one of \[1, 2\], got 3"),
        ("RN50", {"stem_relu": "none"}, r"stem_relu must be one of \['clip', 'csdn'\]"),
        ("RN50", {"patch_size": 4}, r"patch_size must stay None for RN50, got 4"),
        ("RN50", {"visual_layers": 3}, r"visual_layers must be four positive numbers, got 3"),
        ("RN50", {"visual_width": 31}, r"width must be positive and even, got 31"),
        ("RN50", {"image_size": (8, 8)}, r"image_size must leave a layer4 map, got \(8, 8\)"),
        ("RN50", {"visual_heads": 7}, r"visual_heads must divide the feature width 2048, got 7"),
        ("ViT-B/16", {"layer4_stride": 1}, r"layer4_stride must stay 2 for ViT-B/16, got 1"),
        ("ViT-B/16", {"activation": "relu"}, r"activation must be one of \['quick_gelu', 'gelu'\]"),
        ("ViT-B/16", {"image_size": (100, 32)}, r"positive multiples of the patch size 16, got"),
        ("ViT-B/16", {"image_size": 224}, r"image_size must be \(height, width\), got 224"),
        ("ViT-B/16", {"text_heads": 7}, r"heads must divide the width 512, got 7"),
        ("ViT-B/16", {"joint_width": 0}, r"joint_width must be a positive integer, got 0"),
    ],
)
def test_rejects_bad_sizes(name, overrides, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build_clip(name, **overrides)


def test_table_holds_both_families_in_two_sizes():
    assert {"ViT-B/16", "ViT-B/32", "ViT-L/14", "RN50", "ViT-small", "RN-small"} == set(
        ARCHITECTURES
    )
