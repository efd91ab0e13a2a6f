"""Ctrl-C and SIGTERM in training: one line, the shell's exit code, and a run that resumes."""

import random
import shutil

import pytest
from test_kill_and_resume import _train
from tiny_runs import SEED, contents

CODES = {"SIGINT": 130, "SIGTERM": 143}
MODES = {"SIGINT": "interrupted", "SIGTERM": "terminated"}


@pytest.mark.parametrize("name", CODES)
def test_a_stopped_training_says_how_to_go_on_and_does(
    zygote, sets, tmp_path, name, faults_full, count
):
    folder = tmp_path / "work"
    folder.mkdir()
    whole = _train(zygote, "clip_mc", sets, folder)
    expected = contents(folder)
    draw = random.Random(f"{SEED} {name}")
    for _ in range(10 if faults_full else 2):
        shutil.rmtree(folder)
        folder.mkdir()
        moment = draw.randint(1, whole.calls["all"] - 10)
        ended = _train(zygote, "clip_mc", sets, folder, mode=MODES[name], at=moment)
        assert ended.code == CODES[name], (moment, ended)
        assert ended.err.splitlines()[-1] == (
            f"train: stopped by {name}. Nothing is damaged: `vireid train --run {folder / 'run'} "
            "--resume` goes on after what is finished."
        )
        assert "Traceback" not in ended.err and "Aborted" not in ended.err
        again = _train(zygote, "clip_mc", sets, folder)
        assert again.code == 0, (moment, again.err)
        found = contents(folder)
        assert found.keys() == expected.keys(), moment
        assert [path for path in expected if found[path] != expected[path]] == [], moment
        count(f"stopped by {name}, then resumed")
