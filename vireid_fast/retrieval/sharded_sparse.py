"""The k-reciprocal rows of the items of each process, from lists and sparse rows that travel.

The ops see a small world: the items that some rows touch, numbered anew in their order, so that
every sum keeps its order and every bit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vireid_fast.ops import (
    KNN,
    SparseRows,
    expand_query,
    k_reciprocal_sets,
    reciprocal_weights,
)
from vireid_fast.retrieval.sharded_items import ShardedItems
from vireid_fast.retrieval.sharded_neighbors import pair_distances

# Rows whose sets or means are made at once, and rows that travel at once.
_ROWS = 1 << 14
_TRAVELLING_ROWS = 1 << 16


def reciprocal_rows(items: ShardedItems, indices: Tensor, candidates: KNN, k1: int) -> SparseRows:
    """The weight rows V of this process's items, before query expansion.

    Args:
        items: The items.
        indices: Neighbour lists of this process's items, nearest first. Shape (n, K), int64.
        candidates: Of `nearest`; spare distances that need not be computed again.
        k1: Neighbours beside the item itself.

    Returns:
        Rows of `items.own_ids`, columns are numbers of items.
    """
    width = min(k1 + 1, indices.shape[1])
    lists = items.gather(_narrow(indices[:, :width], items.num_items))
    sets = _Sets(lists, k1)
    counts: list[Tensor] = []
    col_parts: list[Tensor] = []
    distance_parts: list[Tensor] = []
    missing_parts: list[Tensor] = []
    for begin in range(0, len(indices), _ROWS):
        offsets, columns = sets.of(items.own_ids[begin : begin + _ROWS])
        row = begin + torch.repeat_interleave(offsets.diff())
        known, values = _look_up(candidates, row, columns)
        missing_parts.append(sum(map(len, col_parts)) + (~known).nonzero().flatten())
        counts.append(offsets.diff())
        col_parts.append(columns)
        distance_parts.append(values)
    crow = _offsets(counts, like=indices)
    if not col_parts:
        col_parts, distance_parts = [indices.new_empty(0)], [candidates.distances.new_empty(0)]
        missing_parts = [indices.new_empty(0)]
    col, distance = torch.cat(col_parts), torch.cat(distance_parts)
    missing = torch.cat(missing_parts)
    row = torch.repeat_interleave(crow.diff())
    distance[missing] = pair_distances(items, row[missing], col[missing])
    weight = reciprocal_weights(crow, distance.div_(candidates.farthest[row]))
    return SparseRows(crow, col, weight)


def expanded_rows(items: ShardedItems, rows: SparseRows, indices: Tensor, k2: int) -> SparseRows:
    """Query expansion of this process's rows: means over the first k2 items of their lists.

    Args:
        items: The items.
        rows: Of `reciprocal_rows`.
        indices: Neighbour lists of this process's items. Shape (n, K), int64.
        k2: Rows in a mean; clips to K, 1 means none.
    """
    if k2 == 1:
        return rows
    neighbours = indices[:, :k2].contiguous()
    needed = neighbours.unique()
    store = _fetch(items, rows, needed)
    means = [
        _mean_rows(store, needed, neighbours[begin : begin + _ROWS])
        for begin in range(0, len(neighbours), _ROWS)
    ]
    return _stack(means, like=rows)


def query_rows(items: ShardedItems, rows: SparseRows) -> SparseRows:
    """The rows of all queries from those that each process made."""
    own = take_rows(rows, torch.arange(items.num_own_query, device=rows.crow.device))
    lengths = torch.cat(items.group.gather(own.crow.diff()))
    return SparseRows(
        _offsets([lengths], like=rows.crow),
        torch.cat(items.group.gather(own.col)),
        torch.cat(items.group.gather(own.weight)),
    )


def take_rows(rows: SparseRows, positions: Tensor) -> SparseRows:
    """The rows at `positions`, in that order. Columns keep their numbers."""
    length = rows.crow.diff()[positions]
    crow = _offsets([length], like=rows.crow)
    owner = torch.repeat_interleave(length)
    within = torch.arange(len(owner), device=owner.device) - crow[owner]
    entries = rows.crow[positions][owner] + within
    return SparseRows(crow, rows.col[entries], rows.weight[entries])


def rows_from(rows: SparseRows, first: int) -> SparseRows:
    """The rows from `first` on, without a copy of their entries."""
    begin = int(rows.crow[first])
    return SparseRows(rows.crow[first:] - begin, rows.col[begin:], rows.weight[begin:])


class _Sets:
    """Expanded k-reciprocal sets of chosen items.

    Args:
        lists: First k1 + 1 neighbours of all items. Shape (N, K), an integer dtype.
        k1: See `k_reciprocal_sets`.
    """

    def __init__(self, lists: Tensor, k1: int) -> None:
        self._lists = lists
        self._k1 = k1
        self._half = round(k1 / 2) + 1  # half to even, as in the op
        self._place = torch.full((len(lists),), -1, dtype=torch.int64, device=lists.device)

    def of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Row offsets (n + 1,) and columns of the sets of n items."""
        # A set is made of the lists of its members, and of the half lists of their half lists.
        members = torch.cat([ids, self._lists[ids].flatten().long()]).unique()
        known = torch.cat([members, self._lists[members, : self._half].flatten().long()]).unique()
        self._place[known] = torch.arange(len(known), device=known.device)
        # Who is not known stands behind all: an item that is in nobody's set.
        local = self._lists.new_empty((len(known) + 1, self._lists.shape[1]), dtype=torch.int64)
        local[:-1] = self._place[self._lists[known].long()]
        local[local < 0] = len(known)
        local[-1] = len(known)
        crow, col = k_reciprocal_sets(local, self._k1)
        found = take_rows(SparseRows(crow, col, col), self._place[ids])
        self._place[known] = -1
        return found.crow, known[found.col]


def _look_up(candidates: KNN, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs stand in the lists, and the distances of those that do."""
    known = torch.empty_like(row, dtype=torch.bool)
    values = candidates.distances.new_empty(len(row))
    for part in torch.arange(len(row), device=row.device).split(_ROWS * 4):
        match = candidates.indices[row[part]] == column[part][:, None]
        known[part] = match.any(1)
        values[part] = candidates.distances[row[part], match.to(torch.int8).argmax(1)]
    return known, values


def _fetch(items: ShardedItems, own: SparseRows, needed: Tensor) -> SparseRows:
    """The rows of the items `needed` (ascending numbers), which come from all processes."""
    parts = []
    for first, rows in _travelling_rows(items, own):
        limits = torch.tensor([first, first + len(rows.crow) - 1], device=needed.device)
        begin, end = torch.searchsorted(needed, limits).tolist()
        parts.append(take_rows(rows, needed[begin:end] - first))
    return _stack(parts, like=own)


def _travelling_rows(items: ShardedItems, own: SparseRows) -> Iterator[tuple[int, SparseRows]]:
    """(number of the first item, rows) of blocks of all items, ascending."""
    lengths = items.gather(own.crow.diff())
    offsets = _offsets([lengths], like=own.crow)
    for source, first, begin, end in items.segments(_TRAVELLING_ROWS):
        crow = offsets[first : first + end - begin + 1] - offsets[first]
        shape = (int(crow[-1]),)
        col, weight = own.col, own.weight
        if source == items.group.rank:
            entries = slice(int(own.crow[begin]), int(own.crow[end]))
            col, weight = own.col[entries], own.weight[entries]
        columns = items.group.send(col, shape, own.col.dtype, source)
        weights = items.group.send(weight, shape, own.weight.dtype, source)
        yield first, SparseRows(crow, columns.wait(), weights.wait())


def _mean_rows(store: SparseRows, needed: Tensor, neighbours: Tensor) -> SparseRows:
    """Means of rows of `store`, which holds the rows of the items `needed`."""
    used = neighbours.unique()
    rows = take_rows(store, torch.searchsorted(needed, used))
    columns = rows.col.unique()
    # The op wants a square matrix; its last row stays empty and is what the padding lists name.
    size = max(len(used), len(neighbours), len(columns)) + 1
    crow = torch.nn.functional.pad(rows.crow, (0, size - len(used)), value=len(rows.col))
    lists = neighbours.new_full((size, neighbours.shape[1]), size - 1)
    lists[: len(neighbours)] = torch.searchsorted(used, neighbours)
    local = torch.searchsorted(columns, rows.col)
    mean = expand_query(crow, local, rows.weight, lists, neighbours.shape[1])
    return SparseRows(mean.crow[: len(neighbours) + 1], columns[mean.col], mean.weight)


def _stack(parts: list[SparseRows], like: SparseRows) -> SparseRows:
    """The rows of all parts, one after the other."""
    return SparseRows(
        _offsets([part.crow.diff() for part in parts], like=like.crow),
        torch.cat([like.col[:0], *(part.col for part in parts)]),
        torch.cat([like.weight[:0], *(part.weight for part in parts)]),
    )


def _offsets(lengths: list[Tensor], like: Tensor) -> Tensor:
    """Row offsets from the lengths of rows."""
    return torch.cat([like.new_zeros(1, dtype=torch.int64), *lengths]).cumsum(0)


def _narrow(indices: Tensor, num_items: int) -> Tensor:
    """Numbers of items in 32 bits where these hold them, for the way."""
    return indices.to(torch.int32) if num_items < 2**31 else indices
