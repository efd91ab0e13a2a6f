"""A gallery in shards against one process that has it whole: equal in every bit."""

import contextlib
from unittest import mock

import numpy as np
import pytest
import torch
from processes import run_processes

from vireid_fast.engine.distributed import World
from vireid_fast.ops import pairwise_distance, rank_statistics, smallest_k
from vireid_fast.retrieval import (
    sharded_distances,
    sharded_neighbors,
    sharded_ranks,
    sharded_sparse,
)
from vireid_fast.retrieval.distance_rows import MatrixRows
from vireid_fast.retrieval.evaluation import evaluate_rows
from vireid_fast.retrieval.neighbors import rerank_from_neighbors
from vireid_fast.retrieval.rerank import rerank
from vireid_fast.retrieval.sharded import distances_sharded, evaluate_sharded, rerank_sharded
from vireid_fast.retrieval.sharded_outside import OutsideNeighbors

# Gallery rows of each process, by the number of processes.
SHARDS = {1: (29,), 2: (22, 7), 3: (3, 0, 26), 4: (11, 12, 0, 6)}
NUM_QUERY, NUM_GALLERY, WIDTH = 7, 29, 6

# Name -> (kind of features, k1, k2, lambda, rows of a block).
CASES = {
    "clustered": ("clustered", 5, 3, 0.3, None),
    "small blocks": ("clustered", 5, 3, 0.3, 2),
    "small pieces": ("duplicates", 5, 3, 0.3, 9),
    "ties": ("integers", 6, 4, 0.3, 4),
    "duplicates": ("duplicates", 4, 2, 0.5, 5),
    "all lists full": ("clustered", 50, 60, 0.0, 7),
    "no expansion": ("integers", 7, 1, 1.0, 11),
    "float64": ("float64", 5, 3, 0.3, 4),
    "float16": ("float16", 5, 3, 0.3, 4),
    "file": ("file", 5, 3, 0.3, 4),
    "huge": ("huge", 5, 3, 0.3, 4),
    "one query": ("one query", 5, 3, 0.3, 4),
}


# Everything that is done in pieces, in pieces that are smaller than these few items.
PIECES = {
    sharded_distances: {"_TILE_ELEMENTS": 20, "_TILE_COLUMNS": 6},
    sharded_neighbors: {"_PAIR_BYTES": 1, "_BLOCK_ELEMENTS": 20},
    sharded_ranks: {"_BATCH_PAIRS": 30, "_BATCH_IDENTITIES": 24, "_NEIGHBOURING_QUERIES": 2},
    sharded_sparse: {"_ROWS": 5, "_TRAVELLING_ROWS": 4},
}


def features(kind):
    """Query and gallery."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(6, WIDTH, generator=generator)
    rows = NUM_QUERY + NUM_GALLERY
    points = centres[torch.arange(rows) % 6] + torch.randn(rows, WIDTH, generator=generator) / 2
    if kind == "integers":
        points = points.round().clamp(-1, 1)
    elif kind == "duplicates":
        # Rows that are equal, some of them zero.
        points = points[torch.arange(rows) % 4] * (torch.arange(rows) % 4 > 0)[:, None]
    elif kind == "huge":
        points = points * 1e30
    elif kind in ("float64", "float16"):
        points = points.to(getattr(torch, kind))
    query, gallery = points[:NUM_QUERY], points[NUM_QUERY:]
    return query[:1] if kind == "one query" else query, gallery


def labels():
    """(ids, groups) of queries and gallery; query 3 has no correct item."""
    ids = torch.arange(NUM_QUERY + NUM_GALLERY) % 6
    groups = torch.arange(NUM_QUERY + NUM_GALLERY) % 5 % 3
    ids[3] = 99
    return ids[:NUM_QUERY], groups[:NUM_QUERY], ids[NUM_QUERY:], groups[NUM_QUERY:]


# Name -> (which lists, what else is given).
OUTSIDE_LISTS = {
    "exact lists": ("exact", ()),
    "lists without the item": ("others", ()),
    "approximate lists": ("approximate", ("farthest",)),
}


def outside_lists(kind):
    """Lists of the clustered features, and largest distances."""
    points = torch.cat(features("clustered"))
    distances = pairwise_distance(points, points, metric="squared_euclidean")
    lists = distances.argsort(dim=1, stable=True)
    if kind == "others":
        lists = lists[:, 1:]
    if kind == "approximate":
        # Every third neighbour was missed.
        lists = lists[:, torch.arange(lists.shape[1]) % 3 < 2]
    return lists[:, :9].numpy(), distances.amax(1)


def _own_items(world, values):
    """Rows of all queries and of this process's gallery rows."""
    query, gallery = values[:NUM_QUERY], torch.as_tensor(values[NUM_QUERY:])
    own = torch.cat([torch.as_tensor(query), _own(world, gallery)])
    return own.numpy() if isinstance(values, np.ndarray) else own


def _own(world, tensor):
    return tensor.split(SHARDS[world.size])[world.rank]


def _used(distances, who, everything):
    drops = ("none", "same_group", "same_group_and_id") if everything else ("same_group",)
    return {
        "all": distances.gather(),
        "lists": {k: distances.top_k(k) for k in ((4, 100) if everything else (4,))},
        "ranks": {drop: distances.rank_statistics(*who, drop=drop) for drop in drops},
        "metrics": distances.evaluate(*who, "market1501") if everything else None,
    }


def _sharded(world, folder):
    """What this process gets for every case."""
    query_ids, query_groups, gallery_ids, gallery_groups = labels()
    ids, groups = _own(world, gallery_ids), _own(world, gallery_groups)
    results = {}
    for name, (kind, k1, k2, weight, block) in CASES.items():
        query, gallery = features(kind)
        shard = _own(world, gallery)
        if kind == "file":
            query = query.numpy()
            np.save(folder / f"shard{world.rank}.npy", shard.numpy())
            shard = np.load(folder / f"shard{world.rank}.npy", mmap_mode="r")
        who = (query_ids[: len(query)], ids, query_groups[: len(query)], groups)
        with contextlib.ExitStack() as stack:
            for module, sizes in PIECES.items() if name == "small pieces" else ():
                stack.enter_context(mock.patch.multiple(module, **sizes))
            found = rerank_sharded(query, shard, k1, k2, weight, block_rows=block)
            results[name] = _used(found, who, name in ("ties", "small pieces"))
    query, gallery = features("clustered")
    for name, (lists, options) in OUTSIDE_LISTS.items():
        given = outside_lists(lists)
        own = [_own_items(world, each) for each in given]
        own = OutsideNeighbors(own[0], own[1] if "farthest" in options else None)
        found = rerank_sharded(query, _own(world, gallery), 5, 3, neighbors=own, block_rows=9)
        results[name] = found.gather()
    query, gallery = features("integers")
    for metric in ("euclidean", "squared_euclidean", "cosine", "dot"):
        plain = distances_sharded(query, _own(world, gallery), metric, block_rows=4)
        statistics = plain.rank_statistics(query_ids, ids)
        results[metric] = {"all": plain.gather(), "ranks": {"none": statistics}}
    for parameters in (None, (4, 2, 0.3)):
        results[parameters] = evaluate_sharded(
            query, _own(world, gallery), query_ids, ids, query_groups, groups, "llcm/paper",
            metric="dot", rerank=parameters,
        )  # fmt: skip
    return results


@pytest.fixture(scope="module", params=SHARDS, ids=lambda size: f"{size} processes")
def found(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    if request.param == 1:
        return [_sharded(World.single(), folder)]
    results = run_processes(_sharded, request.param, folder, folder)
    for result in results:
        assert isinstance(result, dict), result
    return results


def _assert_equal(found, expected):
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_reranking_equals_one_process_in_every_bit(found, name):
    kind, k1, k2, weight, _ = CASES[name]
    query, gallery = features(kind)
    expected = rerank(query, gallery, k1, k2, weight)
    query_ids, query_groups, gallery_ids, gallery_groups = labels()
    who = (query_ids[: len(query)], gallery_ids, query_groups[: len(query)], gallery_groups)
    for result in found:
        _assert_equal([result[name]["all"]], [expected])
        for k, lists in result[name]["lists"].items():
            _assert_equal(lists, smallest_k(expected, k))
        for drop, ranks in result[name]["ranks"].items():
            _assert_equal(ranks, rank_statistics(expected, *who, drop=drop))
        if result[name]["metrics"] is not None:
            metrics = evaluate_rows(MatrixRows(expected), *who, "market1501")
            assert _numbers(result[name]["metrics"]) == _numbers(metrics)


def _numbers(metrics):
    return {k: v.tolist() if torch.is_tensor(v) else v for k, v in vars(metrics).items()}


@pytest.mark.parametrize("name", OUTSIDE_LISTS)
def test_lists_of_an_index_give_what_they_give_one_process(found, name):
    kind, options = OUTSIDE_LISTS[name]
    lists, farthest = outside_lists(kind)
    farthest = farthest if "farthest" in options else None
    expected = rerank_from_neighbors(*features("clustered"), lists, 5, 3, farthest=farthest)
    for result in found:
        _assert_equal([result[name]], [expected])


def test_plain_distances_and_the_one_call(found):
    query, gallery = features("integers")
    query_ids, query_groups, gallery_ids, gallery_groups = labels()
    for result in found:
        for metric in ("euclidean", "squared_euclidean", "cosine", "dot"):
            expected = pairwise_distance(query, gallery, metric=metric)
            _assert_equal([result[metric]["all"]], [expected])
            _assert_equal(
                result[metric]["ranks"]["none"], rank_statistics(expected, query_ids, gallery_ids)
            )
        for parameters in (None, (4, 2, 0.3)):
            distances = pairwise_distance(query, gallery, metric="dot")
            if parameters:
                distances = rerank(query, gallery, *parameters)
            who = (query_ids, gallery_ids, query_groups, gallery_groups)
            expected = evaluate_rows(MatrixRows(distances), *who, "llcm/paper")
            assert _numbers(result[parameters]) == _numbers(expected)
