"""Queries that every process has and a gallery that they share: who works on which rows.

The N = Q + G items are numbered queries first, then the shards in rank order. Each process works on
its part of the queries and on its shard; the others' features visit it in blocks.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.retrieval.sharded_group import Arrival, ShardGroup
from vireid_fast.retrieval.squared_distances import scaling_factors
from vireid_fast.retrieval.stored_features import StoredFeatures

BLOCK_BYTES = 1 << 26
"""Features in a block, unless the caller says how many rows. Two blocks exist at a time."""


class ShardedItems:
    """All items, as far as this process sees them.

    Args:
        what: Name of the caller, for errors.
        query: Shape (Q, D), Q >= 1, the same rows in all processes.
        gallery_shard: This process's rows of the gallery. Shape (G_rank, D), G_rank may be 0.
        group: The processes.
        block_rows: Rows of a block; None: as many as fill `BLOCK_BYTES`.
        scaled: Whether features whose squares would leave the range of the dtype are multiplied by
            a power of two, as `rerank` does it.

    Attributes:
        query: Features of all queries.
        gallery: Features of this process's shard.
        group: The processes.
        block: Rows of a block.
        shards: Gallery rows of each process.
        own_query: First and last + 1 query that this process works on.
        own_ids: Numbers of this process's items, ascending. Shape (n,), int64.

    Raises:
        ValueError, TypeError, RuntimeError: In all processes alike, if one cannot go on: shape,
            dtype or device do not fit or differ, a feature is not finite, or the queries differ.
    """

    def __init__(
        self,
        what: str,
        query: Tensor | np.ndarray,
        gallery_shard: Tensor | np.ndarray,
        group: ShardGroup,
        block_rows: int | None = None,
        *,
        scaled: bool = False,
    ) -> None:
        self.group = group
        queries, gallery, block, largest = group.agree(
            lambda: _opened(what, query, gallery_shard, block_rows)
        )
        require_alike(group, what, "gallery_shard", f"{gallery.stored} of width {gallery.width}")
        require_alike(group, what, "block_rows", str(block))
        dtype = torch.promote_types(queries.dtype, gallery.dtype)
        magnitude = torch.tensor(largest, dtype=torch.float64, device=group.device)
        factors = scaling_factors(float(group.maximum(magnitude)), dtype) if scaled else ()
        self.query = queries.to(group.device, dtype, factors)
        self.gallery = gallery.to(group.device, dtype, factors)
        self.block = block
        self.dtype = dtype
        require_alike(group, what, "query", _fingerprint(self.query, block))
        self.shards = group.counts(len(gallery))
        _checks.require(
            sum(self.shards) > 0, what, "gallery_shard", "hold a row in at least one process",
            self.shards,
        )  # fmt: skip
        self.num_query, self.num_gallery = len(query), sum(self.shards)
        self.num_items = self.num_query + self.num_gallery
        bounds = [self.num_query * rank // group.size for rank in range(group.size + 1)]
        self._query_bounds = bounds
        self.own_query = (bounds[group.rank], bounds[group.rank + 1])
        self.first_gallery = sum(self.shards[: group.rank])
        first = self.num_query + self.first_gallery
        self.own_ids = torch.cat(
            [
                torch.arange(*self.own_query, device=group.device),
                torch.arange(first, first + len(gallery), device=group.device),
            ]
        )

    @property
    def num_own_query(self) -> int:
        """Queries that this process works on: the first of its items."""
        return self.own_query[1] - self.own_query[0]

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(number of the first item, features) of blocks of all items, ascending.

        The next block travels while one is used.
        """
        yield from self.query.blocks(self.block)
        ahead: tuple[int, Arrival] | None = None
        for number, arrival in self._gallery_blocks():
            if ahead is not None:
                yield ahead[0], ahead[1].wait()
            ahead = (number, arrival)
        if ahead is not None:
            yield ahead[0], ahead[1].wait()

    def own_blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(position among `own_ids`, features) of blocks of this process's items, ascending."""
        for begin in range(*self.own_query, self.block):
            end = min(begin + self.block, self.own_query[1])
            yield begin - self.own_query[0], self.query.rows(begin, end)
        for begin, rows in self.gallery.blocks(self.block):
            yield self.num_own_query + begin, rows

    def take_own(self, positions: Tensor) -> Tensor:
        """Features of the items at `positions` of `own_ids`. Shape (number of positions, D)."""
        in_query = positions < self.num_own_query
        rows = torch.empty(
            (len(positions), self.query.width), dtype=self.dtype, device=self.group.device
        )
        rows[in_query] = self.query.take(positions[in_query] + self.own_query[0])
        rows[~in_query] = self.gallery.take(positions[~in_query] - self.num_own_query)
        return rows

    def gather(self, own: Tensor) -> Tensor:
        """Rows of all items in their order from each process's rows of its own items."""
        if self.group.size == 1:
            return own
        queries = self.group.gather(own[: self.num_own_query])
        return torch.cat([*queries, *self.group.gather(own[self.num_own_query :])])

    def segments(self, size: int) -> Iterator[tuple[int, int, int, int]]:
        """All items in blocks of at most `size`, each of one process, ascending.

        Yields:
            Process; number of the first item; first and last + 1 position in that process's items.
        """
        number = 0
        for source in range(self.group.size):
            length = self._query_bounds[source + 1] - self._query_bounds[source]
            for begin in range(0, length, size):
                end = min(begin + size, length)
                yield source, number, begin, end
                number += end - begin
        for source, shard in enumerate(self.shards):
            first = self._query_bounds[source + 1] - self._query_bounds[source]
            for begin in range(first, first + shard, size):
                end = min(begin + size, first + shard)
                yield source, number, begin, end
                number += end - begin

    def _gallery_blocks(self) -> Iterator[tuple[int, Arrival]]:
        number = self.num_query
        for source, length in enumerate(self.shards):
            for begin in range(0, length, self.block):
                size = min(self.block, length - begin)
                mine = source == self.group.rank
                rows = self.gallery.rows(begin, begin + size) if mine else None
                shape = (size, self.gallery.width)
                yield number, self.group.send(rows, shape, self.dtype, source)
                number += size


def require_alike(group: ShardGroup, what: str, argument: str, text: str) -> None:
    """Raise ValueError in all processes unless they describe `argument` by one text."""
    texts = group.texts(text) if group.size > 1 else [text]
    different = next((rank for rank, other in enumerate(texts) if other != texts[0]), None)
    if different is not None:
        _checks.require(
            False, what, argument, "be alike in all processes",
            f"{texts[0]} in process 0 and {texts[different]} in process {different}",
        )  # fmt: skip


def _opened(
    what: str,
    query: Tensor | np.ndarray,
    gallery_shard: Tensor | np.ndarray,
    block_rows: int | None,
) -> tuple[StoredFeatures, StoredFeatures, int, float]:
    """What this process was given, checked as far as it can be seen here; its largest magnitude."""
    given = StoredFeatures(what, "query", query)
    gallery = StoredFeatures(what, "gallery_shard", gallery_shard)
    _checks.require(len(given) > 0, what, "query", "have at least one row", tuple(query.shape))
    _checks.require(
        gallery.width == given.width, what, "gallery_shard",
        f"have shape (rows, {given.width}) like query", tuple(gallery_shard.shape),
    )  # fmt: skip
    tensors = {"query": query, "gallery_shard": gallery_shard}
    _checks.require_same_device(what, **{k: v for k, v in tensors.items() if torch.is_tensor(v)})
    row_bytes = given.width * torch.promote_types(given.dtype, gallery.dtype).itemsize
    block = max(1, BLOCK_BYTES // row_bytes) if block_rows is None else block_rows
    block = _checks.positive_int(what, "block_rows", block)
    return given, gallery, block, max(given.largest(block), gallery.largest(block))


def _fingerprint(features: StoredFeatures, block: int) -> str:
    """Equal for equal features, in words."""
    digest = hashlib.blake2b(digest_size=8)
    for _, rows in features.blocks(block):
        digest.update(rows.cpu().numpy().data)
    return f"{len(features)} rows with digest {digest.hexdigest()}"
