"""The last ViT block for the class token alone against the block for all tokens."""

import copy

import pytest
import torch

from vireid_fast.models.two_stem import TwoStemEncoder


def assert_same_gradients(mine, theirs) -> None:
    compared = 0
    for (name, a), b in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        if b.grad is None:
            assert a.grad is None, name
            continue
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12, msg=name)
        compared += 1
    assert compared > 10


@pytest.mark.parametrize(("layers", "heads", "activation"), [(1, 1, "gelu"), (3, 4, "quick_gelu")])
def test_class_token_equals_all_tokens(layers, heads, activation, tiny_clip):
    model = tiny_clip(visual_layers=layers, visual_heads=heads, activation=activation).double()
    trunk, plain = model.visual.trunk, copy.deepcopy(model.visual.trunk)
    x = torch.randn(3, 32, 4, 4, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    actual, expected = trunk.encode_class(x), plain(y)
    torch.testing.assert_close(actual.pooled, expected.pooled, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(actual.projected, expected.projected, rtol=1e-12, atol=1e-12)
    (actual.pooled.square().sum() + actual.projected.sin().sum()).backward()
    (expected.pooled.square().sum() + expected.projected.sin().sum()).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=1e-12)
    assert_same_gradients(trunk, plain)


def test_encode_image_uses_the_class_token_alone(tiny_clip):
    for name, size in (("ViT-small", 32), ("RN-small", 64)):
        model = tiny_clip(name).double()
        images = torch.randn(2, 3, size, size, dtype=torch.float64)
        torch.testing.assert_close(
            model.encode_image(images), model.visual(images).projected, rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize(("name", "size"), [("ViT-small", 32), ("RN-small", 64)])
def test_two_stem_backends_agree(name, size, tiny_clip):
    visual = tiny_clip(name).double().visual
    fused = TwoStemEncoder(copy.deepcopy(visual))
    plain = TwoStemEncoder(visual, backend="reference")
    assert fused.state_dict().keys() == plain.state_dict().keys()
    visible, infrared = torch.randn(2, 2, 3, size, size, dtype=torch.float64)
    actual, expected = fused(visible, infrared), plain(visible, infrared)
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    (actual.pooled.sum() + actual.projected.square().sum()).backward()
    (expected.pooled.sum() + expected.projected.square().sum()).backward()
    assert_same_gradients(fused, plain)


def test_two_stem_rejects_unknown_backend(tiny_clip):
    with pytest.raises(ValueError, match=r"backend must be one of .*, got 'fast'"):
        TwoStemEncoder(tiny_clip().visual, backend="fast")


def test_compiles_in_one_graph(tiny_clip):
    trunk = tiny_clip().visual.trunk
    compiled = torch.compile(trunk.encode_class, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (2, 3):
        x = torch.randn(batch, 32, 4, 4)
        torch.testing.assert_close(compiled(x).projected, trunk(x).projected)


def test_autocast(tiny_clip):
    trunk = tiny_clip().visual.trunk
    x = torch.randn(2, 32, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, expected = trunk.encode_class(x).projected, trunk(x).projected
    assert actual.dtype == expected.dtype
    # bfloat16 keeps 8 bits; the values are of order 1 and pass two blocks.
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)
