"""Locks: one holder at a time, named to the others, and none outlives its process."""

import fcntl
import multiprocessing
import os
import re
import signal
import socket
import time
import warnings

import pytest

from vireid_fast import _locks
from vireid_fast._checks import WriteError
from vireid_fast._locks import InUseError, exclusive, remove_unheld

CONTEXT = multiprocessing.get_context("fork")


def _hold(folder, held, options):
    with exclusive(folder, "run", **options):
        held.set()
        time.sleep(60)


@pytest.fixture
def other_process(tmp_path):
    """Start a process that holds a folder; it ends with the test."""
    started = []

    def start(folder, **options):
        held = CONTEXT.Event()
        process = CONTEXT.Process(target=_hold, args=(folder, held, options))
        process.start()
        started.append(process)
        assert held.wait(30)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_a_second_process_is_told_who_the_first_is(tmp_path, other_process):
    run = tmp_path / "deep" / "run"
    holder = other_process(run)
    want = (
        f"run: {re.escape(str(run))} must not be in use by another process, got pid {holder.pid} "
        rf"on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{{4}}"
        r"\. Wait until it has ended, or name another folder\."
    )
    with pytest.raises(InUseError, match=f"^{want}$"), exclusive(run, "run"):
        pass
    assert run.is_dir(), "the holder's folder stays"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(tmp_path, other_process, end):
    holder = other_process(tmp_path)
    os.kill(holder.pid, end)
    holder.join()
    assert (tmp_path / ".lock").exists()
    with exclusive(tmp_path, "run"):
        pass
    assert os.listdir(tmp_path) == []


def test_locks_of_other_names_are_others(tmp_path, other_process):
    other_process(tmp_path, name=".evaluation.lock")
    with exclusive(tmp_path, "run"):
        assert sorted(os.listdir(tmp_path)) == [".evaluation.lock", ".lock"]


def test_what_is_still_empty_is_removed_again(tmp_path):
    with pytest.raises(LookupError), exclusive(tmp_path / "a" / "b", "run"):
        raise LookupError
    assert os.listdir(tmp_path) == []
    with exclusive(tmp_path / "a" / "b", "run"):
        (tmp_path / "a" / "b" / "file").touch()
    assert os.listdir(tmp_path / "a" / "b") == ["file"]


def test_who_waits_says_for_whom_and_goes_on_when_that_one_dies(tmp_path, other_process):
    holder = other_process(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        killer = CONTEXT.Process(target=_kill_later, args=(holder.pid,))
        killer.start()
        with exclusive(tmp_path, "open_cache", wait=True):
            pass
        killer.join()
    assert [str(w.message) for w in caught if "waiting" in str(w.message)] == [
        str(caught[0].message)
    ]
    assert f"open_cache: waiting for pid {holder.pid} on" in str(caught[0].message)


def _kill_later(pid):
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)


def _count(folder, counter, rounds):
    for _ in range(rounds):
        with exclusive(folder, "x", wait=True):
            value = int(counter.read_text())
            counter.write_text(str(value + 1))


def test_many_waiters_never_hold_it_together(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    workers = [CONTEXT.Process(target=_count, args=(tmp_path / "f", counter, 50)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert counter.read_text() == "200"


def test_where_files_cannot_be_locked_a_warning_says_so(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.warns(RuntimeWarning, match="cannot be locked"), exclusive(tmp_path, "run"):
        pass
    monkeypatch.setattr(_locks, "fcntl", None)
    with pytest.warns(RuntimeWarning, match="cannot be locked"), exclusive(tmp_path, "run"):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    want = r"\.lock must be written, got Permission denied"
    with pytest.raises(WriteError, match=want), exclusive(tmp_path, "run"):
        pass


def test_what_a_killed_holder_left_is_removed_and_a_live_ones_stays(tmp_path, other_process):
    (tmp_path / ".dead.lock").write_text("{}")
    other_process(tmp_path, name=".live.lock")
    for name in (".dead.lock", ".live.lock", ".absent.lock"):
        remove_unheld(tmp_path / name)
    assert os.listdir(tmp_path) == [".live.lock"]
