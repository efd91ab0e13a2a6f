"""Training is killed at random moments and resumed: everything equals the uninterrupted run."""

import random
import shutil
import signal
from pathlib import Path

import pytest
from tiny_runs import CASES, SEED, contents, train_arguments
from zygote import Job, Zygote

KILLS = {"short": 2, "full": 13}
"""Of each of the four methods: 52 in all."""

CHAIN = 3
"""Kills of one run before it may end."""


def _train(zygote: Zygote, method: str, sets: Path, folder: Path, **fault: object):
    arguments = train_arguments(method, sets, folder, resume=True)
    return zygote.run(Job("tiny_runs:vireid", arguments, root=str(folder), **fault))


EVERY = 9
"""In the full form, one of so many changing calls of a training is refused."""


def _moment(draw: random.Random, calls: int, seconds: float) -> dict[str, object]:
    """Some changing call, in whose middle the process dies, or some time."""
    if draw.random() < 0.5:
        return {"mode": "killed", "at": draw.randint(1, calls)}
    return {"signals": [(draw.uniform(0.02, 1) * seconds, int(signal.SIGKILL))]}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", CASES)
def test_a_killed_training_ends_as_an_uninterrupted_one(
    zygote, sets, tmp_path, method, faults_full, count
):
    wanted = KILLS["full" if faults_full else "short"]
    draw = random.Random(f"{SEED} {method}")
    folder = tmp_path / "work"
    folder.mkdir()
    whole = _train(zygote, method, sets, folder)
    assert whole.code == 0, whole.err
    expected = contents(folder)
    assert any(name.endswith("model.safetensors") for name in expected)
    kills = 0
    while kills < wanted:
        shutil.rmtree(folder)
        folder.mkdir()
        moments: list[object] = []
        while len(moments) < min(CHAIN, wanted - kills):
            moment = _moment(draw, whole.calls["all"], whole.seconds)
            ended = _train(zygote, method, sets, folder, **moment)
            assert ended.code in (0, -signal.SIGKILL), (moments, moment, ended.err)
            if ended.code == 0:
                break
            moments.append(moment)
        last = _train(zygote, method, sets, folder)
        assert last.code == 0, (moments, last.err)
        found = contents(folder)
        different = [name for name in expected | found if found.get(name) != expected.get(name)]
        metrics = (found["run/metrics.jsonl"], expected["run/metrics.jsonl"])
        assert not different, (moments, different, metrics, last.err)
        kills += len(moments)
        inside = sum("at" in moment for moment in moments)
        count("killed in a write, then resumed", inside)
        count("killed at a random time, then resumed", len(moments) - inside)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", ["full", "refused"])
def test_a_training_that_may_not_write_says_so_and_goes_on_later(
    zygote, sets, tmp_path, mode, faults_full, count
):
    folder = tmp_path / "work"
    folder.mkdir()
    whole = _train(zygote, "clip_mc", sets, folder)
    expected = contents(folder)
    draw = random.Random(f"{SEED} {mode}")
    every = range(draw.randint(1, EVERY), whole.calls["all"] + 1, EVERY)
    for at in every if faults_full else draw.sample(every, 2):
        shutil.rmtree(folder)
        folder.mkdir()
        ended = _train(zygote, "clip_mc", sets, folder, mode=mode, at=at)
        place = (mode, at, ended)
        if ended.code == 0:
            # Nothing depended on that call, such as making a folder that is there.
            found = contents(folder)
            assert all(found.get(name) == content for name, content in expected.items()), place
        else:
            assert ended.code == 1, place
            errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1 and "Traceback" not in ended.err, place
            assert str(folder) in errors[0], place
        again = _train(zygote, "clip_mc", sets, folder)
        assert again.code == 0, (place, again.err)
        found = contents(folder)
        different = [name for name in expected | found if found.get(name) != expected.get(name)]
        assert not different, (place, different)
        count(f"training, {mode}, then resumed")
