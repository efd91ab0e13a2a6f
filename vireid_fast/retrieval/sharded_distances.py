"""Distances of queries to a sharded gallery, made tile by tile and never kept unless asked for."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import KNN, RankStatistics, pairwise_distance, smallest_k
from vireid_fast.retrieval.distance_rows import RowMetric
from vireid_fast.retrieval.metrics import Metrics, metrics_from_ranks
from vireid_fast.retrieval.protocol import Protocol
from vireid_fast.retrieval.protocols import get_protocol, require_cameras
from vireid_fast.retrieval.sharded_items import ShardedItems, require_alike
from vireid_fast.retrieval.sharded_neighbors import MergedLists
from vireid_fast.retrieval.sharded_ranks import DropRule, Labels, ShardLabels, count_ranks

# Distances in a tile, and its columns: rows of features that are read together.
_TILE_ELEMENTS = 1 << 22
_TILE_COLUMNS = 1 << 13


class ShardedDistances:
    """Distances of all queries to this process's shard, and what all processes make of them.

    Small is near. Every method with "all" in its description must be called in all processes, and
    answers alike in each.

    Attributes:
        num_query: Q.
        num_gallery: G, over all processes.
        num_own: Gallery rows of this process.
        first: Gallery index of the first of them.
        dtype: float32 or float64.
        device: Of the distances.
        group: The processes.
        columns_at_once: Gallery rows whose features are read together.
    """

    def __init__(self, what: str, items: ShardedItems, metric: RowMetric) -> None:
        self._what, self._items, self._metric = what, items, metric
        self._query = items.query.rows(0, items.num_query)
        self.num_query, self.num_gallery = items.num_query, items.num_gallery
        self.num_own, self.first = len(items.gallery), items.first_gallery
        self.group, self.dtype, self.device = items.group, items.dtype, items.group.device
        self.columns_at_once = min(_TILE_COLUMNS, items.block)

    def evaluate(
        self,
        query_ids: Labels,
        gallery_ids: Labels,
        query_cameras: Labels | None = None,
        gallery_cameras: Labels | None = None,
        protocol: str = "market1501",
    ) -> Metrics:
        """CMC, mAP and mINP over all processes' items with a protocol's drop and CMC rules.

        Counts travel, no distances do.

        Args:
            query_ids: Identity of each query, the same in all processes. Shape (Q,), int64.
            gallery_ids: Identity of this process's gallery rows. Shape (num_own,), int64. Every
                item is ranked, also those of junk identities: leave these out before.
            query_cameras: Camera of each query, where the protocol drops by camera. Shape (Q,).
            gallery_cameras: Camera of this process's gallery rows. Shape (num_own,).
            protocol: Key of `PROTOCOLS`.

        Returns:
            Metrics of the whole gallery.

        Raises:
            ValueError, TypeError: As `rank_statistics` and `evaluate_rows`.
        """
        cameras = (query_cameras, gallery_cameras)
        rules, groups = self.group.agree(lambda: _rules(protocol, cameras))
        require_alike(self.group, self._what, "protocol", protocol)
        statistics = self.rank_statistics(query_ids, gallery_ids, *groups, drop=rules.drop)
        return metrics_from_ranks(statistics, self.num_gallery, rules.cmc)

    def rank_statistics(
        self,
        query_ids: Labels,
        gallery_ids: Labels,
        query_groups: Labels | None = None,
        gallery_groups: Labels | None = None,
        *,
        drop: DropRule = "none",
    ) -> RankStatistics:
        """`ops.rank_statistics` over all processes' gallery items, in every bit.

        Each process tells the distances of its correct items, counts how many of its items stand
        before every correct one, and the counts are added up. Equal distances are in the order of
        the gallery index.

        Args:
            query_ids: Identity of each query, the same in all processes. Shape (Q,), int64.
            gallery_ids: Identity of this process's gallery rows. Shape (num_own,), int64.
            query_groups: Camera or place of each query, for `drop`. Shape (Q,), int64.
            gallery_groups: Of this process's gallery rows. Shape (num_own,), int64.
            drop: "none", "same_group" or "same_group_and_id", see `ops.rank_statistics`.

        Returns:
            Statistics of all queries.

        Memory: a tile, and 8 bytes for each pair of a query and a correct item of a batch of
        queries.

        Raises:
            ValueError: In all processes: a shape or device does not fit, a group is missing, the
                queries' labels differ, or a distance is NaN.
            TypeError: A dtype does not fit.
        """
        labels = ShardLabels.checked(
            self._what, self.group, (self.num_query, self.num_own), self.device,
            (query_ids, gallery_ids, query_groups, gallery_groups), drop,
        )  # fmt: skip
        return count_ranks(self._what, self, labels)

    def top_k(self, k: int) -> KNN:
        """The k nearest gallery items of each query over all processes, ties by the lower index.

        Args:
            k: Length of the lists, at least 1; clips to G.

        Returns:
            Distances and gallery indices (Q, k), and the largest distance of each query (Q,).

        Raises:
            ValueError, TypeError: k is no integer of at least 1.
        """
        k = self.group.agree(lambda: _checks.positive_int(self._what, "k", k))
        require_alike(self.group, self._what, "k", str(k))
        k = min(k, self.num_gallery)
        queries = torch.arange(self.num_query, device=self.device)
        lists = MergedLists(self.num_query, min(k, self.num_own), self.dtype, self.device)
        for begin, features in self._columns():
            positions = torch.arange(begin, begin + len(features), device=self.device)
            measure = self._measure(positions, features)
            found = (
                (int(part[0]), smallest_k(measure(part), k))
                for part in queries.split(self._rows(len(features)))
            )
            lists.merge(found, len(features), self.first + begin)
        own = lists.result()
        distances = torch.cat(self.group.gather(own.distances.T)).T.contiguous()
        indices = torch.cat(self.group.gather(own.indices.T)).T
        best = smallest_k(distances, k)
        farthest = torch.stack(self.group.gather(own.farthest)).amax(0)
        return KNN(best.distances, indices.gather(1, best.indices), farthest)

    def gather(self) -> Tensor:
        """The distances of all queries to all gallery items. Shape (Q, G), in each process.

        Memory: O(Q G): for galleries that are small enough to be looked at.
        """
        own = torch.empty((self.num_query, self.num_own), dtype=self.dtype, device=self.device)
        for queries, begin, tile in self.tiles(torch.arange(self.num_query, device=self.device)):
            own[queries[0] : queries[-1] + 1, begin : begin + tile.shape[1]] = tile
        if self.group.size == 1:
            return own
        out = torch.empty((self.num_query, self.num_gallery), dtype=self.dtype, device=self.device)
        rows = self._rows(self.num_gallery)
        for begin in range(0, self.num_query, rows):
            parts = self.group.gather(own[begin : begin + rows].T.contiguous())
            out[begin : begin + rows] = torch.cat(parts).T
        return out

    def tiles(self, queries: Tensor) -> Iterator[tuple[Tensor, int, Tensor]]:
        """Distances to this process's shard: (some queries, first row, tile) until all were there.

        Features are read once, block by block; for each all `queries` (int64 positions) pass.
        """
        for begin, features in self._columns():
            positions = torch.arange(begin, begin + len(features), device=self.device)
            measure = self._measure(positions, features)
            for part in queries.split(self._rows(len(features))):
                if len(part):
                    yield part, begin, measure(part)

    def chosen(self, queries: Tensor, positions: Tensor) -> Tensor:
        """Distances of some queries to some rows of the shard. Shape (queries, positions)."""
        return self._measure(positions, self._items.gallery.take(positions))(queries)

    def _measure(self, positions: Tensor, features: Tensor) -> Callable[[Tensor], Tensor]:
        """What gives the distances of some queries to the rows at `positions` of the shard.

        A distance is the same in every tile.
        """
        return lambda queries: pairwise_distance(
            self._query[queries], features, metric=self._metric
        )

    def _columns(self) -> Iterator[tuple[int, Tensor]]:
        return self._items.gallery.blocks(self.columns_at_once)

    def _rows(self, columns: int) -> int:
        return max(1, _TILE_ELEMENTS // max(1, columns))


def _rules(
    protocol: str, cameras: tuple[Labels | None, Labels | None]
) -> tuple[Protocol, tuple[Tensor | None, ...]]:
    """A protocol, and what it drops by: of the queries, and of gallery rows."""
    rules = get_protocol(protocol)
    if rules.drop == "none":
        return rules, (None, None)
    found = []
    for name, values in zip(("query", "gallery"), cameras, strict=True):
        if values is None:
            raise ValueError(_checks.sentence(
                rules.name, f"{name}_cameras", "be given, since it drops by camera", None
            ))  # fmt: skip
        numbers = torch.from_numpy(np.array(values)) if isinstance(values, np.ndarray) else values
        require_cameras(rules, numbers, name)
        found.append(rules.groups(numbers))
    return rules, tuple(found)
