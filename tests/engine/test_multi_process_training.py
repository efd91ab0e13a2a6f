"""Whole trainings on two processes against the same trainings on one."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from method_cases import CASES, STAGES, tiny_config
from processes import free_port, run_like_torchrun
from recorded_training import poison, record

from vireid_fast._collectives import CollectiveError
from vireid_fast.engine import failures
from vireid_fast.engine.checkpoint import follow, load_checkpoint
from vireid_fast.engine.methods.lsmrl import SequenceStage
from vireid_fast.engine.run_folder import RunFolder

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
"""float64 summed in another order; a few steps of Adam make up to 1e-11 of its rounding, where a
gradient that would be 0 is divided by its own size."""


def _weights(path):
    return load_checkpoint(follow(RunFolder(path).latest)[0]).model


def _metrics(path):
    lines = [json.loads(line) for line in RunFolder(path).metrics_file.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def _require_close(got, want):
    assert len(got) == len(want) > 0
    for own, other in zip(got, want, strict=True):
        torch.testing.assert_close(own, other, **CLOSE)


def _require_equal(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def _require_same_batches(ranks, one):
    """Every view is that of one process to the last bit, and made by one process alone."""
    for index, (stage, tensors) in enumerate(one.batches):
        parts = [rank.batches[index] for rank in ranks]
        assert {part[0] for part in parts} == {stage}
        for name, whole in tensors.items():
            if name in ("rows", "labels"):
                assert all(torch.equal(part[1][name], whole) for part in parts)
            else:
                assert torch.equal(torch.cat([part[1][name] for part in parts]), whole)


def _require_same_metrics(got, want):
    assert len(got) == len(want)
    for own, other in zip(got, want, strict=True):
        assert own.pop("stage") == other.pop("stage")
        assert own == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize("method", CASES)
def test_two_processes_train_as_one(method, tiny_sets, tmp_path):
    config = tiny_config(method, tiny_sets)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    (one,) = run_like_torchrun(record, 1, tmp_path / "1", config, alone, torch.float64)
    two = run_like_torchrun(record, 2, tmp_path / "2", config, shared, torch.float64)
    assert list(dict(one.batches)) == STAGES[method]
    _require_same_batches(two, one)
    for rank in two:
        _require_close(rank.losses, one.losses)
        _require_close(rank.gradients, one.gradients)
        # Running statistics of batch norms are part of the states.
        _require_close(rank.states, one.states)
        # Processes must not drift apart.
        _require_equal(rank.states, two[0].states)
    _require_same_metrics(_metrics(shared), _metrics(alone))
    saved = _weights(shared)
    # After its last step an epoch still computes the bank of texts for testing.
    bank = {name: saved[name] for name in saved if name == "bank"}
    _require_equal(saved, two[1].states[-1] | bank)
    assert len(list((shared / "tensorboard").iterdir())) == 1
    assert json.loads((shared / "environment.json").read_text())["processes"] == 2


EPOCHS = ("lsmrl.train.epochs=2", "clip_mc.train.epochs=2", "clip_mc.dropout=0.1")


@pytest.fixture(scope="module")
def whole(tiny_sets, tmp_path_factory):
    """Two epochs of LSMRL on two processes."""
    config, folder = tiny_config("lsmrl", tiny_sets, *EPOCHS), tmp_path_factory.mktemp("whole")
    assert None not in run_like_torchrun(record, 2, folder / "results", config, folder / "run")
    return config, _weights(folder / "run"), _metrics(folder / "run")


def _torchrun(*arguments):
    """The command of the documentation; its options come before those of vireid."""
    port = str(free_port())
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port",
        port, "-m", "vireid_fast", "train", *map(str, arguments),
    ]  # fmt: skip


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def _resume(config, path, folder):
    run_like_torchrun(functools.partial(record, resume=True), 2, folder, config, path)


def test_torchrun_resumes_a_stopped_run_and_every_line_is_written_once(whole, tmp_path):
    config, weights, metrics = whole
    path = tmp_path / "run"
    stopped = functools.partial(record, stop_after=1)
    run_like_torchrun(stopped, 2, tmp_path / "results", config, path)
    assert _metrics(path) == metrics[:1]
    done = subprocess.run(
        _torchrun("-r", path, "--resume"), env=ENVIRONMENT, check=True, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"run: {path}  next: vireid eval --run {path}"]
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == len(set(lines)) and sum("resuming" in line for line in lines) == 1
    _require_equal(_weights(path), weights)
    assert _metrics(path) == metrics


def test_torchrun_trains_from_the_command_line_and_may_be_killed(tiny_sets, tmp_path):
    config = tiny_config("clip_mc", tiny_sets, *EPOCHS)
    config.save(tmp_path / "config.yaml")
    path = tmp_path / "run"
    command = _torchrun("--config", tmp_path / "config.yaml", "-r", path)
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if line.startswith("joint 1/2"):
                process.terminate()
                break
        assert process.communicate(timeout=60)[0] == ""
    assert len(_metrics(path)) == 1
    _resume(config, path, tmp_path / "results")
    run_like_torchrun(record, 2, tmp_path / "results", config, tmp_path / "whole")
    _require_equal(_weights(path), _weights(tmp_path / "whole"))
    assert _metrics(path) == _metrics(tmp_path / "whole")


def test_a_run_of_one_process_may_be_resumed_by_two(tiny_sets, tmp_path):
    config = tiny_config("lsmrl", tiny_sets, *EPOCHS)
    for stop_after, path in ((None, tmp_path / "whole"), (1, tmp_path / "run")):
        work = functools.partial(record, stop_after=stop_after)
        run_like_torchrun(work, 1, tmp_path / "results", config, path, torch.float64)
    work = functools.partial(record, resume=True)
    run_like_torchrun(work, 2, tmp_path / "results", config, tmp_path / "run", torch.float64)
    torch.testing.assert_close(_weights(tmp_path / "run"), _weights(tmp_path / "whole"), **CLOSE)
    assert len(_metrics(tmp_path / "run")) == 2


def test_an_error_of_all_processes_is_shown_by_one(tiny_sets, tmp_path):
    config = tiny_config("lsmrl", tiny_sets, "sampler.identities=3")
    errors = run_like_torchrun(record, 2, tmp_path / "results", config, tmp_path / "run")
    for error in errors:
        assert re.search("must be a multiple of the 2 processes, got 3", str(error))
    assert sorted(error.shown_elsewhere for error in errors) == [False, True]
    assert not (tmp_path / "run").exists()


def test_an_image_with_nan_stops_all_processes_and_the_run_resumes(whole, tmp_path):
    config, weights, metrics = whole
    path, spoiled = tmp_path / "run", functools.partial(poison, epoch=1, index=1, rank=1)
    errors = run_like_torchrun(
        functools.partial(record, change=spoiled), 2, tmp_path / "results", config, path
    )
    for error in errors:
        want = r"the loss of sequence epoch 2, batch 2 \(identities [\d, ]+\) must be finite, got"
        assert isinstance(error, RuntimeError) and re.search(want, str(error))
    assert sorted(error.shown_elsewhere for error in errors) == [False, True]
    assert _metrics(path) == metrics[:1]
    _resume(config, path, tmp_path / "results")
    _require_equal(_weights(path), weights)


def _fail_in_second_epoch(patch, way):
    """In process 1, whose epochs have two batches."""
    patch.setattr(failures, "PATIENCE", 0.5)
    step, calls = SequenceStage.step, []

    def failing(self, batch):
        calls.append(1)
        if len(calls) == 4:
            if way == "raises":
                raise LookupError("no image 7.jpg")
            if way == "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(4)
        return step(self, batch)

    if os.environ["RANK"] == "1":
        patch.setattr(SequenceStage, "step", failing)


RANK_1 = r"rank 1 \(pid \d+ on [^)]+\)"


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("raises", rf"got {RANK_1} failed: LookupError: no image 7\.jpg\. Repair that one"),
        ("is killed", rf"got {RANK_1} ended without a word: killed, or out of memory"),
        ("hangs", rf"Timed out waiting 1000ms.* No sign of {RANK_1}: killed, or stuck"),
    ],
)
def test_a_process_that_fails_stops_the_other_which_names_it(whole, tmp_path, way, message):
    config, _, metrics = whole
    change = functools.partial(_fail_in_second_epoch, way=way)
    timeout = 1.0 if way == "hangs" else 120.0
    began = time.monotonic()
    first, second = run_like_torchrun(
        functools.partial(record, change=change, timeout=timeout), 2, tmp_path / "results",
        config, tmp_path / "run",
    )  # fmt: skip
    assert time.monotonic() - began < 55, "they waited for the timeout"
    assert isinstance(first, CollectiveError) and re.search(message, str(first))
    assert not first.shown_elsewhere
    if way == "raises":
        assert isinstance(second, LookupError) and not second.shown_elsewhere
    if way == "is killed":
        assert second is None
    # The epoch that was finished is safe.
    assert _metrics(tmp_path / "run") == metrics[:1]
    assert _weights(tmp_path / "run")
