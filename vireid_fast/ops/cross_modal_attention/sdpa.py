"""Attention through torch's scaled_dot_product_attention, one call per block of equal sequences.

Rows that lie as they are needed are read through views. Only listed rows are gathered first.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vireid_fast.ops.cross_modal_attention.blocks import Block
from vireid_fast.ops.cross_modal_attention.index import AttentionIndex
from vireid_fast.ops.cross_modal_attention.rows import load_entries, store_entries


def sdpa_attention(
    query: Tensor, key: Tensor, value: Tensor, index: AttentionIndex, scale: float
) -> Tensor:
    """Attention of all sequences; differentiable.

    Args:
        query: Shape (Nq, H, D).
        key: Shape (Nk, H, D).
        value: Shape (Nk, H, D).
        index: Which rows attend to which.
        scale: Factor of q . k.

    Returns:
        Shape (Nq, H, D), contiguous.
    """
    query = load_entries(query, index.queries)
    key, value = load_entries(key, index.keys), load_entries(value, index.keys)
    parts = []
    for block in index.blocks:
        q, k, v = (x.transpose(1, 2) for x in block_views(query, key, value, block))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=scale)
        parts.append(mixed.transpose(1, 2).flatten(0, 1))
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return store_entries(out.contiguous(), index.queries)


def block_views(
    query: Tensor, key: Tensor, value: Tensor, block: Block
) -> tuple[Tensor, Tensor, Tensor]:
    """The list entries of a block as equally long sequences, each (sequences, length, H, D)."""
    queries = block.first_query + block.sequences * block.query_length
    keys = block.first_key + block.sequences * block.key_length
    asked = query[block.first_query : queries].unflatten(0, (block.sequences, block.query_length))
    read, summed = (
        x[block.first_key : keys].unflatten(0, (block.sequences, block.key_length))
        for x in (key, value)
    )
    return asked, read, summed
