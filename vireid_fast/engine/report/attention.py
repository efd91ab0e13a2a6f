"""Attention weights, which the fused kernels never store: softmax(Q K^T) written out.

The weights come from the modules' own parameters and inputs; multiplied with the values they give
what the modules give (tested). For pictures of a few images only: memory is that of all weights.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vireid_fast.nn.attention_pool import pool_tokens
from vireid_fast.nn.clip_layouts import ClipGrid, ClipLayout


@dataclass
class Calls:
    """Inputs and outputs of a module's calls, in their order."""

    inputs: list[tuple[Any, ...]] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)


@contextmanager
def recorded(modules: Sequence[nn.Module]) -> Iterator[list[Calls]]:
    """Within it, the calls of some modules are written down; they work as before."""
    calls = [Calls() for _ in modules]

    def hook(own: Calls) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def note(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            own.inputs.append(given)
            own.outputs.append(made)

        return note

    handles = [
        module.register_forward_hook(hook(own)) for module, own in zip(modules, calls, strict=True)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def attention_weights(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """softmax(q_h k_h^T / sqrt(D)) of projected tokens.

    Args:
        query: Shape (B, S, W).
        key: Shape (B, T, W).
        heads: Number of heads; divides W.

    Returns:
        Rows sum to 1. Shape (B, heads, S, T).
    """
    query, key = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key))
    return torch.softmax(query @ key.transpose(2, 3) * query.shape[3] ** -0.5, dim=3)


def packed_weights(layer: Any, asking: Tensor, read: Tensor) -> Tensor:
    """Weights of a layer with `in_proj_weight`, `in_proj_bias` and `heads`.

    Args:
        layer: CLIP's attention, `CrossModalAttention`, or the attention of the prompt generator.
        asking: Tokens that ask, as the layer gets them. Shape (B, S, W).
        read: Tokens that are read. Shape (B, T, W).

    Returns:
        Shape (B, heads, S, T).
    """
    width, bias = asking.shape[2], layer.in_proj_bias
    parts = (slice(0, width), slice(width, 2 * width))
    query, key = (
        F.linear(tokens, layer.in_proj_weight[part], None if bias is None else bias[part])
        for tokens, part in zip((asking, read), parts, strict=True)
    )
    return attention_weights(query, key, layer.heads)


def interaction_weights(layer: Any, visible: Tensor, infrared: Tensor) -> list[Tensor]:
    """Weights of both directions of a `CrossModalAttention`.

    Args:
        layer: The layer.
        visible: Tokens as the layer gets them. Shape (B, S, W).
        infrared: Shape (B, T, W).

    Returns:
        Of the visible tokens over what they read, (B, heads, S, R), and of the infrared ones. They
        read the other modality's tokens in the mode "cross", the own ones in "self", and in "joint"
        those of both, visible ones first.
    """
    both = torch.cat([visible, infrared], dim=1)
    read = {
        "cross": (infrared, visible), "self": (visible, infrared), "joint": (both, both),
    }[layer.mode]  # fmt: skip
    return [packed_weights(layer, *pair) for pair in zip((visible, infrared), read, strict=True)]


def pool_weights(pool: Any, asking: Tensor, read: Tensor) -> Tensor:
    """Weights of CLIP's attention pool: the mean token of one map over the tokens of another.

    Args:
        pool: `AttentionPool2d`.
        asking: Map whose mean asks. Shape (B, C, h, w).
        read: Map that is read, `asking` itself in the pool. Shape (B, C, h, w).

    Returns:
        Over the mean and the places of `read`. Shape (B, heads, 1, 1 + h w).
    """
    query = pool.q_proj(pool_tokens(pool, asking)[:, :1])
    return attention_weights(query, pool.k_proj(pool_tokens(pool, read)), pool.num_heads)


def clip_maps(attention: nn.Module, normed: Tensor, layout: ClipLayout, grid: ClipGrid) -> Tensor:
    """What the class tokens of a clip read in a grouped or shifted block, patch by patch.

    Mean over the heads, and over the class tokens that ask in a sequence.

    Args:
        attention: The block's.
        normed: Tokens of one clip after the block's first norm. Shape (T, 1 + patches, W).
        layout: The block's.
        grid: Sizes of the clip.

    Returns:
        Shape (T, rows, columns); over the patches of a sequence and its class tokens the weights
        sum to 1.
    """
    sequences = layout.sequences(grid).to(normed.device)
    classes = layout.class_tokens(grid)
    tokens = normed.reshape(-1, normed.shape[-1])[sequences]
    weights = packed_weights(attention, tokens[:, :classes], tokens).mean((1, 2))
    found = weights.new_zeros(grid.frames * grid.tokens)
    found[sequences[:, classes:]] = weights[:, classes:]
    return found.view(grid.frames, grid.tokens)[:, 1:].unflatten(1, (grid.rows, grid.columns))
