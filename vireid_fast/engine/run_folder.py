"""The folder of one run: configuration, environment, metrics, checkpoints, features, results."""

import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vireid_fast._checks import require, sentence
from vireid_fast._extension import HAS_EXTENSION
from vireid_fast._files import append_line, atomic_write
from vireid_fast._locks import LOCK_FILE, exclusive
from vireid_fast._version import __version__
from vireid_fast.config import Config, ConfigError, load_config, presets
from vireid_fast.engine.scalar_events import scalar_events

# What a continuation may change: where it runs and reads, and results beside training. The other
# evaluation keys choose the epoch; `evaluation.batch_size` also blocks stage-2 features.
MAY_CHANGE = (
    "device", "threads", "data.root", "data.cache", "data.follow_links", "evaluation.rerank",
)  # fmt: skip


class RunFolder:
    """Paths and small files of a run. `start` makes a new one, `open` finds an existing one.

    Layout: config.yaml, environment.json, metrics.jsonl, tensorboard/, checkpoints/, features/,
    results.json, report.html.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.latest = self.checkpoints / "latest.json"
        self.best = self.checkpoints / "best.json"
        self.features = path / "features"
        self.results_file = path / "results.json"

    def require_startable(self, config: Config, *, resume: bool) -> None:
        """Refuse, before anything is computed, a folder in which `start` would do harm.

        A folder without a checkpoint, as a failed start leaves it, counts as new.

        Raises:
            ValueError: The folder holds a checkpoint and `resume` is off, or it is on and the
                folder's configuration differs; or the path leads through a file.
        """
        self._require_folder()
        if not self._has_checkpoint():
            return
        require(
            resume, "run", str(self.path), "be a new folder", "one that holds a run",
            "Add --resume to continue it, or name another folder with --run.",
        )  # fmt: skip
        self._require_same(config)

    def start(self, config: Config, *, processes: int = 1) -> None:
        """Make the folder, or continue in it, and write its configuration and environment."""
        self.path.mkdir(parents=True, exist_ok=True)
        config.save(self.config_file)
        self.write_json(
            self.path / "environment.json", {**environment(), "processes": processes}
        )

    @contextmanager
    def held(self, *, by: str = "", take: bool = True) -> Iterator[None]:
        """Hold the run for this process: no other may train in the folder meanwhile.

        Args:
            by: "" for training, which everything but the evaluation's files belongs to;
                "evaluation" for that, which may run beside a training.
            take: False does nothing, for processes that do not write.

        Raises:
            InUseError: Another process does the same in this folder; names it.
        """
        if not take:
            yield
            return
        self._require_folder()
        with exclusive(self.path, "run", name=f".{by}.lock" if by else LOCK_FILE):
            yield

    def _require_folder(self) -> None:
        nearest = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        require(nearest.is_dir(), "run", str(self.path), "be a folder", f"the file {nearest}")

    def _has_checkpoint(self) -> bool:
        # Hidden folders are what killed writes leave.
        return self.checkpoints.is_dir() and any(
            not entry.name.startswith(".") for entry in self.checkpoints.iterdir()
        )

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run."""
        require(not path.is_file(), "run", str(path), "be a folder", "a file",
                "Give the folder that `vireid train --run` wrote.")  # fmt: skip
        run = cls(path)
        if not run.config_file.is_file():
            got = "no such file" if path.is_dir() else "no such file and no such folder"
            raise ValueError(
                f"run: {path} must hold config.yaml, got {got}. "
                "Give the folder that `vireid train --run` wrote."
            )
        return run

    def config(self) -> Config:
        """The resolved configuration of the run."""
        return load_config(self.config_file)

    def _require_same(self, config: Config) -> None:
        require_settings(self.config().to_dict(), config.to_dict(), self.config_file)

    def write_json(self, path: Path, value: object) -> None:
        """Write JSON atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def configuration_source(
    config: str | None, method: str | None, data: str | None, resumed: Path | None
) -> str:
    """The configuration that the options of `vireid train` name.

    Args:
        config: Value of --config.
        method: Value of --method.
        data: Value of --data.
        resumed: The run to continue, whose own configuration is taken where no option names one.

    Returns:
        A file, or a preset.

    Raises:
        ValueError: The options name none, or two.
    """
    if method is not None or data is not None:
        require(
            config is None and method is not None and data is not None, "train", "--config",
            "come alone, or --method together with --data",
            f"--config {config}, --method {method}, --data {data}", f"Presets: {presets()}",
        )  # fmt: skip
        return f"{method}/{data}"
    if config is None and resumed is not None:
        return str(RunFolder.open(resumed).config_file)
    if config is None:
        raise ValueError(sentence(
            "train", "--config", "be given, or --method with --data", "neither",
            f"Presets: {presets()}"))  # fmt: skip
    return config


def require_settings(
    saved: Mapping[str, Any], given: Mapping[str, Any], where: Path, *, only: str = ""
) -> None:
    """Refuse settings that are not those that a run has, but for what a continuation may change.

    Args:
        saved: Those of the run, as `Config.to_dict` gives them.
        given: The present ones. What only one of the two knows is another version's.
        where: File that holds `saved`.
        only: Pattern that the keys to compare match; all by default.

    Raises:
        ConfigError: A value differs.
    """
    require(isinstance(saved, Mapping), f"config: {where}", "config", "be an object",
            type(saved).__name__, error=ConfigError)  # fmt: skip
    different = [
        key for key in _differences(saved, given)
        if key not in MAY_CHANGE and re.match(only, key)
    ]  # fmt: skip
    if different:
        raise ConfigError(
            f"config: {', '.join(different)} must stay as in {where} to go on with the run, got "
            "other values. Undo the change, or start a new run."
        )


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key in sorted(a.keys() & b.keys()):
        x, y = a[key], b[key]
        if isinstance(x, dict) and isinstance(y, dict):
            keys += _differences(x, y, f"{prefix}{key}.")
        elif x != y:
            keys.append(f"{prefix}{key}")
    return keys


def environment() -> dict[str, Any]:
    """Versions and machine facts that a result depends on."""
    return {
        "vireid_fast": __version__,
        "extension": HAS_EXTENSION,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


class MetricsLog:
    """One JSON line per epoch, and TensorBoard scalars where TensorBoard is installed.

    Args:
        run: The run's folder.
        keep: Lines to keep of an earlier part of the run: those up to the checkpoint that the
            run continues from. Later lines describe epochs that are trained again.
    """

    def __init__(self, run: RunFolder, keep: int) -> None:
        self._file = run.metrics_file
        # Bytes: a damaged line is no reason to lose the others, or to stop.
        lines = self._file.read_bytes().splitlines(keepends=True) if self._file.exists() else []
        with atomic_write(self._file) as path:
            path.write_bytes(b"".join(line.rstrip(b"\r\n") + b"\n" for line in lines[:keep]))
        self.lines = min(keep, len(lines))
        self._board = scalar_events(run.path / "tensorboard")

    def write(self, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        """Append one epoch."""
        record = {"stage": stage, "epoch": epoch, **values}
        append_line(self._file, json.dumps(record))
        self.lines += 1
        if self._board is not None:
            self._board.write(stage, epoch, values)
