"""The ResNet tower against an oracle in numpy float64."""

import copy

import pytest
import torch
from clip_oracles import ResNetOracle, randomise

from vireid_fast.clip import build_clip

SHORT_TEXT = {"vocabulary_size": 8, "text_layers": 1, "text_width": 8, "text_heads": 1}


@torch.no_grad()
def assert_equals_oracle(model, images) -> None:
    feature_map, projected = ResNetOracle(model)(images)
    features = model.visual(images)
    # float64 through at most 16 blocks.
    torch.testing.assert_close(features.map, torch.from_numpy(feature_map), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        features.projected, torch.from_numpy(projected), rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(features.pooled, features.map.mean(dim=(2, 3)))
    assert features.projected.std() > 0.01


@pytest.mark.parametrize("layer4_stride", [1, 2])
@pytest.mark.parametrize("stem_relu", ["clip", "csdn"])
def test_rn_small_equals_oracle(layer4_stride, stem_relu, tiny_clip):
    model = tiny_clip(
        "RN-small", visual_layers=(1, 2, 1, 1), layer4_stride=layer4_stride,
        stem_relu=stem_relu, image_size=(96, 47),
    ).double()  # fmt: skip
    assert model.visual.grid == ((6, 3) if layer4_stride == 1 else (3, 1))
    assert_equals_oracle(model, torch.randn(2, 3, 96, 47, dtype=torch.float64))


def test_rn50_equals_oracle():
    model = build_clip("RN50", image_size=(64, 32), layer4_stride=1, **SHORT_TEXT)
    randomise(model)
    assert_equals_oracle(model.double().eval(), torch.randn(1, 3, 64, 32, dtype=torch.float64))


def test_rn50_map_is_twice_as_fine_with_stride_1():
    with torch.device("meta"):
        model = build_clip("RN50", image_size=(288, 144), layer4_stride=1, **SHORT_TEXT)
        features = model.visual(torch.empty(2, 3, 288, 144))
        coarse = build_clip("RN50", **SHORT_TEXT).visual(torch.empty(2, 3, 224, 224))
    assert features.map.shape == (2, 2048, 18, 9)
    assert features.pooled.shape == (2, 2048) and features.projected.shape == (2, 1024)
    assert coarse.map.shape == (2, 2048, 7, 7)
    assert (model.visual.feature_width, model.visual.projected_width) == (2048, 1024)


def test_stem_relus_differ(tiny_clip):
    images = torch.randn(2, 3, 64, 64)
    maps = [tiny_clip("RN-small", stem_relu=relu).visual.stem(images) for relu in ("clip", "csdn")]
    assert maps[0].shape == maps[1].shape == (2, 4, 16, 16)
    assert (maps[0] - maps[1]).abs().max() > 0.1


def test_copied_stem_serves_a_second_modality(tiny_clip):
    visual = tiny_clip("RN-small").visual
    infrared_stem = copy.deepcopy(visual.stem)
    images = torch.randn(2, 3, 64, 64)
    both = visual.trunk(torch.cat([visual.stem(images), infrared_stem(images)]))
    torch.testing.assert_close(both.projected[:2], both.projected[2:])
    both.projected[2:].sum().backward()
    assert visual.stem.conv1.weight.grad.abs().max() == 0
    assert infrared_stem.conv1.weight.grad.abs().max() > 0


def test_fresh_blocks_start_as_their_shortcut():
    model = build_clip("RN-small", vocabulary_size=9)
    block = model.visual.trunk.layer2[0].eval()
    x = torch.rand(1, 64, 8, 8)
    torch.testing.assert_close(block(x), torch.relu(block.downsample(x)))


def test_rejects_stem_map_of_another_image_size(tiny_clip):
    visual = tiny_clip("RN-small").visual
    with pytest.raises(ValueError, match=r"stem_map must lead to a map of \(2, 2\), got \(3, 2\)"):
        visual.trunk(torch.zeros(1, 4, 24, 16))
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, 64, 64\), got"):
        visual(torch.zeros(1, 3, 96, 64))
    with pytest.raises(ValueError, match=r"stem_map must have shape \(B, 4, "):
        visual.trunk(torch.zeros(1, 5, 16, 16))
