"""Re-ranking and evaluation of a gallery that several processes share, or that exceeds the memory.

Each process has the queries and its shard of the gallery, which may be empty, a tensor, an array
or a memory-mapped file. Features visit the other processes in blocks, once for the neighbour lists
and once for the few distances outside of them; beyond that lists, sparse rows and counts travel.
One process alone needs no `torch.distributed` and walks its gallery in the same blocks. Every
result is that of one process with the whole gallery in memory, in every bit on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vireid_fast import _checks
from vireid_fast.ops import (
    SparseRows,
    blend_jaccard,
    centred_distance,
    invert_rows,
    rank_normalised,
)
from vireid_fast.retrieval.distance_rows import ROW_METRICS, RowMetric
from vireid_fast.retrieval.metrics import Metrics
from vireid_fast.retrieval.reciprocal_encoding import require_farthest, require_parameters
from vireid_fast.retrieval.sharded_distances import ShardedDistances
from vireid_fast.retrieval.sharded_group import ShardGroup
from vireid_fast.retrieval.sharded_items import ShardedItems, require_alike
from vireid_fast.retrieval.sharded_neighbors import nearest, rank_lists
from vireid_fast.retrieval.sharded_outside import OutsideNeighbors, outside_candidates
from vireid_fast.retrieval.sharded_ranks import Labels
from vireid_fast.retrieval.sharded_sparse import (
    expanded_rows,
    query_rows,
    reciprocal_rows,
    rows_from,
    take_rows,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class ShardedRerank(ShardedDistances):
    """Re-ranked distances of all queries to this process's shard; made by `rerank_sharded`."""

    def __init__(
        self,
        what: str,
        items: ShardedItems,
        rows: SparseRows,
        farthest: Tensor,
        lambda_value: float,
    ) -> None:
        super().__init__(what, items, "squared_euclidean")
        self._query_rows = query_rows(items, rows)
        self._gallery_rows = rows_from(rows, items.num_own_query)
        self._farthest = farthest
        self._lambda = lambda_value

    def _measure(self, positions: Tensor, features: Tensor) -> Callable[[Tensor], Tensor]:
        """(1 - lambda) Jaccard + lambda d / farthest of the query."""
        rows = take_rows(self._gallery_rows, positions)
        # The op numbers columns by rows: empty ones stand for all other items.
        spare = self._items.num_items - len(positions)
        crow = functional.pad(rows.crow, (0, spare), value=len(rows.col))
        inverted = invert_rows(SparseRows(crow, rows.col, rows.weight), 0)

        def measure(queries: Tensor) -> Tensor:
            # The centre is that of `rerank`.
            distances = centred_distance(self._query[queries], features, self._query[0])
            chosen = take_rows(self._query_rows, queries)
            farthest = self._farthest[queries]
            return blend_jaccard(chosen, inverted, distances, farthest, 0, self._lambda)

        return measure


def rerank_sharded(
    query: Tensor | np.ndarray,
    gallery_shard: Tensor | np.ndarray,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    neighbors: OutsideNeighbors | None = None,
    group: ProcessGroup | None = None,
    device: torch.device | str | None = None,
    block_rows: int | None = None,
) -> ShardedRerank:
    """k-reciprocal re-ranking (Zhong et al., CVPR 2017) of a gallery in shards.

    Called in all processes of the group with the same queries and parameters. Without a process
    group it is `rerank` for a gallery that need not fit into memory.

    Args:
        query: All queries. Shape (Q, D), Q >= 1; float32, float64 (all in float64) or 16-bit.
        gallery_shard: This process's gallery rows, in rank order; it may have none. Shape
            (G_rank, D), alike in dtype in all processes. An array may be a memory-mapped file.
        k1: See `rerank`, as k2 and lambda_value.
        k2: See `rerank`.
        lambda_value: See `rerank`.
        neighbors: Lists of an index, exact or approximate, in the place of the search; in all
            processes or in none.
        group: Processes; None: the default group, or this process alone where there is none.
        device: Where to compute; None: where the tensors are, the CPU for arrays. With NCCL, the
            process's GPU.
        block_rows: Feature rows that are read and sent at once, alike in all processes; None: 64
            MiB of them. No result depends on it.

    Returns:
        Distances to evaluate (`evaluate`), list (`top_k`) or put together (`gather`).

    Memory: at k1 = 20, k2 = 6 about 3 KB for each item of this process and 100 bytes for each item
    of all, a few blocks of features and a tile of distances.

    Raises:
        ValueError, TypeError, RuntimeError: As `rerank`; in all processes alike, with the number
            of the process where something is wrong.
    """
    what = "rerank_sharded"
    world = ShardGroup(group, _device(query, gallery_shard, device))
    parameters = world.agree(lambda: require_parameters(what, k1, k2, lambda_value))
    require_alike(world, what, "k1, k2 and lambda_value", str(tuple(parameters)))
    items = ShardedItems(what, query, gallery_shard, world, block_rows, scaled=True)
    require_alike(world, what, "neighbors", "none" if neighbors is None else "some")
    length = parameters.list_length(items.num_items)
    if neighbors is None:
        candidates = nearest(items, parameters.candidates(items.num_items))
    else:
        candidates = outside_candidates(what, items, parameters, neighbors)
    farthest = items.gather(candidates.farthest)
    require_farthest(what, farthest, items.num_query)
    if neighbors is None:
        indices = rank_lists(items, candidates, length)
    else:
        indices, _ = rank_normalised(*candidates, length)
    rows = reciprocal_rows(items, indices, candidates, parameters.k1)
    rows = expanded_rows(items, rows, indices, parameters.k2)
    # A copy, so that the numbers of all items need not stay.
    farthest = farthest[: items.num_query].clone()
    return ShardedRerank(what, items, rows, farthest, parameters.lambda_value)


def distances_sharded(
    query: Tensor | np.ndarray,
    gallery_shard: Tensor | np.ndarray,
    metric: RowMetric = "euclidean",
    *,
    group: ProcessGroup | None = None,
    device: torch.device | str | None = None,
    block_rows: int | None = None,
) -> ShardedDistances:
    """Plain distances to a gallery in shards; arguments and errors as of `rerank_sharded`.

    Args:
        query: All queries. Shape (Q, D).
        gallery_shard: This process's gallery rows. Shape (G_rank, D).
        metric: "euclidean", "squared_euclidean", "cosine" or "dot", see `pairwise_distance`.
        group: Processes.
        device: Where to compute.
        block_rows: Feature rows that are read at once.

    Returns:
        Distances to evaluate, list or put together. No feature travels.

    Raises:
        ValueError, TypeError, RuntimeError: See `rerank_sharded`.
    """
    what = "distances_sharded"
    world = ShardGroup(group, _device(query, gallery_shard, device))
    world.agree(lambda: _checks.require_choice(what, "metric", metric, ROW_METRICS))
    require_alike(world, what, "metric", metric)
    return ShardedDistances(
        what, ShardedItems(what, query, gallery_shard, world, block_rows), metric
    )


def evaluate_sharded(
    query: Tensor | np.ndarray,
    gallery_shard: Tensor | np.ndarray,
    query_ids: Labels,
    gallery_ids: Labels,
    query_cameras: Labels | None = None,
    gallery_cameras: Labels | None = None,
    protocol: str = "market1501",
    *,
    metric: RowMetric = "euclidean",
    rerank: tuple[int, int, float] | None = None,
    group: ProcessGroup | None = None,
    device: torch.device | str | None = None,
    block_rows: int | None = None,
) -> Metrics:
    """CMC, mAP and mINP of a gallery in shards, plain or re-ranked, in one call.

    Args:
        query: See `rerank_sharded`, as gallery_shard, group, device and block_rows.
        gallery_shard: See there.
        query_ids: See `ShardedDistances.evaluate`, as the next four.
        gallery_ids: See there; of this process's rows.
        query_cameras: See there.
        gallery_cameras: See there; of this process's rows.
        protocol: See there.
        metric: Of the plain distances; not used with `rerank`.
        rerank: (k1, k2, lambda_value); None ranks by the plain distances.
        group: Processes.
        device: Where to compute.
        block_rows: Feature rows that are read and sent at once.

    Returns:
        Metrics of the whole gallery, alike in all processes.

    Raises:
        ValueError, TypeError, RuntimeError: See `rerank_sharded` and `ShardedDistances.evaluate`.
    """
    what = "evaluate_sharded"
    world = ShardGroup(group, _device(query, gallery_shard, device))
    world.agree(
        lambda: _checks.require(
            rerank is None or len(rerank) == 3, what, "rerank", "be (k1, k2, lambda_value)", rerank
        )
    )
    require_alike(world, what, "rerank", str(rerank))
    place: dict[str, Any] = {"group": group, "device": device, "block_rows": block_rows}
    if rerank is None:
        distances = distances_sharded(query, gallery_shard, metric, **place)
    else:
        distances = rerank_sharded(query, gallery_shard, *rerank, **place)
    return distances.evaluate(query_ids, gallery_ids, query_cameras, gallery_cameras, protocol)


def _device(
    query: Tensor | np.ndarray, gallery: Tensor | np.ndarray, device: torch.device | str | None
) -> torch.device:
    if device is not None:
        return torch.device(device)
    tensor = next((each for each in (query, gallery) if isinstance(each, Tensor)), None)
    return torch.device("cpu") if tensor is None else tensor.device
