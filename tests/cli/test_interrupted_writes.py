"""A full disk, or a process killed in the middle of a write, damages nothing."""

import json
import resource
import signal
from contextlib import contextmanager

import numpy as np
import pytest
from command_line import run_vireid, train_arguments
from safetensors.torch import load_file

from vireid_fast.data.feature_files import read_features

KILL_IN_THIRD_CHECKPOINT = """
import os, signal
from vireid_fast.engine import checkpoint
calls, save = [], checkpoint.save_tensors
def save_tensors(path, tensors):
    calls.append(path)
    save(path, tensors)
    if path.name == "model.safetensors" and len(calls) > 4:
        os.truncate(path, 1000)
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save_tensors = save_tensors
"""
KILL_IN_SAVEZ = """
import os, signal
import numpy
def savez(file, **arrays):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
numpy.savez = savez
"""


@contextmanager
def full_disk(free):
    """Every write beyond `free` bytes of a file fails, as on a disk without space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _weights(run):
    name = json.loads((run / "checkpoints" / "latest.json").read_text())["checkpoint"]
    return load_file(run / "checkpoints" / name / "model.safetensors")


def test_a_killed_training_goes_on_after_a_full_disk(vireid, pristine_run, tmp_path):
    run = tmp_path / "run"
    arguments = train_arguments(pristine_run.root, run)
    done = run_vireid(*arguments, prelude=KILL_IN_THIRD_CHECKPOINT)
    assert done.code == -signal.SIGKILL
    before = _weights(run)
    pointer = (run / "checkpoints" / "latest.json").read_text()
    with full_disk(100_000):
        message = vireid(*arguments, "--resume").err.splitlines()[-1]
    assert message.startswith(f"error: write: {run / 'checkpoints'}/") and "/." not in message
    assert ".safetensors must be written, got File too large" in message
    assert (run / "checkpoints" / "latest.json").read_text() == pointer
    after = _weights(run)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    vireid.ok(*arguments, "--resume")
    expected, actual = _weights(pristine_run.path), _weights(run)
    assert all(np.array_equal(expected[name], actual[name]) for name in expected)
    left = [path.name for path in (run / "checkpoints").iterdir() if path.name.endswith(".tmp")]
    assert not left


def test_a_full_disk_for_pretrained_weights(vireid, root, tmp_path, unchanged):
    arguments = ("pretrain", *train_arguments(root, tmp_path / "pre")[1:])
    vireid.ok(*arguments)
    weights = tmp_path / "pre" / "weights.safetensors"
    with unchanged(weights), full_disk(100_000):
        done = vireid(*arguments, "--resume")
    message = done.err.splitlines()[-1]
    assert done.code == 1 and message.startswith(f"error: write: {weights} must be written, got ")


def test_a_full_disk_for_the_cache(vireid, root, tmp_path):
    with full_disk(50_000):
        message = vireid.error(*train_arguments(root, tmp_path / "run"))
    assert "data.cache" in message and ".vireid_cache" in message
    assert not (root / ".vireid_cache").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_full_disk_for_extract(vireid, run, tmp_path, unchanged, suffix):
    out = tmp_path / "out" / f"features.{suffix}"
    vireid.ok("extract", "--run", run, "--out", out)
    with unchanged(out), full_disk(20_000):
        message = vireid.error("extract", "--run", run, "--split", "val", "--out", out)
    assert str(out) in message and "File too large" in message
    assert len(read_features(out)["features"])


def test_a_full_disk_for_results(vireid, pair, tmp_path, unchanged):
    out, result = tmp_path / "a" / "d.npz", tmp_path / "b" / "r.json"
    commands = {
        out: ("rerank", *pair, "--k1", 5, "--out", out),
        result: ("eval", *pair, "--json", result),
    }
    for target, command in commands.items():
        vireid.ok(*command)
        with unchanged(target), full_disk(100):
            message = vireid.error(*command)
        assert str(target) in message and "File too large" in message


def test_a_full_disk_for_synth(vireid, tmp_path):
    options = ("synth", "--out", tmp_path / "set", "--identities", 3, "--views", 1)
    with full_disk(500):
        assert "File too large" in vireid.error(*options)
    vireid.ok(*options)
    assert len(list((tmp_path / "set").glob("cam*/*/*.jpg"))) == 18


def test_a_killed_rerank_keeps_the_previous_file(vireid, pair, tmp_path):
    out = tmp_path / "out" / "d.npz"
    command = ("rerank", *pair, "--out", out)
    vireid.ok(*command)
    before = out.read_bytes()
    assert run_vireid(*command, prelude=KILL_IN_SAVEZ).code == -signal.SIGKILL
    assert out.read_bytes() == before
    assert np.load(out)["distances"].shape == (12, 12)
    vireid.ok(*command)
