"""One of several processes dies: the others stop within a minute and name it; the run resumes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import CASES, COMMON, contents
from zygote import HERE

sys.path.append(str(HERE.parent))
sys.path.append(str(HERE.parent / "engine"))

from processes import free_port, run_processes

from vireid_fast._collectives import CollectiveError
from vireid_fast.retrieval.sharded import rerank_sharded

MINUTE = 60.0
DEATHS = ("is killed", "leaves", "raises")
PLACES = ("a collective", "the store", "its own work", "sharded re-ranking")


def _die(way):
    if way == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "leaves":
        os._exit(9)
    raise LookupError("no image 7.jpg")


def _lose(world, way, place, victim, folder):
    # Ignored where the tests run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    world.barrier()
    if world.rank == victim:
        (Path(folder) / "pid").write_text(str(os.getpid()))
        # The others are where they shall be.
        time.sleep(0.3)
        _die(way)
    if place == "a collective":
        world.gather(torch.ones(2))
    elif place == "the store":
        world.barrier()
    elif place == "its own work":
        time.sleep(2 * MINUTE)
    else:
        draw = torch.Generator().manual_seed(0)
        features = torch.randn(40, 8, generator=draw)
        rerank_sharded(features, features[: 10 + world.rank])
    return "went on"


FEW = [
    ("is killed", "a collective", 1), ("is killed", "its own work", 0), ("raises", "the store", 2),
]  # fmt: skip
MANY = [(way, place, victim) for way in DEATHS for place in PLACES for victim in range(3)]


@pytest.mark.parametrize(("way", "place", "victim"), MANY)
def test_the_others_stop_and_name_who_is_gone(tmp_path, way, place, victim, faults_full, count):
    if not faults_full and (way, place, victim) not in FEW:
        pytest.skip("in the full form alone")
    began = time.monotonic()
    results = run_processes(
        _lose, 3, tmp_path, way, place, victim, str(tmp_path), timeout=100.0, join=MINUTE
    )
    assert time.monotonic() - began < MINUTE
    pid = (tmp_path / "pid").read_text()
    said = "failed: LookupError: no image 7" if way == "raises" else "ended without a word"
    for rank, error in enumerate(results):
        if rank != victim:
            assert isinstance(error, CollectiveError), (rank, error)
            assert re.search(rf"rank {victim} \(pid {pid} on [^)]+\) {said}", str(error)), error
    # One shows it: the first that is left, or who failed.
    quiet = [getattr(error, "shown_elsewhere", False) for error in results if error is not None]
    assert quiet.count(False) == (2 if way == "raises" and victim else 1), quiet
    count("a process lost, named by the others")


OVERRIDES = (*COMMON, *CASES["clip_mc"][2:], "clip_mc.train.epochs=3")


def _arguments(sets, run):
    """What both commands share; under torchrun --run would be an option of torchrun."""
    return ["train", "--config", CASES["clip_mc"][0], "-r", str(run), "--resume",
            "--data-root", str(sets / "images"), *OVERRIDES]  # fmt: skip


def _torchrun(sets, run, prelude=""):
    """Two processes that torchrun starts, with statements before the command."""
    code = f"import os, signal, sys\n{prelude}\nfrom vireid_fast.cli import main\nmain()\n"
    script = run.parent / "script.py"
    script.write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
         "--master-port", str(free_port()), str(script), *_arguments(sets, run)],
        capture_output=True, text=True, timeout=150, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


KILL_IN_SECOND_EPOCH = """
from vireid_fast.engine.trainer import Trainer
train, epochs = Trainer._train_epoch, []
def dying(self, *arguments):
    epochs.append(1)
    if len(epochs) == 2 and os.environ["RANK"] == "1":
        print("pid", os.getpid(), file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return train(self, *arguments)
Trainer._train_epoch = dying
"""


def test_torchrun_loses_a_process_and_the_run_resumes_to_equal_weights(sets, tmp_path, count):
    for name in ("whole", "lost"):
        (tmp_path / name).mkdir()
    whole, lost = tmp_path / "whole" / "run", tmp_path / "lost" / "run"
    assert _torchrun(sets, whole).returncode == 0
    began = time.monotonic()
    done = _torchrun(sets, lost, KILL_IN_SECOND_EPOCH)
    assert done.returncode != 0 and time.monotonic() - began < MINUTE
    pid = re.search(r"^pid (\d+)$", done.stderr, re.MULTILINE)[1]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert re.search(rf"rank 1 \(pid {pid} on [^)]+\) ended without a word", errors[0])
    lines = [json.loads(line) for line in (lost / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1]
    again = _torchrun(sets, lost)
    assert again.returncode == 0, again.stderr
    expected, found = contents(whole), contents(lost)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    count("a process lost under torchrun, then resumed")


def _meet(world):
    return world.gather(torch.tensor([world.rank])).tolist()


def test_processes_that_end_as_they_should_lose_nobody(tmp_path):
    assert run_processes(_meet, 3, tmp_path) == [[0, 1, 2]] * 3
