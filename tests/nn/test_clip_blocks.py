"""CLIP blocks on clips: grouped and shifted attention against loops, CLIP's block, and copies."""

import math

import pytest
import torch

from vireid_fast.clip.transformer import Block
from vireid_fast.nn import clip_blocks, clip_blocks_reference
from vireid_fast.nn.clip_layouts import (
    PATTERNS,
    ClipGrid,
    FrameLayout,
    GroupedLayout,
    ShiftedLayout,
    layout_index,
    source_frames,
)
from vireid_fast.ops import attention_plan, cross_modal_attention
from vireid_fast.ops.cross_modal_attention import plan
from vireid_fast.testing import assert_error_budget

# (clips, frames, rows, columns, groups): one frame, primes, one group, one row per group.
CASES = [
    (2, 1, 4, 2, 1), (2, 1, 4, 2, 2), (1, 2, 6, 3, 3), (3, 5, 5, 3, 5), (2, 6, 6, 3, 2),
    (1, 7, 3, 4, 1), (1, 11, 2, 1, 2),
]  # fmt: skip
SHIFTS = {
    (0, 0): -4, (0, 1): 1, (0, 2): 2, (1, 0): -1, (1, 2): 3, (2, 0): -2, (2, 1): -3, (2, 2): 4,
}  # fmt: skip


def make_block(width=16, heads=2, dtype=torch.float64):
    block = Block(width, heads, 2, "quick_gelu")
    for norm in (block.ln_1, block.ln_2):
        torch.nn.init.normal_(norm.weight, mean=1.0, std=0.2)
        torch.nn.init.normal_(norm.bias, std=0.2)
    torch.nn.init.normal_(block.attn.in_proj_bias)
    torch.nn.init.normal_(block.attn.out_proj.bias)
    # Larger scores than at the start, so that attention is far from a mean.
    torch.nn.init.normal_(block.attn.in_proj_weight, std=2 * width**-0.5)
    return block.to(dtype)


def make_tokens(clips, grid, width=16, dtype=torch.float64):
    return torch.randn(clips * grid.frames, grid.tokens, width, dtype=torch.float64).to(dtype)


def layouts(groups):
    shifted = [ShiftedLayout(pattern) for pattern in PATTERNS]
    return [FrameLayout(), GroupedLayout(groups), *shifted]


def _place(grid, frame, row, column):
    """Row of a patch within its clip."""
    return frame * grid.tokens + 1 + row * grid.columns + column


def _naive_sequences(layout, grid):
    """Rows of each sequence, by counting patches one by one."""
    frames, classes = range(grid.frames), [t * grid.tokens for t in range(grid.frames)]
    if isinstance(layout, GroupedLayout):
        height = grid.rows // layout.groups
        groups = []
        for group in range(layout.groups):
            stripe = range(group * height, (group + 1) * height)
            patches = [
                _place(grid, t, r, c) for t in frames for r in stripe for c in range(grid.columns)
            ]
            groups.append(classes + patches)
        return groups
    found = []
    for t in frames:
        members = [classes[t]]
        for r in range(grid.rows):
            for c in range(grid.columns):
                source = t
                if layout == ShiftedLayout("tps9"):
                    source = (t - SHIFTS.get((r % 3, c % 3), 0)) % grid.frames
                elif layout == ShiftedLayout("bayer4") and r % 2 == c % 2:
                    pairs = [(i, i + 1) for i in range(r % 2, grid.frames - 1, 2)]
                    source = {a: b for pair in pairs for a, b in (pair, pair[::-1])}.get(t, t)
                members.append(_place(grid, source, r, c))
        found.append(members)
    return found


def _naive_block(block, tokens, grid, layout):
    """x + attention(ln_1(x)), then x + mlp(ln_2(x)), query by query."""
    attention, (_, _, width) = block.attn, tokens.shape
    size = width // attention.heads
    normed = block.ln_1(tokens)
    packed = normed @ attention.in_proj_weight.T + attention.in_proj_bias
    clips = packed.view(-1, grid.frames * grid.tokens, 3, attention.heads, size)
    mixed = torch.zeros(*clips.shape[:2], attention.heads, size, dtype=tokens.dtype)
    asked = torch.zeros(clips.shape[1])
    for sequence in _naive_sequences(layout, grid):
        asked[sequence] += 1
    for clip, out in zip(clips, mixed, strict=True):
        for sequence in _naive_sequences(layout, grid):
            for i in sequence:
                for h in range(attention.heads):
                    scores = [float(clip[i, 0, h] @ clip[j, 1, h]) for j in sequence]
                    peak = max(scores)
                    weights = [math.exp((s - peak) * size**-0.5) for s in scores]
                    value = sum(
                        w * clip[j, 2, h] for w, j in zip(weights, sequence, strict=True)
                    ) / sum(weights)
                    out[i, h] += value / asked[i]
    x = tokens + attention.out_proj(mixed.view(tokens.shape))
    return x + block.mlp(block.ln_2(x))


@pytest.mark.parametrize("backend", [clip_blocks, clip_blocks_reference], ids=["fused", "copies"])
@pytest.mark.parametrize(
    "layout",
    [FrameLayout(), GroupedLayout(2), GroupedLayout(1), *map(ShiftedLayout, PATTERNS)],
    ids=str,
)
@torch.no_grad()
def test_equals_loops(layout, backend):
    grid = ClipGrid(3, 4, 3)
    block, tokens = make_block(), make_tokens(2, grid)
    expected = _naive_block(block, tokens, grid, layout)
    out = backend.run_block(block, tokens, grid, layout)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_index_maps_equal_copies_with_gradients(case):
    clips, frames, rows, columns, groups = case
    grid = ClipGrid(frames, rows, columns)
    for layout in layouts(groups):
        block = make_block()
        start, weight = make_tokens(clips, grid), make_tokens(clips, grid)
        results = []
        for backend in (clip_blocks, clip_blocks_reference):
            tokens = start.clone().requires_grad_()
            block.zero_grad()
            out = backend.run_block(block, tokens, grid, layout)
            (out * weight).sum().backward()
            results.append((out, tokens.grad, *[p.grad for p in block.parameters()]))
        for own, copies in zip(*results, strict=True):
            # Sums of some hundred terms of size 1 to 10.
            torch.testing.assert_close(own, copies, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_class_tokens_alone_equal_those_of_the_block(case):
    clips, frames, rows, columns, groups = case
    grid = ClipGrid(frames, rows, columns)
    for layout in layouts(groups):
        block, weight = make_block(), torch.randn(clips * frames, 16, dtype=torch.float64)
        start, results = make_tokens(clips, grid), []
        for run in (clip_blocks.run_block_for_classes, clip_blocks.run_block):
            tokens = start.clone().requires_grad_()
            block.zero_grad()
            out = run(block, tokens, grid, layout)
            out = out if out.dim() == 2 else out[:, 0]
            (out * weight).sum().backward()
            results.append((out, tokens.grad, *[p.grad for p in block.parameters()]))
        for own, whole in zip(*results, strict=True):
            torch.testing.assert_close(own, whole, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", [clip_blocks, clip_blocks_reference], ids=["fused", "copies"])
def test_one_frame_and_one_group_and_no_pattern_are_the_clip_block(backend):
    block = make_block()
    for frames, layout in (
        (1, GroupedLayout(1)), (1, ShiftedLayout("tps9")), (1, ShiftedLayout("bayer4")),
        (4, ShiftedLayout("none")), (4, FrameLayout()),
    ):  # fmt: skip
        grid = ClipGrid(frames, 6, 3)
        tokens = make_tokens(2, grid)
        out = backend.run_block(block, tokens, grid, layout)
        torch.testing.assert_close(out, block(tokens), rtol=0, atol=1e-13)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 7, 10])
def test_shift_and_inverse_shift_are_the_identity(pattern, frames):
    for rows, columns in ((18, 9), (8, 4), (5, 7), (1, 1)):
        grid = ClipGrid(frames, rows, columns)
        # The attention stores at the rows it loads from, so each row has to be loaded once.
        loaded = ShiftedLayout(pattern).sequences(grid)
        assert loaded.flatten().sort().values.equal(torch.arange(frames * grid.tokens))
        tokens = torch.randn(2, frames, grid.tokens, 3)
        moved = clip_blocks_reference.shift(tokens, grid, pattern)
        assert torch.equal(clip_blocks_reference.shift(moved, grid, pattern, back=True), tokens)
        assert torch.equal(moved.flatten(1, 2), tokens.flatten(1, 2)[:, loaded.flatten()])
        assert torch.equal(moved[:, :, 0], tokens[:, :, 0])


def test_patterns_reach_the_frames_they_should():
    seen = source_frames("tps9", ClipGrid(6, 18, 9))
    assert all(set(frame.flatten().tolist()) == set(range(6)) for frame in seen)
    # A quarter of the patches comes from each neighbour, where there is one.
    exchanged = source_frames("bayer4", ClipGrid(5, 4, 4))
    assert exchanged[:, 0, 0].tolist() == [1, 0, 3, 2, 4]
    assert exchanged[:, 1, 1].tolist() == [0, 2, 1, 4, 3]
    assert exchanged[:, 0, 1].tolist() == exchanged[:, 1, 0].tolist() == [0, 1, 2, 3, 4]
    unmoved = source_frames("none", ClipGrid(3, 2, 2))
    assert unmoved.flatten(1).tolist() == [[frame] * 4 for frame in range(3)]


@pytest.mark.parametrize("layout", [GroupedLayout(4), *map(ShiftedLayout, PATTERNS)], ids=str)
@pytest.mark.parametrize("classes_only", [False, True])
def test_layouts_run_on_the_kernel_that_auto_chooses(layout, classes_only, device):
    missing = plan.missing_build(device)
    if missing:
        pytest.skip(missing)
    grid, heads, size = ClipGrid(3, 8, 4), 3, 64
    index = layout_index(layout, grid, 2, device, classes_only)
    if plan.KERNEL_TOKENS[device.type] > 0:  # 0 on a CPU without vector instructions
        shape = (index.num_sequences, heads, index.max_query, index.max_key, size)
        assert attention_plan(shape, torch.float32, device).backend == "kernel"
    inputs = [
        torch.randn(rows, heads, size, dtype=torch.float64, device=device)
        for rows in (index.num_queries, index.num_keys, index.num_keys)
    ]
    results = {}
    for name, dtype in (("exact", torch.float64), ("reference", torch.float32), ("kernel", None)):
        leaves = [x.to(dtype or torch.float32, copy=True).requires_grad_() for x in inputs]
        chosen = "kernel" if name == "kernel" else "reference"
        out = cross_modal_attention(*leaves, index, backend=chosen)
        (out * inputs[0]).sum().backward()
        results[name] = [out.detach(), *[x.grad for x in leaves]]
    for exact, plain, own in zip(*results.values(), strict=True):
        assert_error_budget(own, plain, exact)


def test_blocks_in_float32_err_no_more_than_copies():
    grid = ClipGrid(4, 4, 2)
    for layout in layouts(2):
        block = make_block(64, 2)
        tokens = make_tokens(2, grid, 64)
        exact = clip_blocks_reference.run_block(block, tokens, grid, layout)
        block, tokens = block.float(), tokens.float()
        own, plain = (
            backend.run_block(block, tokens, grid, layout).detach()
            for backend in (clip_blocks, clip_blocks_reference)
        )
        assert_error_budget(own, plain, exact.detach())


def test_index_is_made_once_and_serves_training_after_inference():
    grid, layout = ClipGrid(2, 3, 1), GroupedLayout(3)
    block, tokens = make_block(), make_tokens(5, grid)
    layout_index.cache_clear()
    with torch.inference_mode():
        clip_blocks.run_block(block, tokens, grid, layout)
    clip_blocks.run_block(block, tokens, ClipGrid(2, 3, 1), GroupedLayout(3)).sum().backward()
    assert layout_index.cache_info().misses == 1
    assert torch.isfinite(block.attn.in_proj_weight.grad).all()


def test_errors():
    block, grid = make_block(), ClipGrid(2, 18, 9)
    tokens = make_tokens(1, grid)
    message = r"groups must divide the 18 rows of patches, got 4. Choose one of 1, 2, 3, 6, 9, 18."
    for backend in (clip_blocks, clip_blocks_reference):
        with pytest.raises(ValueError, match=message):
            backend.run_block(block, tokens, grid, GroupedLayout(4))
        with pytest.raises(ValueError, match=r"tokens must have shape \(B T, 163, W\)"):
            backend.run_block(block, tokens[:, 1:], grid, FrameLayout())
        with pytest.raises(ValueError, match="hold whole clips of 2 frames, got 1 frames"):
            backend.run_block(block, tokens[:1], grid, FrameLayout())
    with pytest.raises(ValueError, match="groups must be at least 1, got 0"):
        GroupedLayout(0)
    with pytest.raises(TypeError, match="groups must be an integer"):
        GroupedLayout(1.5)
    with pytest.raises(ValueError, match="pattern must be one of"):
        ShiftedLayout("tsm")
