"""Attention through torch's scaled_dot_product_attention, one call per block of equal sequences.

Rows that lie as they are needed are read through views. Only listed rows are gathered first.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

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
        q = as_batch(query, block.first_query, block.sequences, block.query_length)
        k = as_batch(key, block.first_key, block.sequences, block.key_length)
        v = as_batch(value, block.first_key, block.sequences, block.key_length)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale
        )
        parts.append(mixed.transpose(1, 2).flatten(0, 1))
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return store_entries(out.contiguous(), index.queries)


def as_batch(entries: Tensor, first: int, sequences: int, length: int) -> Tensor:
    """View of consecutive list entries as equally long sequences, (sequences, length, H, D)."""
    return entries[first : first + sequences * length].unflatten(0, (sequences, length))
