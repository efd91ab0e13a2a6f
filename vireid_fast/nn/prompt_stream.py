"""The blocks of a text tower over a packed stream of tokens that share prefixes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vireid_fast.nn.prompt_trie import Path, PrefixTrie
from vireid_fast.nn.text_tower_view import BlockView

KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Segment:
    """Sequences of one length that lie one after the other in a stream.

    Attributes:
        count: Number of sequences.
        length: Tokens of each.
        path: Row ranges of the prefix tokens that come before each of them.
    """

    count: int
    length: int
    path: Path

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens of each sequence, and tokens before it."""
        return self.length, sum(last - first for first, last in self.path)


@dataclass(frozen=True)
class Part:
    """Prompts [first, last) of a group."""

    group: int
    first: int
    last: int


def split_prompts(sizes: Sequence[int], block: int) -> Iterator[list[Part]]:
    """Chunks of up to `block` prompts, the groups one after the other.

    Args:
        sizes: Prompts of each group.
        block: At least 1.
    """
    chunk: list[Part] = []
    room = block
    for group, size in enumerate(sizes):
        first = 0
        while first < size:
            last = min(size, first + room)
            chunk.append(Part(group, first, last))
            room -= last - first
            first = last
            if room == 0:
                yield chunk
                chunk, room = [], block
    if chunk:
        yield chunk


def prefix_segments(trie: PrefixTrie) -> list[Segment]:
    """The trie as segments of one sequence each, rows from 0."""
    return [Segment(1, node.length, node.path) for node in trie.nodes]


def last_tokens(
    blocks: Sequence[BlockView],
    x: Tensor,
    segments: Sequence[Segment],
    num_nodes: int = 0,
    cache: Sequence[KeyValue] | None = None,
) -> tuple[Tensor, list[KeyValue]]:
    """Run all blocks over a stream; the last block for the last token of each sequence only.

    Args:
        blocks: Blocks of the tower, at least one.
        x: Embeddings plus positions: prefix tokens if there is no cache, then the rest. Shape
            (N, W).
        segments: All rows of `x`, in order; without a cache, those of the prefix tokens first.
        num_nodes: Number of segments that are prefix tokens.
        cache: Keys and values of the prefix tokens in each block, each (U, W), from an earlier
            stream.

    Returns:
        Last tokens of all sequences but the prefix ones, before the last norm, shape (S, W), and
        the keys and values of the prefix tokens in each block.
    """
    kept: list[KeyValue] = []
    masks = {s.shape: _causal_mask(*s.shape, x.device) for s in segments}
    for index, block in enumerate(blocks[:-1]):
        query, key, value = (_split(part, segments) for part in block.project(block.norm_1(x)))
        kept.append(_prefix_rows(key, value, num_nodes) if cache is None else cache[index])
        mixed = [
            _attend(block.heads, q, k, v, segment, kept[-1], masks[segment.shape])
            for q, k, v, segment in zip(query, key, value, segments, strict=True)
        ]
        x = block.feed_forward(x + block.out(_join(mixed)))
    block, read = blocks[-1], segments[num_nodes:]
    normal = block.norm_1(x)
    key, value = (_split(part, segments) for part in block.project_key_value(normal))
    kept.append(_prefix_rows(key, value, num_nodes) if cache is None else cache[-1])
    asking = block.project_query(_last_rows(normal, segments, num_nodes))
    query = asking.split([segment.count for segment in read])
    mixed = [
        _attend(block.heads, q, k, v, segment, kept[-1], None)
        for q, k, v, segment in zip(query, key[num_nodes:], value[num_nodes:], read, strict=True)
    ]
    x = _last_rows(x, segments, num_nodes)
    return block.feed_forward(x + block.out(_join(mixed))), kept


def all_tokens(blocks: Sequence[BlockView], x: Tensor) -> Tensor:
    """Run all blocks for all tokens of sequences that share nothing.

    Args:
        blocks: Blocks of the tower.
        x: Embeddings plus positions. Shape (B, L, W).

    Returns:
        Shape (B, L, W), before the last norm.
    """
    count, length, width = x.shape
    segment = Segment(count, length, ())
    mask = _causal_mask(*segment.shape, x.device)
    x = x.reshape(count * length, width)
    for block in blocks:
        query, key, value = block.project(block.norm_1(x))
        mixed = _attend(block.heads, query, key, value, segment, (key[:0], value[:0]), mask)
        x = block.feed_forward(x + block.out(mixed))
    return x.view(count, length, width)


def _attend(
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segment: Segment,
    prefix: KeyValue,
    mask: Tensor | None,
) -> Tensor:
    """Attention of one segment's rows; `query` may be its last tokens alone."""
    # (S, tokens, W) to (S, H, tokens, W / H), without a copy.
    rows = query.view(segment.count, query.shape[0] // segment.count, heads, -1).transpose(1, 2)
    keys = _with_prefix(key, prefix[0], segment, heads)
    values = _with_prefix(value, prefix[1], segment, heads)
    mixed = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask)
    return mixed.transpose(1, 2).reshape(query.shape)


def _with_prefix(own: Tensor, prefix: Tensor, segment: Segment, heads: int) -> Tensor:
    """Keys or values of the prefix and of the segment itself, (S, H, P + T, W / H)."""
    rows = own.view(segment.count, segment.length, -1)
    if segment.path:
        before = [prefix[first:last].expand(segment.count, -1, -1) for first, last in segment.path]
        rows = torch.cat([*before, rows], dim=1)
    return rows.unflatten(2, (heads, rows.shape[2] // heads)).transpose(1, 2)


def _split(x: Tensor, segments: Sequence[Segment]) -> tuple[Tensor, ...]:
    # One split has one concatenation as its backward; slices would each fill a whole gradient.
    return x.split([segment.count * segment.length for segment in segments])


def _prefix_rows(
    key: tuple[Tensor, ...], value: tuple[Tensor, ...], num_nodes: int
) -> KeyValue:
    if num_nodes == 0:
        return key[0][:0], value[0][:0]
    # Copies, since a view would keep the projections of the whole stream alive between chunks.
    return torch.cat(key[:num_nodes]), torch.cat(value[:num_nodes])


def _last_rows(x: Tensor, segments: Sequence[Segment], num_nodes: int) -> Tensor:
    parts = _split(x, segments)[num_nodes:]
    return _join(
        [
            part.view(segment.count, segment.length, -1)[:, -1]
            for part, segment in zip(parts, segments[num_nodes:], strict=True)
        ]
    )


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _causal_mask(length: int, before: int, device: torch.device) -> Tensor:
    """True where a token may look: at all `before` tokens and at those up to itself."""
    mask = torch.ones(length, before + length, dtype=torch.bool, device=device)
    return mask.tril(diagonal=before)
