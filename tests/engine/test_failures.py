"""What processes tell each other through the store when one of them fails."""

import pytest
import torch.distributed as dist

from vireid_fast._collectives import CollectiveError
from vireid_fast.engine import failures
from vireid_fast.engine.failures import FAILED, STOPPED, explain, report_failure

LOST = CollectiveError("distributed: all_gather must be reached, got a closed connection.")


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr(failures, "PATIENCE", 0.05)


NAMES = ["rank 0 (pid 10 on a)", "rank 1 (pid 11 on a)", "rank 2 (pid 12 on b)"]


def _explain(store, rank):
    error = explain(store, rank, NAMES, LOST)
    return str(error), error.shown_elsewhere


def test_an_error_that_several_processes_have_is_shown_by_the_first():
    store, errors = dist.HashStore(), [ValueError("no file"), ValueError("no file")]
    other = ValueError("no disk")
    for rank, error in ((2, errors[0]), (0, errors[1]), (1, other)):
        report_failure(store, NAMES[rank], error)
    assert [error.shown_elsewhere for error in (*errors, other)] == [False, True, False]
    assert store.get(FAILED) == b"rank 2 (pid 12 on b) failed: ValueError: no file"


def test_the_failed_process_is_named_by_the_others_and_shown_by_the_first():
    store = dist.HashStore()
    report_failure(store, NAMES[1], ValueError("no file."))
    want = (
        "distributed: all processes must go on to the end, got rank 1 (pid 11 on a) failed: "
        "ValueError: no file. Repair that one; --resume continues after the last checkpoint."
    )
    assert _explain(store, 0) == (want, False)
    assert _explain(store, 2) == (want, True)


def test_processes_that_give_no_sign_are_named_and_who_waits_at_the_store_learns_it():
    store = dist.HashStore()
    silent = f"{NAMES[0]}, {NAMES[2]}"
    assert _explain(store, 1) == (f"{LOST} No sign of {silent}: killed, or stuck.", False)
    assert store.get(FAILED).decode().startswith(f"{NAMES[1]} gave up: {LOST} No sign of")
    assert "got rank 1 (pid 11 on a) gave up: distributed: all_gather" in _explain(store, 2)[0]


def test_where_all_processes_gave_up_the_first_shows_why():
    for rank in range(3):
        store = dist.HashStore()
        for other in {0, 1, 2} - {rank}:
            store.set(f"{STOPPED}/{other}", "")
        assert _explain(store, rank) == (str(LOST), rank > 0)


def test_a_store_that_has_ended_leaves_the_error_of_this_process():
    class Ended:
        def __getattr__(self, name):
            raise dist.DistNetworkError("Connection reset by peer")

    error = ValueError("no file")
    report_failure(Ended(), NAMES[1], error)
    assert not getattr(error, "shown_elsewhere", False)
    alone = explain(Ended(), 1, NAMES, LOST)
    held = "Rank 0 (pid 10 on a) or torchrun, which held the store, has ended."
    assert str(alone) == f"{LOST} {held}"
    assert not getattr(alone, "shown_elsewhere", False)
