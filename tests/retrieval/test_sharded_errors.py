"""What is wrong in one process with a shard of a gallery is raised in all, and none waits."""

import os
import re

import pytest
import torch
import torch.distributed as dist
from processes import run_processes
from test_sharded import NUM_QUERY, features

from vireid_fast._collectives import CollectiveError
from vireid_fast.engine import failures
from vireid_fast.ops import pairwise_distance
from vireid_fast.retrieval.metrics import NoValidQuery
from vireid_fast.retrieval.sharded import distances_sharded, evaluate_sharded, rerank_sharded
from vireid_fast.retrieval.sharded_outside import OutsideNeighbors


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


def _wrong_lists(rank):
    """Lists of which those of process 1 do not fit."""
    query, gallery = features("clustered")
    points = torch.cat([query, gallery[:3], gallery[6:9]])
    distances = pairwise_distance(points, points, metric="squared_euclidean")
    lists = distances.argsort(dim=1, stable=True)[:, :7]
    own = torch.cat([lists[:NUM_QUERY], lists[NUM_QUERY + 3 * rank :][:3]])
    farthest = torch.full((10,), 1e3)
    wrong = {
        "no list": None,
        "list rows": OutsideNeighbors(own[1:]),
        "list items": OutsideNeighbors(own.clone().fill_diagonal_(-1)),
        "list columns": OutsideNeighbors(own[:, :6]),
        "list type": OutsideNeighbors(own.float()),
        "no lists": OutsideNeighbors(own.tolist()),
        "short lists": OutsideNeighbors(own[:, :3]),
        "order": OutsideNeighbors(own.flip(1)),
        "tolerance": OutsideNeighbors(own, tolerance=1.0),
        "farthest": OutsideNeighbors(own, farthest / 1e6),
    }
    right = {name: OutsideNeighbors(own) for name in wrong}
    right["farthest"] = OutsideNeighbors(own, farthest)
    return wrong if rank == 1 else right


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
    for name, given in _wrong_lists(world.rank).items():
        arguments = _broken(2 * world.rank) | {"k1": 4, "k2": 2, "neighbors": given}
        caught[name] = _catch(rerank_sharded, **arguments)
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
    "no list": (ValueError, "neighbors must be alike in all processes, got some in process 0 and"),
    "list rows": (ValueError, r"neighbor_indices must have 10 rows, .*\(9, 7\)\. \(process 1\)"),
    "list items": (
        ValueError,
        r"neighbor_indices must lie in \[0, 13\), got -1 in the row of query",
    ),
    "list columns": (ValueError, "neighbor_indices must be alike in all processes, got 7 columns"),
    "list type": (TypeError, "neighbor_indices must be integers, got torch.float32"),
    "no lists": (TypeError, "neighbor_indices must be a torch.Tensor, got list"),
    "short lists": (ValueError, "neighbor_indices must have at least 5 columns for k1 = 4 and k2"),
    "order": (ValueError, r"neighbor_indices must be sorted, nearest first, .*\(process 1\)"),
    "tolerance": (ValueError, r"includes_self, tolerance\) must be alike in all processes"),
    "farthest": (ValueError, "farthest must be at least the largest listed squared distance"),
    "group": (ValueError, "group must contain this process"),
    "labels": (ValueError, r"gallery_ids must have shape \(3,\), got \(2,\)\. \(process 1\)"),
    "query labels": (ValueError, "query_ids, query_groups and drop must be alike in all processes"),
    "groups": (ValueError, 'query_groups must be given for drop="same_group", got None'),
    "drop": (ValueError, "drop must be one of"),
    "label type": (TypeError, "query_ids must be int64"),
    "cameras": (ValueError, r"query_cameras must be given, since it drops by camera, got None"),
    "no correct": (NoValidQuery, "query must hold at least one valid query"),
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
    ("how", "text"),
    [
        ("raise", r"rank 1 \(.*\) failed: OSError: shard1\.npy"),
        ("exit", r"rank 1 \(.*\) ended without a word"),
    ],
)
def test_a_process_that_ends_is_named_by_the_others(tmp_path, how, text):
    first, _ = run_processes(_one_ends, 2, tmp_path, how)
    assert isinstance(first, CollectiveError) and re.search(text, str(first))
