"""Two processes that write one place: the second is told, or waits, and both results are right."""

import contextlib
import os
import re
import signal
import sys
import time

import pytest
from tiny_runs import CASES, COMMON, train_arguments
from writers import PRETRAIN, SYNTH
from zygote import HERE, Job

sys.path.append(str(HERE.parent))

from processes import CONTEXT

from vireid_fast._locks import exclusive
from vireid_fast.data.cache import open_cache
from vireid_fast.data.datasets.sysu_mm01 import read_sysu_layout


@pytest.fixture(scope="module")
def finished(zygote, sets, tmp_path_factory):
    """A finished run and its command without --resume."""
    folder = tmp_path_factory.mktemp("finished")
    words = train_arguments("clip_mc", sets, folder, resume=True)
    done = zygote.run(Job("tiny_runs:vireid", words))
    assert done.code == 0, done.err
    return folder


def _refused(zygote, folder, *words, what="run"):
    ended = zygote.run(Job("tiny_runs:vireid", [str(word) for word in words]))
    assert ended.code == 1, ended
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    want = (
        rf"error: {what}: {re.escape(str(folder))} must not be in use by another process, got pid "
        rf"{os.getpid()} on \S+ since .+\. Wait until it has ended, or name another folder\."
    )
    assert len(lines) == 1 and re.fullmatch(want, lines[0]), ended.err


def _ok(zygote, *words):
    ended = zygote.run(Job("tiny_runs:vireid", [str(word) for word in words]))
    assert ended.code == 0, ended.err


def test_a_second_training_is_told(zygote, sets, tmp_path, finished, count):
    new = train_arguments("clip_mc", sets, tmp_path, resume=False)
    again = train_arguments("clip_mc", sets, finished, resume=True)
    for folder, words in ((tmp_path, new), (finished, again)):
        with exclusive(folder / "run", "run"):
            _refused(zygote, folder / "run", *words)
        _ok(zygote, *words)
        count("second writers told")


def test_a_run_is_read_while_it_is_trained_and_evaluated_by_one(zygote, finished, tmp_path, count):
    run = finished / "run"
    evaluate = ("eval", "--run", run)
    with exclusive(run, "run"):
        _ok(zygote, *evaluate)
    with exclusive(run, "run", name=".evaluation.lock"):
        _refused(zygote, run, *evaluate)
        _refused(zygote, run, "extract", "--run", run)
        _ok(zygote, "extract", "--run", run, "--out", tmp_path / "elsewhere.npz")
    count("second writers told", 2)


def test_second_writers_of_other_folders_are_told(zygote, sets, tmp_path, count):
    (tmp_path / "sets").symlink_to(sets)
    pre = [word.replace("INPUTS", str(tmp_path)).replace("OUT", str(tmp_path)) for word in PRETRAIN]
    with exclusive(tmp_path / "pre", "run"):
        _refused(zygote, tmp_path / "pre", *pre)
    with exclusive(tmp_path / "demo", "demo"):
        _refused(zygote, tmp_path / "demo", "demo", "--run", tmp_path / "demo", what="demo")
    out = tmp_path / "set"
    with exclusive(tmp_path, "synth", name=".set.lock", held=out):
        _refused(zygote, out, "synth", "--out", out, *SYNTH, what="synth")
    _ok(zygote, "synth", "--out", out, *SYNTH)
    count("second writers told", 3)


def _train(folder, sets, gate, answers):
    from vireid_fast.config import load_config
    from vireid_fast.engine.workflow import train

    preset, data, *own = CASES["clip_mc"]
    overrides = [*COMMON, *own, f"data.root={sets / data}", f"data.cache={folder / 'cache'}"]
    config = load_config(preset, overrides)
    gate.wait()
    try:
        train(config, folder / "run")
        answers.put("trained")
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


def test_of_two_trainings_that_start_together_one_trains(sets, tmp_path, count):
    gate, answers = CONTEXT.Barrier(2), CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=_train, args=(tmp_path, sets, gate, answers)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    said = sorted(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    # Who comes when the other has just ended finds a finished run instead.
    assert said[1] == "trained", said
    assert re.match("InUseError: run: .* must not be in use by another|ValueError: run: ", said[0])
    assert not list((tmp_path / "run").glob(".*"))
    count("trainings started together")


def _open(root, folder, gate, answers, die):
    table = read_sysu_layout(root)
    built = []

    def progress(done, total):
        built.append(done)
        time.sleep(0.005)
        if die and done == total // 2:
            os.kill(os.getpid(), signal.SIGKILL)

    gate.wait()
    if not die:
        # The one that will die begins.
        time.sleep(0.1)
    cache = open_cache(table, table.rows("train"), (32, 16), folder, progress=progress)
    answers.put((bool(built), cache.images.tobytes()))


@pytest.mark.parametrize("die", [False, True])
def test_trainings_share_a_cache_that_one_of_them_builds(sets, tmp_path, count, die):
    number = 3
    gate, answers = CONTEXT.Barrier(number + die), CONTEXT.Queue()
    arguments = (sets / "images", tmp_path / "cache", gate, answers)
    processes = [CONTEXT.Process(target=_open, args=(*arguments, False)) for _ in range(number)]
    if die:
        processes.append(CONTEXT.Process(target=_open, args=(*arguments, True)))
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in range(number)]
    for process in processes:
        process.join()
    assert len({images for _, images in found}) == 1
    assert [built for built, _ in found].count(True) == 1, "the others waited for it"
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".npy"]
    with contextlib.suppress(FileNotFoundError):
        assert not list(tmp_path.glob("cache/.*"))
    count("caches shared")
