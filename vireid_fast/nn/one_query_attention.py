"""Attention of one or few queries per item, with the key and value projections absorbed."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Projection(NamedTuple):
    """Weight (out, in) and bias (out,) or None of a linear map."""

    weight: Tensor
    bias: Tensor | None


def unpack_projections(weight: Tensor, bias: Tensor) -> tuple[Projection, Projection, Projection]:
    """Query, key and value of one packed projection, (3 W, W) and (3 W,)."""
    query, key, value = map(Projection, weight.chunk(3), bias.chunk(3))
    return query, key, value


def first_token_of_block(
    tokens: Tensor,
    norm_1: Callable[[Tensor], Tensor],
    projections: tuple[Projection, Projection, Projection],
    heads: int,
    out: Callable[[Tensor], Tensor],
    norm_2: Callable[[Tensor], Tensor],
    mlp: Callable[[Tensor], Tensor],
) -> Tensor:
    """First token of a pre-norm block's output, computed alone.

    x + out(attention of norm_1(x)), then x + mlp(norm_2(x)), for the first row of each item.

    Args:
        tokens: Input of the block. Shape (B, L, W).
        norm_1: Norm before the attention.
        projections: Of query, key and value.
        heads: Number of heads; divides W.
        out: Output projection of the attention.
        norm_2: Norm before the MLP.
        mlp: Acts on each token on its own.

    Returns:
        Shape (B, W).
    """
    normed = norm_1(tokens)
    first = tokens[:, 0] + out(one_query_attention(normed[:, 0], normed, *projections, heads))
    return first + mlp(norm_2(first))


def one_query_attention(
    token: Tensor,
    tokens: Tensor,
    query: Projection,
    key: Projection,
    value: Projection,
    heads: int,
) -> Tensor:
    """Multi-head attention from one token per item to all tokens of the item.

    Args:
        token: What asks. Shape (B, W), floating point.
        tokens: What is read. Shape (B, L, W).
        query: As of `few_query_attention`.
        key: Likewise.
        value: Likewise.
        heads: Likewise.

    Returns:
        Outputs of the heads side by side, before the output projection. Shape (B, W).
    """
    return few_query_attention(token[:, None], tokens, query, key, value, heads)[:, 0]


def few_query_attention(
    asking: Tensor,
    tokens: Tensor,
    query: Projection,
    key: Projection,
    value: Projection,
    heads: int,
) -> Tensor:
    """Multi-head attention from a few tokens per item to all tokens of the item.

    out_h = W_v,h (sum_i p_i x_i) + b_v,h,   p = softmax_i(x_i . (W_k,h^T q_h) + b_k,h . q_h)

    with q_h the scaled query of head h. W_k and W_v are applied to the queries and to the pooled
    tokens instead of to every token: 4 M W^2 + 4 M H L W operations per item instead of
    4 L W^2, less where there are fewer queries M than channels per head. The algebra is exact.

    Args:
        asking: What asks. Shape (B, M, W), floating point.
        tokens: What is read. Shape (B, L, W), dtype of `asking`, any strides.
        query: Query projection, (W, W).
        key: Key projection, (W, W). Its bias cannot change the result; it is read so that its
            gradient is a zero tensor, as in the plain form, and not None.
        value: Value projection, (W, W).
        heads: Number of heads H; divides W.

    Returns:
        Outputs of the heads side by side, before the output projection. Shape (B, M, W).
    """
    batch, count, width = asking.shape
    size = width // heads
    # (H, B M, D): heads lead, so that each head multiplies its own rows of the weights.
    rows = asking.reshape(batch * count, width)
    asked = (F.linear(rows, *query) * size**-0.5).view(batch * count, heads, size).transpose(0, 1)
    absorbed = torch.matmul(asked, key.weight.view(heads, size, width))
    # (B, H M, L)
    scores = torch.matmul(_items_first(absorbed, batch, count), tokens.transpose(1, 2))
    if key.bias is not None:
        shift = (asked * key.bias.view(heads, 1, size)).sum(dim=2, keepdim=True)
        scores = scores + _items_first(shift, batch, count).to(scores.dtype)
    # (B, H M, W)
    pooled = torch.matmul(torch.softmax(scores, dim=2), tokens)
    pooled = pooled.view(batch, heads, count, width).transpose(0, 1)
    mixed = torch.matmul(
        pooled.reshape(heads, batch * count, width),
        value.weight.view(heads, size, width).transpose(1, 2),
    )
    mixed = mixed.transpose(0, 1).reshape(batch, count, width)
    return mixed if value.bias is None else mixed + value.bias.to(mixed.dtype)


def _items_first(values: Tensor, batch: int, count: int) -> Tensor:
    """(H, B M, C) to (B, H M, C)."""
    heads, _, channels = values.shape
    values = values.view(heads, batch, count, channels).transpose(0, 1)
    return values.reshape(batch, heads * count, channels)
