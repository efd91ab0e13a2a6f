"""Every call of every kind of write fails once: a full disk, a refusal, the end of the process."""

import random
import re
import shutil
import signal
from pathlib import Path

import pytest
from tiny_runs import SEED
from writers import WRITERS
from zygote import Job

PACKAGE = Path(__file__).resolve().parents[2] / "vireid_fast"
MODES = ("full", "refused", "killed")
SHORT = 2
"""Calls of each kind and mode that the short form tries; one where they take long."""

HIDDEN = re.compile(r"(^|/)\.[^/]+\.(tmp|lock|old)(/|$)|(^|/)\.lock$")
"""What only a killed process may leave, and the next write removes."""

CALLS = re.compile(
    r"\b(atomic_write|atomic_folder|append_line|save_checkpoint|save_tensors|save_file|savez\w*|"
    r"write_text|write_bytes|SummaryWriter|to_file|dump)\(|\.save\(|open\([^)]*[\"'][wax]b?\+?[\"']"
)


@pytest.fixture(scope="module")
def inputs(zygote, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    done = zygote.run(Job("writers:prepare_inputs", [str(folder)]))
    assert done.code == 0, done.err
    return folder


def _tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "tensorboard" not in path.parts}  # fmt: skip


def _write(zygote, name, inputs, out, **fault):
    job = Job("writers:write", [name, str(inputs), str(out)], root=str(out.resolve()), **fault)
    return zygote.run(job)


def _require_valid(writer, before, found, after, *, killed, litter, place):
    """Everything is what it was or what it shall be; nothing else is there, but litter."""
    for name, content in found.items():
        if HIDDEN.search(name):
            assert litter, (place, name)
        elif writer.grows:
            known = after[name][: len(content)] == content if killed else content == before[name]
            assert known or content == after[name], (place, name)
        else:
            assert content in (before.get(name), after.get(name)), (place, name)
    lost = [name for name in before if name not in found and name in after]
    assert not lost, (place, lost)
    if writer.whole:
        own = [{n: c for n, c in tree.items() if n.startswith(f"{writer.whole}/")}
               for tree in (before, found, after)]  # fmt: skip
        assert own[1] in (own[0], own[2]), (place, "a mixture")


def _require_sentence(ended, place):
    assert ended.code == 1, (place, ended)
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in ended.err, (place, ended.err)
    assert "/out/" in lines[0] or lines[0].rstrip("'\"").endswith("/out"), (place, lines[0])


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_write_keeps_what_was_there(zygote, inputs, tmp_path, name, faults_full, count):
    writer = WRITERS[name]
    if writer.slow and not faults_full:
        pytest.skip("in the full form alone")
    prior, out = tmp_path / "prior", tmp_path / "out"
    made = zygote.run(Job("writers:prepare", [name, str(inputs), str(prior)]))
    assert made.code == 0, made.err
    shutil.copytree(prior, out)
    whole = _write(zygote, name, inputs, out)
    assert whole.code == 0, whole.err
    before, after = _tree(prior), _tree(out)
    assert before != after and not any(HIDDEN.search(path) for path in after)
    draw = random.Random(f"{SEED} {name}")
    every = range(1, whole.calls["all"] + 1, writer.every if faults_full else 1)
    for mode in MODES:
        tried = every if faults_full else draw.sample(every, 1 if writer.every > 1 else SHORT)
        for at in tried:
            place = f"{name}: {mode} at call {at} of {whole.calls['all']}"
            shutil.rmtree(out)
            shutil.copytree(prior, out)
            ended = _write(zygote, name, inputs, out, mode=mode, at=at)
            killed = mode == "killed"
            if killed:
                assert ended.code == -signal.SIGKILL, (place, ended)
            elif ended.code:
                _require_sentence(ended, place)
            # Who is dead, or may not remove, leaves something behind.
            litter = killed or ended.calls["hit"] == "remove"
            _require_valid(
                writer, before, _tree(out), after, killed=killed, litter=litter, place=place
            )
            again = _write(zygote, name, inputs, out)
            assert again.code == 0, (place, again.err)
            if not writer.grows:
                assert _tree(out) == after, place
            count(f"{name}: {mode}")


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_may_not_grow_keeps_what_was_there(
    zygote, inputs, tmp_path, name, faults_full, count
):
    """RLIMIT_FSIZE: the kernel itself refuses what is written beyond a size."""
    writer = WRITERS[name]
    if writer.every > 1 and not faults_full:
        pytest.skip("in the full form alone")
    prior, out = tmp_path / "prior", tmp_path / "out"
    made = zygote.run(Job("writers:prepare", [name, str(inputs), str(prior)]))
    assert made.code == 0, made.err
    shutil.copytree(prior, out)
    assert _write(zygote, name, inputs, out).code == 0
    before, after = _tree(prior), _tree(out)
    limit = max(len(content) for content in after.values()) // 2
    if limit < 1000:
        pytest.skip("smaller than what a child reports of itself")
    shutil.rmtree(out)
    shutil.copytree(prior, out)
    ended = _write(zygote, name, inputs, out, limits={"FSIZE": limit})
    place = f"{name}: {limit} bytes"
    _require_sentence(ended, place)
    _require_valid(writer, before, _tree(out), after, killed=False, litter=False, place=place)
    again = _write(zygote, name, inputs, out)
    assert again.code == 0 and _tree(out) == after, (place, again.err)
    count(f"{name}: limited")


def test_every_module_that_writes_is_listed():
    listed = {module for writer in WRITERS.values() for module in writer.modules}
    # The trainings that are killed and refused write caches and TensorBoard's events.
    listed |= {"_files.py", "_locks.py", "data/cache.py"}
    writing = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if CALLS.search(path.read_text(encoding="utf-8"))
    }
    assert writing <= listed, f"not in writers.WRITERS: {sorted(writing - listed)}"
