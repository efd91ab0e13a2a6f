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


def _moment(draw: random.Random, calls: int, seconds: float) -> dict[str, object]:
    """Some changing call, in whose middle the process dies, or some time."""
    if draw.random() < 0.5:
        return {"mode": "killed", "at": draw.randint(1, calls)}
    return {"signals": [(draw.uniform(0.02, 1) * seconds, int(signal.SIGKILL))]}


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
