"""`make results`: the methods, their baselines and ablations on real visible / thermal images.

Runs unattended, two runs at a time with one thread each, and continues where it stopped: a run that
has its result file is not run again, one that was stopped resumes from its checkpoint. Everything
goes through the commands of the README. Writes benchmarks/results/<study>/<row>-seed<N>.json and
the tables.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from report import write_tables
from studies import STUDIES, Row, Study

from vireid_fast.config import load_config
from vireid_fast.engine.run_folder import RunFolder, environment
from vireid_fast.engine.workflow import evaluate_run, evaluate_start

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LANES = 2
_FRESH, _NO_WEIGHTS = "start_from=''", "clip.weights=''"


@dataclass(frozen=True)
class Job:
    """One command, what must exist before it, and what it leaves behind."""

    name: str
    arguments: tuple[str, ...]
    needs: tuple[Path, ...]
    gives: Path


class Folders:
    """Where the runs and results of one study and seed lie."""

    def __init__(self, study: Study, seed: int, runs: Path) -> None:
        self.study, self.seed = study, seed
        self.data = ROOT / "data" / study.data_root
        self.runs = runs / study.key / f"seed{seed}"
        self.pretrained = self.runs / study.pretraining.key / "weights.safetensors"
        self.warm_done = self.runs / "warmup.done"
        self.synthetic = runs / "synthetic"

    def result(self, row: Row) -> Path:
        return RESULTS / self.study.key / f"{row.key}-seed{self.seed}.json"

    def start(self, *, pretrained_only: bool = False) -> tuple[str, ...]:
        """Settings that make a run start where all rows start."""
        if self.study.warmup is None or pretrained_only:
            return (f"clip.weights={self.pretrained}",)
        return (f"start_from={self.runs / self.study.warmup.key}",)


def _jobs(study: Study, seed: int, runs: Path, wanted: set[int]) -> Iterator[Job]:
    """Start weights, then all rows of one seed that have no result yet."""
    at = Folders(study, seed, runs)
    rows = [r for r in study.rows if seed in r.seeds and seed in wanted
            and not at.result(r).exists()]  # fmt: skip
    if not rows:
        return
    common = ("--data-root", str(at.data), "--resume")
    if not at.pretrained.exists():
        yield Job(
            f"{study.key} {seed} pretrain",
            ("pretrain", "--config", study.pretraining.config, *common,
             "--run", str(at.pretrained.parent), f"seed={seed}", "threads=1",
             f"pretrain.synthetic_root={at.synthetic / study.key}",
             *study.pretraining.overrides),
            (), at.pretrained,
        )  # fmt: skip
    ready = at.pretrained
    if study.warmup is not None:
        ready = at.warm_done
        if not ready.exists():
            yield Job(
                f"{study.key} {seed} warm-up",
                ("train", "--config", study.warmup.config, *common,
                 "--run", str(at.runs / study.warmup.key), f"seed={seed}", "threads=1",
                 *at.start(pretrained_only=True), *study.warmup.overrides),
                (at.pretrained,), ready,
            )  # fmt: skip
    for row in rows:
        yield Job(
            f"{study.key} {seed} {row.key}", ("row", study.key, row.key, str(seed), str(runs)),
            (ready,), at.result(row),
        )  # fmt: skip


def _row(study_key: str, row_key: str, seed: int, runs: Path) -> None:
    """Train and evaluate one row and write its result file."""
    study = next(s for s in STUDIES if s.key == study_key)
    row = next(r for r in study.rows if r.key == row_key)
    at = Folders(study, seed, runs)
    overrides = [f"seed={seed}", "threads=1", *at.start(), *row.overrides]
    if _FRESH in row.overrides and _NO_WEIGHTS not in row.overrides:
        overrides += at.start(pretrained_only=True)
    if row.trained:
        run = RunFolder(at.runs / row.key)
        _call("train", "--config", row.config, "--data-root", str(at.data), "--resume",
              "--run", str(run.path), *overrides)  # fmt: skip
        results = evaluate_run(run)
        minutes = _minutes(run)
    else:
        config = load_config(row.config, [f"data.root={at.data}", *overrides])
        results, minutes = evaluate_start(config), None
    value = {
        "study": study.key, "row": row.key, "title": row.title, "seed": seed,
        "config": row.config, "overrides": list(row.overrides),
        "minutes": minutes, "minutes_before": _minutes_before(at),
        "results": {name: result.to_json() for name, result in results.items()},
        "environment": environment(),
    }  # fmt: skip
    target = at.result(row)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _minutes(run: RunFolder) -> float:
    lines = run.metrics_file.read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["seconds"] for line in lines) / 60


def _minutes_before(at: Folders) -> dict[str, float]:
    """Minutes of the runs that the rows start from."""
    starts = (at.study.pretraining, at.study.warmup)
    return {s.key: _minutes(RunFolder.open(at.runs / s.key)) for s in starts if s is not None}


def _call(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "vireid_fast", *arguments], cwd=ROOT, check=True)


def _start(job: Job, log_folder: Path) -> subprocess.Popen[bytes]:
    module = [str(Path(__file__))] if job.arguments[0] == "row" else ["-m", "vireid_fast"]
    log_folder.mkdir(parents=True, exist_ok=True)
    with (log_folder / f"{job.name.replace(' ', '-')}.log").open("ab") as log:
        # One thread each: two runs side by side use two cores better than two threads in one.
        return subprocess.Popen(
            [sys.executable, *module, *job.arguments], cwd=ROOT, stdout=log, stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def _run_all(jobs: list[Job], log_folder: Path, lanes: int) -> list[str]:
    """Run every job whose needs are met, `lanes` at a time; returns the names that failed."""
    waiting, running, failed = list(jobs), [], []
    while waiting or running:
        for job, process in list(running):
            if process.poll() is None:
                continue
            running.remove((job, process))
            good = process.returncode == 0
            if good and not job.gives.exists():
                job.gives.touch()
            failed += [] if good else [job.name]
            print(f"results: {job.name} {'done' if good else 'FAILED'}", flush=True)
        able = [job for job in waiting if all(path.exists() for path in job.needs)]
        while able and len(running) < lanes:
            job = able.pop(0)
            waiting.remove(job)
            running.append((job, _start(job, log_folder)))
        if waiting and not running:
            failed += [job.name for job in waiting]
            break
        time.sleep(1)
    return failed


def _prepare_data(study: Study) -> None:
    root = ROOT / "data" / study.data_root
    if study.synthetic:
        _call("synth", "--out", str(root), *study.synthetic)
    elif not root.is_dir():
        sys.exit(f"results: {root} must be the unpacked data set. See docs/results.md")


def main(
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = ROOT / "runs" / "results",
    studies: Annotated[str, typer.Option(help="Studies, by commas; all if empty.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, by commas.")] = "1,2,3",
    rows: Annotated[str, typer.Option(help="Keys of rows, by commas; all if empty.")] = "",
    lanes: Annotated[int, typer.Option(help="Runs side by side.")] = LANES,
) -> None:
    """Run what is missing, then write the tables."""
    wanted, names = {int(s) for s in seeds.split(",")}, set(filter(None, rows.split(",")))
    chosen = [s for s in STUDIES if not studies or s.key in studies.split(",")]
    for study in chosen:
        _prepare_data(study)
    keep: Callable[[Job], bool] = lambda job: (  # noqa: E731
        job.arguments[0] != "row" or not names or job.arguments[2] in names
    )
    jobs = [job for study in chosen for seed in sorted(wanted)
            for job in _jobs(study, seed, runs, wanted) if keep(job)]  # fmt: skip
    failed = _run_all(jobs, runs / "logs", lanes)
    write_tables()
    if failed:
        sys.exit(f"results: {', '.join(failed)} failed, see {runs / 'logs'}. Start again to go on.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["row"]:
        _row(sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
    else:
        typer.run(main)
