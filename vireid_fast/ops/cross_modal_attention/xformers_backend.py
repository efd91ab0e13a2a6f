"""Attention through xFormers' memory_efficient_attention, an optional peer for CUDA tensors."""

import importlib.util
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from vireid_fast._checks import sentence
from vireid_fast.ops.cross_modal_attention.blocks import Block
from vireid_fast.ops.cross_modal_attention.index import AttentionIndex
from vireid_fast.ops.cross_modal_attention.rows import load_entries, store_entries
from vireid_fast.ops.cross_modal_attention.sdpa import block_views

# A few equal blocks are a few calls; beyond, one call with a block-diagonal mask is cheaper.
_MOST_CALLS = 2


def require_xformers(what: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise unless xFormers is there and takes such tensors.

    Raises:
        RuntimeError: xFormers is not installed.
        ValueError: The device is no CUDA device.
        TypeError: The dtype is float64.
    """
    if importlib.util.find_spec("xformers") is None:
        got = f"no module of that name (and tensors on {device})"
        raise RuntimeError(
            sentence(
                what, "backend 'xformers'", "have xformers installed and CUDA tensors", got,
                "Run pip install xformers, or choose another backend.",
            )
        )  # fmt: skip
    if device.type != "cuda":
        raise ValueError(
            sentence(
                what, "backend 'xformers'", "have CUDA tensors", f"tensors on {device}",
                "Move them with .to('cuda'), or choose another backend.",
            )
        )  # fmt: skip
    if dtype == torch.float64:
        raise TypeError(
            sentence(
                what, "backend 'xformers'", "have float32, float16 or bfloat16 tensors", dtype,
                "Choose another backend.",
            )
        )  # fmt: skip


def xformers_attention(
    query: Tensor, key: Tensor, value: Tensor, index: AttentionIndex, scale: float
) -> Tensor:
    """Attention of all sequences; arguments and result as in `sdpa.sdpa_attention`."""
    from xformers.ops import memory_efficient_attention

    query = load_entries(query, index.queries)
    key, value = load_entries(key, index.keys), load_entries(value, index.keys)
    if len(index.blocks) <= _MOST_CALLS:
        parts = []
        for block in index.blocks:
            views = block_views(query, key, value, block)
            parts.append(memory_efficient_attention(*views, scale=scale).flatten(0, 1))
        out = torch.cat(parts)
    else:
        key, value = _in_block_order(key, index.blocks), _in_block_order(value, index.blocks)
        mask = _mask(index.blocks, query.device)
        out = memory_efficient_attention(
            query[None], key[None], value[None], attn_bias=mask, scale=scale
        )[0]
    return store_entries(out, index.queries)


def _in_block_order(entries: Tensor, blocks: tuple[Block, ...]) -> Tensor:
    """Key entries in the order of the query sequences that read them."""
    ends = [(b.first_key, b.first_key + b.sequences * b.key_length) for b in blocks]
    if all(end == begin for (_, end), (begin, _) in pairwise(ends)):
        return entries
    return torch.cat([entries[begin:end] for begin, end in ends])


@lru_cache(maxsize=64)
def _mask(blocks: tuple[Block, ...], device: torch.device) -> object:
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    query_lengths = [b.query_length for b in blocks for _ in range(b.sequences)]
    key_lengths = [b.key_length for b in blocks for _ in range(b.sequences)]
    return BlockDiagonalMask.from_seqlens(query_lengths, key_lengths, device=device)
