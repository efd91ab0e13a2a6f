"""CLIP's transformer blocks on the tokens of clips, with attention across frames.

The blocks keep their weights and get none. Norm, projections and MLP act on each token on its own,
so only the attention has to know which tokens belong together.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from vireid_fast._checks import require, require_shape
from vireid_fast.nn.clip_layouts import ClipGrid, ClipLayout, layout_index
from vireid_fast.ops import cross_modal_attention


def run_block(block: nn.Module, tokens: Tensor, grid: ClipGrid, layout: ClipLayout) -> Tensor:
    """x + attention(ln_1(x)) within the layout's sequences, then x + mlp(ln_2(x)).

    Grouping and shifting are lists of rows that the attention loads from and stores to
    (`AttentionIndex.from_rows`); projections see the tokens where they are.

    Args:
        block: A block of a CLIP image tower: `attn` (`in_proj_weight`, `in_proj_bias`, `out_proj`,
            `heads`), `ln_1`, `ln_2`, `mlp`.
        tokens: Tokens of B clips, frame by frame. Shape (B T, 1 + patches, W).
        grid: Sizes of a clip.
        layout: Which tokens attend to each other.

    Returns:
        Shape of `tokens`.

    Raises:
        ValueError: A shape does not fit, or the layout does not fit the grid.
    """
    batch = number_of_clips("run_block", tokens, grid)
    attention = block.attn
    rows = tokens.flatten(0, 1)
    packed = F.linear(block.ln_1(rows), attention.in_proj_weight, attention.in_proj_bias)
    # (rows, H, D) each, views of the one projection.
    query, key, value = packed.unflatten(1, (3, attention.heads, -1)).unbind(1)
    index = layout_index(layout, grid, batch, tokens.device)
    mixed = cross_modal_attention(query, key, value, index)
    rows = rows + attention.out_proj(mixed.flatten(1))
    rows = rows + block.mlp(block.ln_2(rows))
    return rows.unflatten(0, tokens.shape[:2])


def run_block_for_classes(
    block: nn.Module, tokens: Tensor, grid: ClipGrid, layout: ClipLayout
) -> Tensor:
    """The class tokens of `run_block`, which are the only ones that ask here.

    Args:
        block: As of `run_block`, and the others alike.

    Returns:
        Class token of each frame. Shape (B T, W).
    """
    batch = number_of_clips("run_block_for_classes", tokens, grid)
    attention, width = block.attn, tokens.shape[2]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    normed = block.ln_1(tokens)
    query = F.linear(normed[:, 0], weight[:width], bias[:width])
    packed = F.linear(normed.flatten(0, 1), weight[width:], bias[width:])
    key, value = packed.unflatten(1, (2, attention.heads, -1)).unbind(1)
    index = layout_index(layout, grid, batch, tokens.device, classes_only=True)
    mixed = cross_modal_attention(query.unflatten(1, (attention.heads, -1)), key, value, index)
    classes = tokens[:, 0] + attention.out_proj(mixed.flatten(1))
    return classes + block.mlp(block.ln_2(classes))


def number_of_clips(what: str, tokens: Tensor, grid: ClipGrid) -> int:
    """B of tokens (B T, 1 + patches, W).

    Raises:
        ValueError: The shape does not fit the grid.
    """
    require_shape(what, "tokens", tokens, ("B T", grid.tokens, "W"))
    frames = tokens.shape[0]
    require(
        frames > 0 and frames % grid.frames == 0, what, "tokens",
        f"hold whole clips of {grid.frames} frames", f"{frames} frames",
    )  # fmt: skip
    return frames // grid.frames
