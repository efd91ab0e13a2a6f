"""`make results`: the small CSDN and its baselines on real visible / thermal images.

Runs unattended and continues where it stopped. For each seed, through the commands of the README:
pre-training; a visual warm-up; from its weights, side by side, the visual losses alone and full
CSDN; then the rows of the table. Needs the data (see docs/results.md); writes
benchmarks/results/scene_regions/seed<N>.json and the tables.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from report import write_tables

from vireid_fast.engine.run_folder import RunFolder, environment
from vireid_fast.engine.workflow import evaluate_run, evaluate_start

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "csdn" / "scene_regions.yaml"
WARMUP_EPOCHS = 3
RESULTS = ROOT / "benchmarks" / "results" / "scene_regions"


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    # One thread each: two runs side by side use two cores better than two threads in one.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vireid_fast", *arguments, "threads=1"]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def _finish(*processes: subprocess.Popen[bytes]) -> None:
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit("results: a run failed, see above. Start again to continue after its checkpoint.")


def _minutes(run: RunFolder) -> float:
    lines = run.metrics_file.read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["seconds"] for line in lines) / 60


def _seed(seed: int, data_root: Path, runs: Path, synthetic: Path) -> dict[str, object]:
    """All rows of one seed; they start from the same weights."""
    common = ("--config", str(CONFIG), "--data-root", str(data_root), "--resume")
    pretrained = runs / "pretrain"
    if not (pretrained / "weights.safetensors").exists():
        _finish(_start("pretrain", *common, "--run", str(pretrained), f"seed={seed}",
                       f"pretrain.synthetic_root={synthetic}"))  # fmt: skip
    alone = "csdn.text_terms=false"
    _finish(_start(
        "train", *common, "--run", str(runs / "warmup"), f"seed={seed}", alone,
        f"clip.weights={pretrained / 'weights.safetensors'}",
        f"csdn.visual.epochs={WARMUP_EPOCHS}",
    ))  # fmt: skip
    start = f"start_from={runs / 'warmup'}"
    _finish(*(
        _start("train", *common, "--run", str(runs / name), f"seed={seed}", start, *extra)
        for name, extra in (("visual", [alone]), ("full", []))
    ))  # fmt: skip
    warmup, visual, full = (RunFolder.open(runs / name) for name in ("warmup", "visual", "full"))
    config = full.config()
    random = replace(config, start_from="")
    results = evaluate_run(full)
    rows = {
        "random weights": evaluate_start(random)["plain"],
        "pre-training alone": evaluate_start(warmup.config())["plain"],
        "pre-training + warm-up": evaluate_start(config)["plain"],
        "visual losses alone": evaluate_run(visual)["plain"],
        "full CSDN": results["plain"],
        "full CSDN + re-ranking": results["reranked"],
    }
    spent = _minutes(RunFolder.open(pretrained))
    minutes = {"pre-training alone": spent}
    spent += _minutes(warmup)
    minutes["pre-training + warm-up"] = spent
    minutes["visual losses alone"] = spent + _minutes(visual)
    minutes["full CSDN"] = spent + _minutes(full)
    return {
        "seed": seed,
        "rows": {name: result.to_json() for name, result in rows.items()},
        "minutes": minutes,
        "environment": environment(),
    }


def main(
    data_root: Annotated[Path, typer.Option(help="Unpacked scene regions.")] = (
        ROOT / "data" / "scene-regions"
    ),
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = ROOT / "runs" / "results",
    seeds: Annotated[int, typer.Option(help="Seeds 1..N.")] = 3,
) -> None:
    """Run what is missing, then write the tables."""
    if not data_root.is_dir():
        sys.exit(f"results: {data_root} must be the unpacked data set. See docs/results.md")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in range(1, seeds + 1):
        target = RESULTS / f"seed{seed}.json"
        if target.exists():
            continue
        rows = _seed(seed, data_root, runs / f"seed{seed}", runs / "synthetic")
        target.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    write_tables()


if __name__ == "__main__":
    typer.run(main)
