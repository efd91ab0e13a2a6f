"""Grouped and shifted CLIP blocks with every copy written out: the oracle of `clip_blocks`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vireid_fast.nn.clip_blocks import number_of_clips
from vireid_fast.nn.clip_layouts import (
    TPS9,
    ClipGrid,
    ClipLayout,
    GroupedLayout,
    ShiftedLayout,
)


def run_block(block: nn.Module, tokens: Tensor, grid: ClipGrid, layout: ClipLayout) -> Tensor:
    """As `clip_blocks.run_block`, by permuted copies of the tokens.

    Args:
        block: A block of a CLIP image tower.
        tokens: Shape (B T, 1 + patches, W).
        grid: Sizes of a clip.
        layout: Which tokens attend to each other.

    Returns:
        Shape of `tokens`.
    """
    batch = number_of_clips("run_block", tokens, grid)
    normed = block.ln_1(tokens).unflatten(0, (batch, grid.frames))
    if isinstance(layout, GroupedLayout):
        mixed = _grouped(block.attn, normed, grid, layout)
    elif isinstance(layout, ShiftedLayout):
        shifted = shift(normed, grid, layout.pattern)
        mixed = _attend(block.attn, shifted.flatten(0, 1)).view(normed.shape)
        mixed = shift(mixed, grid, layout.pattern, back=True)
    else:
        mixed = _attend(block.attn, normed.flatten(0, 1))
    tokens = tokens + block.attn.out_proj(mixed.reshape(tokens.shape))
    return tokens + block.mlp(block.ln_2(tokens))


def shift(tokens: Tensor, grid: ClipGrid, pattern: str, *, back: bool = False) -> Tensor:
    """Move patches in time; class tokens stay.

    Args:
        tokens: Shape (B, T, 1 + patches, W).
        grid: Sizes of a clip.
        pattern: "tps9", "bayer4" or "none", see `clip_layouts.source_frames`.
        back: The inverse.

    Returns:
        Shape of `tokens`.
    """
    classes, patches = tokens[:, :, :1], tokens[:, :, 1:]
    patches = patches.unflatten(2, (grid.rows, grid.columns)).clone()
    if pattern == "tps9":
        for i, shifts in enumerate(TPS9):
            for j, frames in enumerate(shifts):
                part = patches[:, :, i::3, j::3]
                patches[:, :, i::3, j::3] = part.roll(-frames if back else frames, 1)
    elif pattern == "bayer4":
        # An exchange is its own inverse.
        for corner in (0, 1):
            for frame in range(corner, grid.frames - 1, 2):
                pair = patches[:, frame : frame + 2, corner::2, corner::2]
                patches[:, frame : frame + 2, corner::2, corner::2] = pair.flip(1)
    return torch.cat([classes, patches.flatten(2, 3)], 2)


def _grouped(attention: nn.Module, normed: Tensor, grid: ClipGrid, layout: GroupedLayout) -> Tensor:
    """Attention within stripes; (B, T, 1 + patches, W) in and out."""
    layout.check(grid)
    batch, frames, _, width = normed.shape
    # (B, G, T, W) and (B, G, T patches / G, W).
    classes = normed[:, :, 0].unsqueeze(1).expand(-1, layout.groups, -1, -1)
    stripes = normed[:, :, 1:].unflatten(2, (layout.groups, -1)).transpose(1, 2).flatten(2, 3)
    groups = torch.cat([classes, stripes], 2)
    mixed = _attend(attention, groups.flatten(0, 1)).view(groups.shape)
    classes, stripes = mixed[:, :, :frames].mean(1), mixed[:, :, frames:]
    patches = stripes.unflatten(2, (frames, -1)).transpose(1, 2).reshape(batch, frames, -1, width)
    return torch.cat([classes.unsqueeze(2), patches], 2)


def _attend(attention: nn.Module, normed: Tensor) -> Tensor:
    """Attention before its output projection; (S, L, W) in and out."""
    packed = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
    heads = packed.unflatten(2, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
