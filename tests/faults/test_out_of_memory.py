"""Memory that cannot be had makes blocks smaller and changes no bit, or is named in an error."""

import warnings

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from zygote import Job

import vireid_fast
from vireid_fast.retrieval import (
    RerankedRows,
    rerank,
    rerank_distances,
    rerank_galleries,
    rerank_top_k,
    search_rows,
)
from vireid_fast.retrieval.distance_rows import FeatureRows
from vireid_fast.retrieval.dropin import re_ranking
from vireid_fast.retrieval.streaming import streamed_rank_statistics
from vireid_fast.retrieval.workspace import OutOfMemoryError, Workspace, is_out_of_memory

KINDS = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 2000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "C++": MemoryError("std::bad_alloc"),
}


class _RunsOut(TorchDispatchMode):
    """Every operation from number `first` to `last` has no memory."""

    def __init__(self, error, first, last):
        super().__init__()
        self.error, self.first, self.last, self.calls = error, first, last, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        if self.first <= self.calls <= self.last:
            raise self.error
        return func(*args, **(kwargs or {}))


def _features():
    draw = torch.Generator().manual_seed(3)
    # Ties of the normalised distances leave rows open, which are searched again in blocks.
    return torch.randint(0, 3, (23, 6), generator=draw).float(), torch.randint(
        0, 3, (31, 6), generator=draw
    ).float()


QUERY, GALLERY = _features()
ROW = 4 * (len(QUERY) + len(GALLERY) + QUERY.shape[1])
PART = GALLERY[:17]
IDS = torch.arange(31) % 5
MATRICES = [torch.cdist(a, b) for a, b in ((QUERY, GALLERY), (QUERY, QUERY), (GALLERY, GALLERY))]


def _evaluate():
    features = torch.cat([QUERY, GALLERY])
    persons = torch.cat([torch.arange(23) % 5, IDS]) + 1
    cameras = torch.cat([torch.full((23,), 3), torch.full((31,), 1)])
    made = vireid_fast.FeatureSet(features, persons, cameras)
    result = vireid_fast.evaluate(made, "sysu/agw", rerank=(5, 3, 0.3))
    return [torch.tensor([result.mean["R1"], result.mean["mAP"]])]


def _statistics(rows):
    found = streamed_rank_statistics(rows, torch.arange(23) % 5, IDS, workspace=31 * 4 * 8)
    return list(found)


CALLS = {
    "rerank": lambda: [rerank(QUERY, GALLERY, 5, 3, workspace=8 * ROW)],
    "rerank_top_k": lambda: list(rerank_top_k(QUERY, GALLERY, 4, 5, 3, workspace=8 * ROW)),
    "RerankedRows": lambda: [
        RerankedRows(QUERY, GALLERY, 5, 3, workspace=8 * ROW).block(2, 21)
    ],
    "rerank_galleries": lambda: rerank_galleries(
        QUERY, [GALLERY, PART], 5, 3, workspace=8 * ROW
    ),
    "rerank_distances": lambda: [rerank_distances(*MATRICES, 5, 3)],
    "re_ranking with a local distance": lambda: [
        torch.as_tensor(
            re_ranking(QUERY, GALLERY, 5, 3, 0.3, local_distmat=np.ones((54, 54), np.float32))
        )
    ],
    "search_rows": lambda: list(
        search_rows(FeatureRows(QUERY, GALLERY), 4, workspace=31 * 4 * 8)
    ),
    "streamed_rank_statistics": lambda: _statistics(FeatureRows(QUERY, GALLERY)),
    "of re-ranked rows": lambda: _statistics(RerankedRows(QUERY, GALLERY, 5, 3)),
    "evaluate": _evaluate,
}  # fmt: skip


def _equal(found, expected):
    return all(
        torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) and a.dtype == b.dtype
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("name", CALLS)
def test_memory_that_runs_out_at_any_operation(name, faults_full, count, monkeypatch):
    work = CALLS[name]
    with _RunsOut(None, 1, 0) as counter:
        expected = work()
    every = range(1, counter.calls + 1)
    step = max(1, len(every) // (100 if faults_full else 12))
    smaller = stated = 0
    for at in every[::step]:
        for kind, error in KINDS.items():
            with warnings.catch_warnings(record=True) as told, _RunsOut(error, at, at):
                warnings.simplefilter("always")
                try:
                    found = work()
                except (OutOfMemoryError, RuntimeError, MemoryError) as raised:
                    assert is_out_of_memory(raised), (at, kind, raised)
                    stated += isinstance(raised, OutOfMemoryError)
                    continue
            ran_out = [str(w.message) for w in told if "memory ran out" in str(w.message)]
            assert len(ran_out) == 1, (at, kind, "nothing was said")
            assert _equal(found, expected), (at, kind)
            smaller += 1
    assert smaller, "no operation lay in a block"
    count("out of memory, smaller blocks", smaller)
    count("out of memory, named in an error", stated)


@pytest.mark.parametrize("name", ["rerank", "rerank_top_k", "rerank_galleries", "rerank_distances"])
def test_what_has_no_room_at_all_says_how_much_was_needed(name):
    want = r"^rerank\w*: memory must hold .*[\d,]+ bytes.* got a refusal \(.*allocate.*\)\."
    with warnings.catch_warnings(), _RunsOut(KINDS["CPU"], 1, 10**9):
        warnings.simplefilter("ignore")
        with pytest.raises(OutOfMemoryError, match=want) as caught:
            CALLS[name]()
    assert isinstance(caught.value, MemoryError) and isinstance(caught.value, RuntimeError)


def test_blocks_are_halved_down_to_one_row_and_stay_small():
    workspace, seen = Workspace(8, 100, "rerank"), []

    def work(first, last):
        if last - first > 2:
            raise KINDS["C++"]
        seen.append((first, last))
        return first

    with pytest.warns(RuntimeWarning) as told:
        assert workspace.over(0, 5, work) == [0, 2, 4]
        assert workspace.over(5, 8, work) == [5, 7]
    assert seen == [(0, 2), (2, 4), (4, 5), (5, 7), (7, 8)] and workspace.rows == 2
    assert [str(w.message) for w in told] == [
        "rerank: memory ran out for 5 rows at once (500 bytes); goes on with 2 (200 bytes). The "
        "result is the same."
    ]

    def none(first, last):
        raise KINDS["CUDA"]

    want = r"rerank: memory must hold one row of 100 bytes at a time, got a refusal \(CUDA out of"
    with pytest.warns(RuntimeWarning), pytest.raises(OutOfMemoryError, match=want):
        workspace.over(0, 5, none)


def test_other_errors_pass():
    def wrong(first, last):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        Workspace(4, 100, "rerank").over(0, 4, wrong)


def limited(room: int) -> None:
    """In a child: re-rank with `room` bytes of address space more than there are now."""
    import resource

    draw = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(2000, 64, generator=draw), torch.randn(6000, 64, generator=draw)
    options = {"workspace": 1 << 28}
    expected = rerank_top_k(query, gallery, 10, **options) if not room else None
    if expected is not None:
        print(expected.distances.double().sum().item(), expected.indices.sum().item())
        return
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + room, resource.RLIM_INFINITY))
    try:
        found = rerank_top_k(query, gallery, 10, **options)
    except OutOfMemoryError as error:
        print(error)
        return
    print(found.distances.double().sum().item(), found.indices.sum().item())


def test_address_space_that_is_really_short(zygote, count):
    whole = zygote.run(Job("test_out_of_memory:limited", [0]))
    assert whole.code == 0, whole.err
    ends = set()
    for megabytes in (1, 20, 40, 60, 90, 140, 400):
        ended = zygote.run(Job("test_out_of_memory:limited", [megabytes << 20]))
        assert ended.code == 0, (megabytes, ended)
        if ended.out == whole.out:
            ends.add("smaller" if "memory ran out for" in ended.err else "whole")
        else:
            assert "rerank_top_k: memory must hold" in ended.out, (megabytes, ended)
            ends.add("named")
        count("really out of memory")
    assert ends == {"named", "smaller", "whole"}
