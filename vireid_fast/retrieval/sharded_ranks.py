"""Ranks of the correct items in a sharded gallery: distances of the correct ones and counts travel.

The rank of an item is the number of items before it, which is a sum over shards.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import RankStatistics, count_nearer
from vireid_fast.ops.rank_statistics import DropRule
from vireid_fast.retrieval.sharded_group import ShardGroup
from vireid_fast.retrieval.sharded_items import require_alike

if TYPE_CHECKING:
    from vireid_fast.retrieval.sharded_distances import ShardedDistances

Labels = Tensor | np.ndarray

# Pairs of a query and a correct item, and of a query and an identity, that a batch may have.
_BATCH_PAIRS = 1 << 22
_BATCH_IDENTITIES = 1 << 26
_SUMMED = 1 << 20
# Queries of like identity whose correct items are measured together.
_NEIGHBOURING_QUERIES = 64


@dataclass(frozen=True)
class ShardLabels:
    """Who the queries and this process's gallery rows are, and which rows a query does not see.

    Attributes:
        query_ids: Shape (Q,), int64.
        gallery_ids: Shape (rows of the shard,), int64.
        query_groups: Shape (Q,), int64.
        gallery_groups: Shape (rows of the shard,), int64.
        drop: See `ops.rank_statistics`.
    """

    query_ids: Tensor
    gallery_ids: Tensor
    query_groups: Tensor
    gallery_groups: Tensor
    drop: DropRule

    @classmethod
    def checked(
        cls,
        what: str,
        group: ShardGroup,
        sizes: tuple[int, int],
        device: torch.device,
        columns: tuple[Labels, Labels, Labels | None, Labels | None],
        drop: DropRule,
    ) -> ShardLabels:
        """The labels, if they fit in all processes; else the same error in each."""
        labels = group.agree(lambda: _labels(what, sizes, device, columns, drop))
        queries = torch.stack([labels.query_ids, labels.query_groups]).cpu().numpy()
        require_alike(
            group, what, "query_ids, query_groups and drop",
            f"{drop} {zlib.crc32(queries.data):08x}",
        )
        return labels

    def correct_pairs(self) -> tuple[Tensor, Tensor]:
        """(query, gallery row) of all correct pairs that are not dropped, by query, then by row."""
        ids, rows = self.gallery_ids.sort(stable=True)
        first = torch.searchsorted(ids, self.query_ids)
        length = torch.searchsorted(ids, self.query_ids, right=True) - first
        query = torch.repeat_interleave(length)
        place = torch.arange(len(query), device=query.device) - (length.cumsum(0) - length)[query]
        row = rows[first[query] + place]
        if self.drop != "none":
            kept = self.query_groups[query] != self.gallery_groups[row]
            query, row = query[kept], row[kept]
        return query, row

    def dropped(self, queries: Tensor, begin: int, end: int) -> Tensor | None:
        """Which of the gallery rows begin to end - 1 each query does not see; None: it sees all."""
        if self.drop == "none":
            return None
        dropped = self.query_groups[queries, None] == self.gallery_groups[None, begin:end]
        if self.drop == "same_group_and_id":
            dropped &= self.query_ids[queries, None] == self.gallery_ids[None, begin:end]
        return dropped


def _labels(
    what: str,
    sizes: tuple[int, int],
    device: torch.device,
    columns: tuple[Labels, Labels, Labels | None, Labels | None],
    drop: DropRule,
) -> ShardLabels:
    """The labels of this process, if they fit."""
    _checks.require_choice(what, "drop", drop, get_args(DropRule))
    names = ("query_ids", "gallery_ids", "query_groups", "gallery_groups")
    ids, groups = columns[:2], columns[2:]
    if drop == "none":
        groups = ids  # not read
    found = []
    for name, values, size in zip(names, (*ids, *groups), sizes * 2, strict=True):
        if values is None:
            raise ValueError(_checks.sentence(
                what, name, f'be given for drop="{drop}"', None,
                "Pass the camera or place of each item."))  # fmt: skip
        if isinstance(values, np.ndarray):
            values = torch.from_numpy(np.array(values))
        _checks.require_dtype(what, name, values, (torch.int64,))
        _checks.require_shape(what, name, values, (size,))
        found.append(values.to(device))
    query_ids, gallery_ids, query_groups, gallery_groups = found
    return ShardLabels(query_ids, gallery_ids, query_groups, gallery_groups, drop)


@torch.no_grad()
def count_ranks(what: str, distances: ShardedDistances, labels: ShardLabels) -> RankStatistics:
    """Rank statistics of all queries, alike in all processes.

    Raises:
        ValueError: A distance is NaN.
    """
    group = distances.group
    identities = torch.cat(group.gather(labels.gallery_ids)).unique()
    classes = torch.searchsorted(identities, labels.gallery_ids)
    query, row = labels.correct_pairs()
    num_pairs = group.sum(torch.bincount(query, minlength=distances.num_query))
    parts = []
    for begin, end in _batches(num_pairs, len(identities)):
        low, high = torch.searchsorted(query, query.new_tensor([begin, end])).tolist()
        pairs = _Pairs.gathered(distances, labels, query[low:high], row[low:high], (begin, end))
        parts.append(_count(what, distances, labels, pairs, classes, len(identities)))
    return RankStatistics(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Pairs:
    """The correct pairs of a batch of queries over all shards, nearest first for each query.

    Attributes:
        begin: First query of the batch.
        crow: Offsets of the queries' pairs. Shape (queries + 1,).
        distance: Of each pair.
        index: Gallery index of each pair.
    """

    begin: int
    crow: Tensor
    distance: Tensor
    index: Tensor

    @classmethod
    def gathered(
        cls,
        distances: ShardedDistances,
        labels: ShardLabels,
        query: Tensor,
        row: Tensor,
        batch: tuple[int, int],
    ) -> _Pairs:
        """From this process's pairs (query, row), by query, of the batch (first, last + 1)."""
        group = distances.group
        own = _pair_distances(distances, labels, query, row)
        query = torch.cat(group.gather(query)) - batch[0]
        distance = torch.cat(group.gather(own))
        index = torch.cat(group.gather(row + distances.first))
        # By gallery index they are in order within a query; stable sorts add the distance.
        order = distance.sort(stable=True).indices
        order = order[query[order].sort(stable=True).indices]
        lengths = torch.bincount(query, minlength=batch[1] - batch[0])
        crow = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        return cls(batch[0], crow, distance[order], index[order])

    def of(self, queries: Tensor) -> tuple[slice, Tensor]:
        """Where the pairs of consecutive queries stand, and offsets within."""
        first, last = int(queries[0]) - self.begin, int(queries[-1]) - self.begin
        crow = self.crow[first : last + 2]
        return slice(int(crow[0]), int(crow[-1])), crow - crow[0]


def _count(
    what: str,
    distances: ShardedDistances,
    labels: ShardLabels,
    pairs: _Pairs,
    classes: Tensor,
    num_identities: int,
) -> RankStatistics:
    """Statistics of one batch of queries from counts over all shards."""
    num_query = len(pairs.crow) - 1
    queries = torch.arange(pairs.begin, pairs.begin + num_query, device=pairs.crow.device)
    ranks = torch.zeros_like(pairs.index)
    before = torch.zeros((num_query, num_identities), dtype=torch.uint8, device=queries.device)
    nan_rows = torch.zeros_like(queries)
    for part, begin, tile in distances.tiles(queries):
        nan_rows[part - pairs.begin] |= tile.isnan().any(1)
        dropped = labels.dropped(part, begin, begin + tile.shape[1])
        if dropped is not None:
            # No comparison holds for NaN: what is dropped is never counted.
            tile.masked_fill_(dropped, torch.nan)
        entries, crow = pairs.of(part)
        found = count_nearer(
            tile, crow, pairs.distance[entries], pairs.index[entries], distances.first + begin
        )
        ranks[entries] += found
        local = (pairs.distance[entries], pairs.index[entries] - distances.first - begin)
        query, column = _before_first(tile, crow, *local)
        before[part[query] - pairs.begin, classes[begin + column]] = 1
    bad = distances.group.maximum(nan_rows).nonzero()
    _checks.require(
        bad.numel() == 0, what, "distances", "hold no NaN",
        f"nan in the row of query {pairs.begin + int(bad[0]) if bad.numel() else -1}",
        "Check the features of that query.",
    )  # fmt: skip
    # A few rows at a time, because a sum widens what it is given to 8 bytes.
    parts = distances.group.maximum(before).split(max(1, _SUMMED // max(1, num_identities)))
    seen = torch.cat([part.sum(1) for part in parts])
    return _statistics(pairs.crow, distances.group.sum(ranks), seen)


def _before_first(
    tile: Tensor, crow: Tensor, distance: Tensor, column: Tensor
) -> tuple[Tensor, Tensor]:
    """(row, column) of all entries before the nearest correct item of their query."""
    has_some = crow.diff() > 0
    first = crow[:-1].clamp(max=max(0, len(distance) - 1))
    if not len(distance):
        return crow.new_empty(0), crow.new_empty(0)
    bound = torch.where(has_some, distance[first], torch.nan)[:, None]
    place = torch.arange(tile.shape[1], device=tile.device)
    before = (tile < bound) | ((tile == bound) & (place < column[first][:, None]))
    row, column_before = before.nonzero().unbind(1)
    return row, column_before


def _statistics(crow: Tensor, ranks: Tensor, identities: Tensor) -> RankStatistics:
    """First rank, AP and INP from the ascending 0-based ranks of each query's correct items."""
    hits = crow.diff()
    some = hits > 0
    first_rank = torch.full_like(hits, -1)
    first_rank[some] = ranks[crow[:-1][some]]
    query = torch.repeat_interleave(hits)
    hit = torch.arange(len(ranks), device=ranks.device) - crow[query] + 1
    # index_add_ adds in this order, as one process does.
    precision = torch.zeros(hits.shape, dtype=torch.float64, device=hits.device)
    precision.index_add_(0, query, hit.double() / (ranks + 1).double())
    penalty = torch.full_like(precision, torch.nan)
    penalty[some] = hits[some].double() / (ranks[crow[1:][some] - 1] + 1).double()
    return RankStatistics(
        first_rank,
        torch.where(some, identities.to(hits.dtype), -1),
        torch.where(some, precision / hits.double(), torch.nan),
        penalty,
        hits,
    )


def _pair_distances(
    distances: ShardedDistances, labels: ShardLabels, query: Tensor, row: Tensor
) -> Tensor:
    """Distances of this process's pairs, measured for queries of like identity together."""
    out = torch.empty(len(query), dtype=distances.dtype, device=query.device)
    order = labels.query_ids[query].sort(stable=True).indices
    for chosen in order.split(_runs_of_queries(query[order])):
        queries, place = query[chosen].unique(return_inverse=True)
        rows, column = row[chosen].unique(return_inverse=True)
        step = distances.columns_at_once
        for begin in range(0, len(rows), step):
            tile = distances.chosen(queries, rows[begin : begin + step])
            here = (column >= begin) & (column < begin + step)
            out[chosen[here]] = tile[place[here], column[here] - begin]
    return out


def _runs_of_queries(query: Tensor) -> list[int]:
    """Lengths of consecutive pieces that hold a few queries each; equal queries are neighbours."""
    _, lengths = torch.unique_consecutive(query, return_counts=True)
    return [int(part.sum()) for part in lengths.split(_NEIGHBOURING_QUERIES)]


def _batches(num_pairs: Tensor, num_identities: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of batches of queries that fit into memory, at least one query each."""
    longest = max(1, _BATCH_IDENTITIES // max(1, num_identities))
    total = num_pairs.cumsum(0)
    begin, done = 0, 0
    while begin < len(num_pairs):
        fitting = int(torch.searchsorted(total, done + _BATCH_PAIRS, right=True))
        end = max(begin + 1, min(begin + longest, fitting))
        yield begin, end
        begin, done = end, int(total[end - 1])
