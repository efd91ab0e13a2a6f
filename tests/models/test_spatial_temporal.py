"""STFL's encoder: CLIP's tower with its own parameters, on clips of any length."""

import pytest
import torch

from vireid_fast.clip import build_clip
from vireid_fast.models.spatial_temporal import SpatialTemporalEncoder
from vireid_fast.nn import clip_blocks_reference
from vireid_fast.nn.clip_layouts import ClipGrid, FrameLayout, GroupedLayout, ShiftedLayout

# 6 x 3 patches.
SIZE = (96, 48)
SIZES = {"vocabulary_size": 4, "text_layers": 1, "visual_width": 32, "visual_heads": 2}


def make_visual(size=SIZE, layers=4):
    visual = build_clip("ViT-small", image_size=size, visual_layers=layers, **SIZES).visual
    for block in visual.trunk.transformer.resblocks:
        torch.nn.init.normal_(block.attn.in_proj_weight, std=0.5)
    return visual.double()


def make_clips(batch, frames, size=SIZE):
    return torch.randn(batch, frames, 3, *size, dtype=torch.float64)


def test_there_are_no_new_parameters():
    visual = make_visual()
    names = {f"visual.{name}" for name in visual.state_dict()}
    encoder = SpatialTemporalEncoder(visual, groups=3)
    assert set(encoder.state_dict()) == names
    assert {id(p) for p in encoder.parameters()} == {id(p) for p in visual.parameters()}


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize(
    ("frames", "options"),
    [
        (1, {"groups": 1}),
        (1, {"groups": 1, "grouped_blocks": 4, "shift_blocks": 0}),
        (3, {"grouped_blocks": 0, "pattern": "none", "shift_blocks": 4}),
        (5, {"grouped_blocks": 0, "shift_blocks": 0}),
    ],
    ids=["one frame", "one frame, grouped", "no pattern", "basic blocks"],
)
def test_equals_clip_on_each_frame(frames, options, backend):
    visual = make_visual()
    encoder = SpatialTemporalEncoder(visual, backend=backend, **options)
    clips = make_clips(2, frames)
    out, trunk = encoder(clips), visual.trunk
    plain = visual(clips.flatten(0, 1))
    classes = trunk.ln_post(out.classes).flatten(0, 1)
    torch.testing.assert_close(classes, plain.pooled, rtol=0, atol=1e-12)
    if frames == 1:
        torch.testing.assert_close(trunk.ln_post(out.tokens), plain.map, rtol=0, atol=1e-12)
    alone = encoder.encode_classes(clips)
    torch.testing.assert_close(alone.classes, out.classes, rtol=0, atol=1e-12)


def test_encoders_follow_each_other():
    visual, clips, grid = make_visual(layers=5), make_clips(2, 4), ClipGrid(4, 6, 3)
    encoder = SpatialTemporalEncoder(visual, groups=2, grouped_blocks=1, shift_blocks=2)
    layouts = [FrameLayout()] * 2 + [GroupedLayout(2)] + [ShiftedLayout("tps9")] * 2
    tokens = visual.trunk.embed(visual.stem(clips.flatten(0, 1)))
    for block, layout in zip(visual.trunk.transformer.resblocks, layouts, strict=True):
        entering = tokens
        tokens = clip_blocks_reference.run_block(block, tokens, grid, layout)
    out = encoder(clips)
    last = torch.stack([entering[:4, 0].mean(0), entering[4:, 0].mean(0)])
    torch.testing.assert_close(out.last, last, rtol=0, atol=1e-12)
    torch.testing.assert_close(out.classes.flatten(0, 1), tokens[:, 0], rtol=0, atol=1e-12)
    mean = torch.stack([tokens[:4].mean(0), tokens[4:].mean(0)])
    torch.testing.assert_close(out.tokens, mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "frames", "options"),
    [
        (SIZE, 1, {"groups": 2}),
        (SIZE, 2, {"groups": 6, "grouped_blocks": 3, "shift_blocks": 0}),
        (SIZE, 5, {"groups": 3, "pattern": "bayer4"}),
        ((64, 80), 6, {"groups": 4}),
        ((112, 32), 7, {"groups": 7, "grouped_blocks": 1, "shift_blocks": 3}),
    ],
    ids=str,
)
def test_backends_and_class_tokens_agree_with_gradients(size, frames, options):
    visual, clips, results = make_visual(size), make_clips(2, frames, size), []
    for backend in ("fused", "reference"):
        encoder = SpatialTemporalEncoder(visual, backend=backend, **options)
        for encode in (encoder, encoder.encode_classes):
            visual.zero_grad()
            last, classes, tokens = encode(clips)
            # The class token alone, which both ways give.
            tokens = tokens[:, 0]
            (last.sum() + classes.square().sum() + tokens.pow(3).sum()).backward()
            results.append((last, classes, tokens, *[p.grad for p in visual.parameters()]))
    for other in results[1:]:
        for own, plain in zip(results[0], other, strict=True):
            if own is not None:  # ln_post and proj are not used here
                scale = plain.abs().max().item()
                torch.testing.assert_close(own, plain, rtol=0, atol=1e-12 * (1 + scale))


def test_frames_see_each_other_only_in_grouped_and_shifted_blocks():
    visual, clips = make_visual(), make_clips(2, 3)
    changed = clips.clone()
    changed[0, 2] += 1
    for options, mixed in (
        ({"grouped_blocks": 0, "shift_blocks": 0}, False),
        ({"grouped_blocks": 1, "shift_blocks": 0, "groups": 6}, True),
        # The class tokens read the patches that arrived.
        ({"grouped_blocks": 0, "shift_blocks": 1}, True),
    ):
        encoder = SpatialTemporalEncoder(visual, **options)
        moved = encoder(changed).classes - encoder(clips).classes
        assert (moved[0, 0].abs().max() > 1e-6) == mixed
        assert moved[0, 2].abs().max() > 1e-6
        # Clips never do.
        assert moved[1].abs().max() == 0


def test_errors():
    visual = make_visual()
    with pytest.raises(
        ValueError, match=r"divide the 6 rows of patches, got 4. Choose one of 1, 2, 3"
    ):
        SpatialTemporalEncoder(visual, groups=4)
    # Without grouped blocks nobody asks for the groups.
    SpatialTemporalEncoder(visual, groups=4, grouped_blocks=0)
    with pytest.raises(ValueError, match="together at most 4, got 3 and 2"):
        SpatialTemporalEncoder(visual, groups=3, grouped_blocks=3)
    with pytest.raises(ValueError, match="be 0 or more"):
        SpatialTemporalEncoder(visual, groups=3, shift_blocks=-1)
    with pytest.raises(ValueError, match="pattern must be one of"):
        SpatialTemporalEncoder(visual, groups=3, pattern="C")
    with pytest.raises(ValueError, match="backend must be one of"):
        SpatialTemporalEncoder(visual, groups=3, backend="auto")
    resnet = build_clip("RN-small", image_size=SIZE, vocabulary_size=4, text_layers=1).visual
    with pytest.raises(ValueError, match="visual must be a vision transformer, got ResNetVisual"):
        SpatialTemporalEncoder(resnet)
    encoder = SpatialTemporalEncoder(visual, groups=3)
    with pytest.raises(ValueError, match=r"clips must have shape \(B, T, 3, 96, 48\)"):
        encoder(make_clips(2, 3)[0])
    with pytest.raises(ValueError, match="hold at least one clip of one frame"):
        encoder(make_clips(2, 0))
