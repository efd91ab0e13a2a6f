"""A gallery in shards against one process that has it whole: equal in every bit."""

import contextlib
import os
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import run_processes

from vireid_fast._collectives import CollectiveError
from vireid_fast.engine import failures
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
from vireid_fast.retrieval.rerank import rerank
from vireid_fast.retrieval.sharded import distances_sharded, evaluate_sharded, rerank_sharded

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


def _broken(rank, **changes):
    """Arguments of `rerank_sharded`, wrong in one process."""
    query, gallery = features("clustered")
    arguments = {"query": query, "gallery_shard": gallery[3 * rank : 3 * rank + 3]}
    return arguments | {k: v(arguments) for k, v in changes.items() if rank == 1}


def _narrow(name):
    return lambda arguments: arguments[name][:, :4]


ERRORS = {
    "width": (
        lambda rank: _broken(rank, gallery_shard=_narrow("gallery_shard")),
        ValueError, r"gallery_shard must have shape \(rows, 6\) like query, got \(3, 4\)\. "
        r"\(process 1\)",
    ),
    "another width of everything": (
        lambda rank: _broken(rank, gallery_shard=_narrow("gallery_shard"), query=_narrow("query")),
        ValueError, "gallery_shard must be alike in all processes, got float32 of width 6 in "
        "process 0 and float32 of width 4 in process 1",
    ),
    "dtype": (
        lambda rank: _broken(rank, gallery_shard=lambda a: a["gallery_shard"].double()),
        ValueError, "gallery_shard must be alike in all processes, got float32 of width 6 in "
        "process 0 and float64 of width 6 in process 1",
    ),
    "type": (
        lambda rank: _broken(rank, gallery_shard=lambda a: a["gallery_shard"].long()),
        TypeError, "gallery_shard must be float32 .* got torch.int64",
    ),
    "nan": (
        lambda rank: _broken(rank, gallery_shard=lambda a: torch.full((3, 6), torch.nan)),
        ValueError, r"gallery_shard must be finite, got nan at row 0\. .*\(process 1\)",
    ),
    "queries": (
        lambda rank: _broken(rank, query=lambda a: a["query"] + 1),
        ValueError, "query must be alike in all processes, got 7 rows with digest",
    ),
    "no query": (
        lambda rank: _broken(rank) | {"query": torch.zeros(0, 6)},
        ValueError, r"query must have at least one row, got \(0, 6\)",
    ),
    "no gallery": (
        lambda rank: _broken(rank) | {"gallery_shard": torch.zeros(0, 6)},
        ValueError, r"gallery_shard must hold a row in at least one process, got \[0, 0\]",
    ),
    "parameters": (
        lambda rank: _broken(rank, k1=lambda a: 7),
        ValueError, r"k1, k2 and lambda_value must be alike in all processes",
    ),
    "k1": (
        lambda rank: _broken(rank, k1=lambda a: 0),
        ValueError, r"rerank_sharded: k1 must be at least 1, got 0\. \(process 1\)",
    ),
    "block_rows": (
        lambda rank: _broken(rank, block_rows=lambda a: 5),
        ValueError, "block_rows must be alike in all processes",
    ),
    "gradient": (
        lambda rank: _broken(rank, gallery_shard=lambda a: a["gallery_shard"].requires_grad_()),
        RuntimeError, "gallery_shard must not require a gradient",
    ),
}  # fmt: skip


def _catch(action, **arguments):
    try:
        action(**arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        return error
    return None


def _all_errors(world):
    caught = {
        name: _catch(rerank_sharded, **make(world.rank)) for name, (make, _, _) in ERRORS.items()
    }
    found = rerank_sharded(**_broken(0))
    ids = torch.zeros(NUM_QUERY, dtype=torch.int64)
    here = torch.zeros(3 - world.rank, dtype=torch.int64)
    rank = found.rank_statistics
    caught["labels"] = _catch(lambda: rank(ids, here))
    caught["query labels"] = _catch(lambda: rank(ids + world.rank, ids[:3]))
    caught["groups"] = _catch(lambda: rank(ids, ids[:3], drop="same_group"))
    caught["drop"] = _catch(lambda: rank(ids, ids[:3], drop="all"))
    caught["label type"] = _catch(lambda: rank(ids.int(), ids[:3]))
    cameras = ids + 1 if world.rank == 0 else None
    caught["cameras"] = _catch(lambda: found.evaluate(ids, ids[:3], cameras, ids[:3]))
    caught["no correct"] = _catch(lambda: found.evaluate(ids, ids[:3] + 1, ids, ids[:3]))
    caught["protocol"] = _catch(lambda: found.evaluate(ids, ids[:3], ids, ids[:3], "market"))
    caught["k"] = _catch(lambda: found.top_k(1 - world.rank))
    caught["another k"] = _catch(lambda: found.top_k(2 - world.rank))
    arguments = _broken(0) | {"query_ids": ids, "gallery_ids": ids[:3], "rerank": (20, 6)}
    caught["rerank"] = _catch(lambda: evaluate_sharded(**arguments))
    caught["metric"] = _catch(lambda: distances_sharded(found._query, found._query, "l1"))
    only_first = dist.new_group([0])
    arguments = _broken(0) | {"group": only_first}
    caught["group"] = _catch(lambda: rerank_sharded(**arguments)) or ValueError(OUTSIDE)
    overflow = distances_sharded(torch.full((1, 2), 1e30), torch.tensor([[1e30, -1e30]]), "dot")
    caught["nan distance"] = _catch(lambda: overflow.rank_statistics(ids[:1], ids[:1]))
    return caught


OUTSIDE = (
    "ShardGroup: group must contain this process, got a group without it. Call this in the group's "
    "processes only."
)
LATE_ERRORS = {
    "group": (ValueError, "group must contain this process"),
    "labels": (ValueError, r"gallery_ids must have shape \(3,\), got \(2,\)\. \(process 1\)"),
    "query labels": (ValueError, "query_ids, query_groups and drop must be alike in all processes"),
    "groups": (ValueError, 'query_groups must be given for drop="same_group", got None'),
    "drop": (ValueError, "drop must be one of"),
    "label type": (TypeError, "query_ids must be int64"),
    "cameras": (ValueError, r"query_cameras must be given, since it drops by camera, got None"),
    "no correct": (ValueError, "query must hold at least one valid query"),
    "protocol": (ValueError, "protocol must be one of"),
    "k": (ValueError, r"k must be at least 1, got 0\. \(process 1\)"),
    "another k": (ValueError, "k must be alike in all processes, got 2 in process 0 and 1 in pro"),
    "rerank": (ValueError, r"rerank must be \(k1, k2, lambda_value\), got \(20, 6\)"),
    "metric": (ValueError, "metric must be one of"),
    "nan distance": (ValueError, "distances must hold no NaN, got nan in the row of query 0"),
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    return run_processes(_all_errors, 2, tmp_path_factory.mktemp("errors"))


@pytest.mark.parametrize("name", [*ERRORS, *LATE_ERRORS])
def test_what_is_wrong_in_one_process_is_raised_in_all(errors, name):
    kind, text = ERRORS[name][1:] if name in ERRORS else LATE_ERRORS[name]
    first, second = (found[name] for found in errors)
    assert type(first) is type(second) is kind
    assert str(first) == str(second)
    with pytest.raises(kind, match=text):
        raise first


def _one_ends(world, how):
    failures.PATIENCE = 0.5
    query, gallery = features("clustered")
    if world.rank == 1 and how == "raise":
        raise OSError("shard1.npy: no such file")
    if world.rank == 1:
        os._exit(1)
    rerank_sharded(query, gallery[:5])


@pytest.mark.parametrize(
    ("how", "text"), [("raise", "process 1 failed: OSError: shard1.npy"), ("exit", "No sign of "
    "process 1: killed, or stuck")],
)  # fmt: skip
def test_a_process_that_ends_is_named_by_the_others(tmp_path, how, text):
    first, _ = run_processes(_one_ends, 2, tmp_path, how)
    assert isinstance(first, CollectiveError) and text in str(first)
