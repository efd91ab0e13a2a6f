"""Attention of one query per item, with the key and value projections absorbed."""

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

    out_h = W_v,h (sum_i p_i x_i) + b_v,h,   p = softmax_i(x_i . (W_k,h^T q_h) + b_k,h . q_h)

    with q_h the scaled query of head h. Since there is one query, W_k and W_v are applied to it and
    to the pooled tokens instead of to every token: 4 W^2 + 4 H L W operations per item instead of
    4 L W^2. The algebra is exact.

    Args:
        token: What asks. Shape (B, W), floating point.
        tokens: What is read. Shape (B, L, W), dtype of `token`, any strides.
        query: Query projection, (W, W).
        key: Key projection, (W, W). Its bias cannot change the result; it is read so that its
            gradient is a zero tensor, as in the plain form, and not None.
        value: Value projection, (W, W).
        heads: Number of heads H; divides W.

    Returns:
        Outputs of the heads side by side, before the output projection. Shape (B, W).
    """
    batch, width = token.shape
    size = width // heads
    # (H, B, D): heads lead, so that each head multiplies its own rows of the weights.
    asked = (F.linear(token, *query) * size**-0.5).view(batch, heads, size).transpose(0, 1)
    absorbed = torch.matmul(asked, key.weight.view(heads, size, width)).transpose(0, 1)
    # (B, H, L)
    scores = torch.matmul(absorbed, tokens.transpose(1, 2))
    if key.bias is not None:
        shift = (asked * key.bias.view(heads, 1, size)).sum(dim=2).transpose(0, 1)
        scores = scores + shift.unsqueeze(2).to(scores.dtype)
    # (B, H, W)
    pooled = torch.matmul(torch.softmax(scores, dim=2), tokens)
    mixed = torch.matmul(
        pooled.transpose(0, 1), value.weight.view(heads, size, width).transpose(1, 2)
    )
    mixed = mixed.transpose(0, 1).reshape(batch, width)
    return mixed if value.bias is None else mixed + value.bias.to(mixed.dtype)
