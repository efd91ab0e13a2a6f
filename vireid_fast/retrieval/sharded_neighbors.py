"""Neighbour lists of the items of each process, from blocks of features that visit it.

A list is that of one process in every bit: distances are computed in one fixed order, and lists
merge by (distance, index).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vireid_fast import ops
from vireid_fast.ops import KNN, knn, pair_distance, pairwise_distance, smallest_k
from vireid_fast.retrieval.sharded_items import ShardedItems

# Pairs whose features are gathered at once, and elements of a block of distances.
_PAIR_BYTES = 1 << 23
_BLOCK_ELEMENTS = 1 << 23


class MergedLists:
    """The k smallest distances of rows to columns that come in blocks of ascending index.

    Args:
        num_rows: Number of rows.
        k: Longest length of the lists.
        dtype: Of the distances.
        device: Of the lists.
    """

    def __init__(self, num_rows: int, k: int, dtype: torch.dtype, device: torch.device) -> None:
        self._k = k
        self._distances = torch.empty((num_rows, k), dtype=dtype, device=device)
        self._indices = torch.empty((num_rows, k), dtype=torch.int64, device=device)
        self._farthest = torch.full((num_rows,), -torch.inf, dtype=dtype, device=device)
        self._width = 0

    def merge(self, parts: Iterator[tuple[int, KNN]], size: int, first: int) -> None:
        """Take in a block of columns.

        Args:
            parts: (first row, lists of some rows within the block) such that each row comes once.
            size: Columns of the block.
            first: Index of its first column.
        """
        old, new = self._width, min(self._k, self._width + size)
        for begin, found in parts:
            rows = slice(begin, begin + len(found.farthest))
            distances = torch.cat([self._distances[rows, :old], found.distances], 1)
            indices = torch.cat([self._indices[rows, :old], found.indices + first], 1)
            # Equal distances stay in the order of their columns, so in that of the index.
            kept = smallest_k(distances, new)
            self._distances[rows, :new] = kept.distances
            self._indices[rows, :new] = indices.gather(1, kept.indices)
            self._farthest[rows] = torch.maximum(self._farthest[rows], found.farthest)
        self._width = new

    def result(self) -> KNN:
        """The lists and row maxima over all columns so far."""
        width = self._width
        return KNN(self._distances[:, :width], self._indices[:, :width], self._farthest)


def nearest(items: ShardedItems, k: int) -> KNN:
    """The k nearest of all items for each of this process's; squared Euclidean distances.

    Returns:
        Lists of shape (n, min(k, N)) in the order of `items.own_ids`, and row maxima (n,).
    """
    lists = MergedLists(len(items.own_ids), k, items.dtype, items.group.device)
    for first, block in items.blocks():
        found = ((begin, knn(rows, block, k)) for begin, rows in items.own_blocks())
        lists.merge(found, len(block), first)
    return lists.result()


def rank_lists(items: ShardedItems, candidates: KNN, k: int) -> Tensor:
    """The first k items of each row in the order (distance / row maximum, index).

    Args:
        items: The items.
        candidates: Of `nearest`, at least k long.
        k: Length of the lists, at most N.

    Returns:
        Shape (n, k), int64.
    """
    indices, is_open = ops.rank_normalised(*candidates, k)
    if candidates.indices.shape[1] == items.num_items:
        return indices
    # A tie that reaches the end of the candidates may go on beyond them with a lower index.
    open_rows = is_open.nonzero().flatten()
    if any(items.group.counts(len(open_rows))):
        # 0 / 0 has no order; all items of such a row tie.
        farthest = candidates.farthest[open_rows]
        scale = torch.where(farthest > 0, farthest, 1)[:, None]
        indices[open_rows] = _all_normalised(items, open_rows, scale, k)
    return indices


def _all_normalised(items: ShardedItems, positions: Tensor, scale: Tensor, k: int) -> Tensor:
    """`rank_lists` of a few of this process's items, from all their distances."""
    lists = MergedLists(len(positions), k, items.dtype, items.group.device)
    for first, block in items.blocks():
        step = max(1, _BLOCK_ELEMENTS // len(block))
        lists.merge(_normalised_parts(items, positions, scale, block, k, step), len(block), first)
    return lists.result().indices


def _normalised_parts(
    items: ShardedItems, positions: Tensor, scale: Tensor, block: Tensor, k: int, step: int
) -> Iterator[tuple[int, KNN]]:
    for begin in range(0, len(positions), step):
        rows = items.take_own(positions[begin : begin + step])
        distances = pairwise_distance(rows, block, metric="squared_euclidean")
        yield begin, smallest_k(distances.div_(scale[begin : begin + step]), k)


def pair_distances(items: ShardedItems, position: Tensor, number: Tensor) -> Tensor:
    """Squared Euclidean distances of this process's items to any items.

    Args:
        items: The items.
        position: Places of the first ones in `items.own_ids`. Shape (P,), int64.
        number: Numbers of the second ones, in [0, N). Shape (P,), int64.

    Returns:
        Shape (P,).
    """
    out = torch.empty(len(number), dtype=items.dtype, device=number.device)
    if not any(items.group.counts(len(number))):
        return out
    by_number = number.sort()
    step = max(1, _PAIR_BYTES // (2 * items.query.width * items.dtype.itemsize))
    for first, block in items.blocks():
        limits = torch.tensor([first, first + len(block)], device=number.device)
        begin, end = torch.searchsorted(by_number.values, limits).tolist()
        for at in range(begin, end, step):
            chosen = by_number.indices[at : min(at + step, end)]
            pairs = torch.arange(len(chosen), device=number.device)
            both = torch.cat([items.take_own(position[chosen]), block[number[chosen] - first]])
            out[chosen] = pair_distance(both, pairs, pairs + len(chosen))
    return out
