"""Running `vireid` in this process or in a fresh one, and arrays for feature files."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vireid_fast import cli

PRESET = "csdn/sysu_mm01_small"
TINY = (
    "data.height=64", "data.width=32", "sampler.identities=2", "sampler.instances=2",
    "csdn.prompts.epochs=1", "csdn.fusion.epochs=1", "csdn.visual.epochs=1",
    "evaluation.rerank=[4, 2, 0.3]", "pretrain.epochs=1", "pretrain.steps=1",
    "pretrain.identities=3", "pretrain.views=1", "threads=1",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Exit code and what a command wrote."""

    code: int
    out: str
    err: str


class CommandLine:
    """Runs `vireid` in this process, with exit code and streams caught."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: object) -> Outcome:
        """Run a command; anything but a clean exit fails the test."""
        self._monkeypatch.setattr(sys, "argv", ["vireid", *map(str, arguments)])
        self._capsys.readouterr()
        code = _exit_code()
        captured = self._capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    def ok(self, *arguments: object) -> Outcome:
        """Run a command that must succeed."""
        outcome = self(*arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    def error(self, *arguments: object) -> str:
        """Run a command that must fail with one sentence; returns that sentence."""
        outcome = self(*arguments)
        assert outcome.code == 1, (outcome.code, outcome.err)
        assert "Traceback" not in outcome.err
        lines = outcome.err.rstrip("\n").splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), outcome.err
        return lines[0]


def _exit_code() -> int:
    try:
        cli.main()
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


def run_vireid(*arguments: object, prelude: str = "", **options: object) -> Outcome:
    """Run a command in a fresh interpreter, after Python statements that change its world."""
    code = f"import sys\nsys.argv = ['vireid', *sys.argv[1:]]\n{prelude}\n"
    code += "from vireid_fast.cli import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120, **options,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)


def train_arguments(root: Path, run: Path, *further: str) -> tuple[object, ...]:
    return ("train", "--config", PRESET, "--data-root", root, "--run", run, *TINY, *further)


def arrays(rows: int = 12, width: int = 8, cameras: tuple[int, ...] = (3, 6), **changes):
    """Arrays of a feature file: 3 identities on `cameras`; a change of None removes a key."""
    generator = np.random.default_rng(rows + width + sum(cameras))
    values = {
        "features": generator.standard_normal((rows, width)).astype(np.float32),
        "person_ids": np.arange(rows) % 3 + 1,
        "camera_ids": np.resize(np.asarray(cameras, np.int64), rows),
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None}
