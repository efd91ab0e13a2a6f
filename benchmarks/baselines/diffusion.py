"""Peer of semantic diffusion: a copy of the bank's keys and values for every item."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vireid_fast.nn import SemanticDiffusion


def diffuse_with_a_bank_per_item(
    layer: SemanticDiffusion, tokens: Tensor, bank: Tensor
) -> Tensor:
    """`layer(tokens, bank)` by batched attention, as if every item had texts of its own.

    Args:
        layer: Its weights are used.
        tokens: Shape (B, S, W).
        bank: Shape (C, d).
    """
    query = layer.query(layer.norm(tokens))
    key, value = layer.key_value(layer.text_norm(bank)).chunk(2, dim=-1)
    # (B, C, W) each.
    key, value = (x.repeat(len(tokens), 1, 1) for x in (key, value))
    heads = [x.unflatten(2, (layer.heads, -1)).transpose(1, 2) for x in (query, key, value)]
    mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    return torch.addcmul(tokens, layer.gamma, layer.output(mixed))
