"""Trainings of every method so small that one takes a second, and what they leave behind."""

import json
import sys
from pathlib import Path
from typing import Any

from method_cases import CASES, COMMON, write_tiny_sets

__all__ = ["CASES", "SEED", "contents", "train_arguments", "vireid", "write_tiny_sets"]

SEED = 20260101
"""Of everything that the suite draws; a failure names what was drawn."""

# Two epochs of each stage, and validation, so that the best epoch need not be the last one.
MORE = {
    "csdn": ("csdn.prompts.epochs=2", "csdn.visual.epochs=2"),
    "clip4vi_reid": ("clip4vi_reid.tsg.epochs=1", "clip4vi_reid.hsa.epochs=2"),
    "clip_mc": ("clip_mc.train.epochs=3",),
    "lsmrl": ("lsmrl.train.epochs=3",),
}


def train_arguments(method: str, sets: Path, folder: Path, *, resume: bool) -> list[str]:
    """The command that trains `method` into FOLDER/run, with its cache in FOLDER/cache."""
    preset, data, *own = CASES[method]
    overrides = [*COMMON, *own, *MORE[method], f"data.cache={folder / 'cache'}"]
    return [
        "train", "--config", preset, "--data-root", str(sets / data), "--run", str(folder / "run"),
        *(["--resume"] if resume else []), *overrides,
    ]  # fmt: skip


def vireid(*arguments: str) -> None:
    """The command line; ends with SystemExit where it fails."""
    from vireid_fast import cli

    sys.argv = ["vireid", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise


def contents(folder: Path) -> dict[str, Any]:
    """All that a run must have in common with an uninterrupted one, by path: bytes, or JSON.

    Seconds are left out, and the events of TensorBoard, which hold the time.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or "/tensorboard/" in f"/{name}":
            continue
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
        else:
            # Caches name the folder that they lie in, and the run's paths.
            found[name] = path.read_bytes().replace(str(folder).encode(), b"FOLDER")
    return found
