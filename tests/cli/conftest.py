"""The command line as a stranger uses it: a tiny data set, a tiny run, and feature files."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import TINY, CommandLine, Outcome, arrays, run_vireid

from vireid_fast.data.synthetic import write_sysu_layout


@dataclass(frozen=True)
class TinyRun:
    """A finished run, the data that it was trained on, and what its command printed."""

    path: Path
    root: Path
    outcome: Outcome


@pytest.fixture
def vireid(capsys, monkeypatch) -> CommandLine:
    return CommandLine(capsys, monkeypatch)


@pytest.fixture(autouse=True)
def threads_stay() -> Iterator[None]:
    """Commands set the number of threads; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pristine_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cli") / "data"
    write_sysu_layout(root, identities=8, views=2, size=(64, 32), splits=(0.5, 0.25, 0.25), seed=3)
    return root


@pytest.fixture
def root(pristine_root, tmp_path) -> Path:
    """A data set that a test may damage, without the cache that other tests made."""
    without_cache = shutil.ignore_patterns(".vireid_cache")
    return Path(shutil.copytree(pristine_root, tmp_path / "data", ignore=without_cache))


@pytest.fixture(scope="session")
def pristine_run(tmp_path_factory) -> TinyRun:
    """One training for all tests, started as `--method csdn --data sysu_mm01_small`."""
    folder = tmp_path_factory.mktemp("run")
    root = folder / "data"
    write_sysu_layout(root, identities=8, views=2, size=(64, 32), splits=(0.5, 0.25, 0.25), seed=3)
    outcome = run_vireid(
        "train", "--method", "csdn", "--data", "sysu_mm01_small", "--data-root", root,
        "--run", folder / "run", *TINY,
    )  # fmt: skip
    return TinyRun(folder / "run", root, outcome)


@pytest.fixture
def run(pristine_run, tmp_path) -> Path:
    """A finished run that a test may damage."""
    return Path(shutil.copytree(pristine_run.path, tmp_path / "run"))


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """Write a feature file: `write(name, **changes of arrays(...))`."""

    def save(name: str, **changes) -> Path:
        np.savez(tmp_path / name, **arrays(**changes))
        return tmp_path / name

    return save


@pytest.fixture
def pair(write) -> tuple[object, ...]:
    """Options that name a good query and a good gallery file."""
    query, gallery = write("query.npz"), write("gallery.npz", cameras=(1, 2))
    return ("--query", query, "--gallery", gallery)


@pytest.fixture
def unchanged(tmp_path) -> Callable[[Path], object]:
    """Context: the file keeps its content, and no other file appears in its folder."""

    @contextmanager
    def check(path: Path):
        before, names = path.read_bytes(), sorted(os.listdir(path.parent))
        yield
        assert path.read_bytes() == before
        assert sorted(os.listdir(path.parent)) == names

    return check
