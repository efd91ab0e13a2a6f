"""Every kind of write of the package: how to do it, what must be there before and after.

A kind writes below an `out` folder what follows from an `inputs` folder. Files that may be there
before hold `BEFORE`, or what `before` has made; then a kind replaces them.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tiny_runs import CASES, COMMON, train_arguments, vireid, write_tiny_sets

BEFORE = b"what was there before"
RUN_METHOD = "clip_mc"


@dataclass(frozen=True)
class Writer:
    """One kind of write.

    Attributes:
        write: `write(inputs, out)`; prints one sentence and ends with exit code 1 if refused.
        targets: Files that it replaces.
        modules: The modules of the package that it writes through.
        before: Makes what was there before; None: `BEFORE` in all targets.
        whole: Folder of which all files change together.
        every: In the full form, one of so many calls is made to fail; else every one.
        grows: Whether the one target gets a line more; a kill may cut that line.
        slow: Whether the short form leaves it out.
    """

    write: Callable[[Path, Path], None]
    targets: tuple[str, ...]
    modules: tuple[str, ...]
    before: Callable[[Path, Path], None] | None = None
    whole: str = ""
    every: int = 1
    grows: bool = False
    slow: bool = False


def prepare_inputs(inputs: str) -> None:
    """Data sets, feature files of a query and a gallery, and a finished run with its data."""
    folder = Path(inputs)
    write_tiny_sets(folder / "sets")
    from vireid_fast.data.feature_files import write_features

    for number, name in enumerate(("query", "gallery")):
        write_features(folder / f"{name}.npz", _arrays(number), {})
    vireid(*train_arguments(RUN_METHOD, folder / "sets", folder, resume=True))


def prepare(name: str, inputs: str, out: str) -> None:
    """Make what is there before a write."""
    writer, folder = WRITERS[name], Path(out)
    folder.mkdir(parents=True)
    if writer.before is not None:
        writer.before(Path(inputs), folder)
        return
    for target in writer.targets:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / target).write_bytes(BEFORE)


def write(name: str, inputs: str, out: str) -> None:
    """Do a write as a command does: a refusal is one line on standard error, and exit code 1."""
    import sys

    try:
        WRITERS[name].write(Path(inputs), Path(out))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _arrays(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "features": draw.standard_normal((12, 8)).astype(np.float32),
        "person_ids": np.arange(12) % 3 + 1,
        "camera_ids": np.resize(np.array([(3, 6), (1, 2)][seed], np.int64), 12),
        "modality": np.full(12, 1 - seed),
    }


def _features(suffix: str) -> Callable[[Path, Path], None]:
    def work(_: Path, out: Path) -> None:
        from vireid_fast.data.feature_files import write_features

        write_features(out / f"features.{suffix}", _arrays(1), {"method": "tests"})

    return work


def _command(*words: str) -> Callable[[Path, Path], None]:
    """`vireid` with INPUTS and OUT in its words replaced."""

    def work(inputs: Path, out: Path) -> None:
        given = {"INPUTS": str(inputs), "OUT": str(out)}
        vireid(*(re.sub("INPUTS|OUT", lambda m: given[m[0]], word) for word in words))

    return work


def _checkpoint(_: Path, out: Path, *, value: float = 2.0) -> None:
    import torch

    from vireid_fast.engine.checkpoint import Checkpoint, save_checkpoint

    model = torch.nn.Linear(300, 100)
    torch.nn.init.constant_(model.weight, value)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 300)).sum().backward()
    optimizer.step()
    card = {"value": value}
    save_checkpoint(out / "model", Checkpoint(model.state_dict(), card, optimizer.state_dict()))


def _earlier_checkpoint(inputs: Path, out: Path) -> None:
    _checkpoint(inputs, out, value=1.0)


def _pointer(_: Path, out: Path) -> None:
    from vireid_fast.engine.checkpoint import point_to

    point_to(out / "latest.json", out / "0-joint-0001", epoch=1)


def _configuration(inputs: Path, out: Path) -> None:
    from vireid_fast.config import load_config

    load_config(str(inputs / "run" / "config.yaml")).save(out / "config.yaml")


def _facts(_: Path, out: Path) -> None:
    from vireid_fast.engine.run_folder import RunFolder

    RunFolder(out).write_json(out / "results.json", {"R1": [0.5] * 2000})


def _line(_: Path, out: Path) -> None:
    from vireid_fast._files import append_line

    append_line(out / "metrics.jsonl", json.dumps({"epoch": 3, "losses": [0.25] * 400}))


def _earlier_lines(_: Path, out: Path) -> None:
    (out / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n', encoding="utf-8")


def _run_of_inputs(inputs: Path, out: Path) -> None:
    """A run that was evaluated before, with results that the evaluation replaces."""
    shutil.copytree(inputs / "run", out / "run")
    for name in ("results.json", "features/test.npz", "report.html"):
        (out / "run" / name).parent.mkdir(exist_ok=True)
        (out / "run" / name).write_bytes(BEFORE)


def _earlier_set(_: Path, out: Path) -> None:
    vireid("synth", "--out", str(out / "set"), *SYNTH, "--seed", "1")


def _earlier_pretraining(inputs: Path, out: Path) -> None:
    _command(*PRETRAIN)(inputs, out)
    for name in ("weights.safetensors", "weights.json"):
        (out / "pre" / name).write_bytes(BEFORE)


def _earlier_model(inputs: Path, out: Path) -> None:
    _command("convert", "INPUTS/run", "--out", "OUT/model")(inputs, out)
    card = out / "model" / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "licence": "earlier"}))


SYNTH = ("--identities", "3", "--views", "1", "--height", "32", "--width", "16")
PRETRAIN = (
    "pretrain", "--config", CASES["csdn"][0], "--data-root", "INPUTS/sets/images",
    "--run", "OUT/pre", "--resume", *COMMON, "data.cache=INPUTS/cache", "pretrain.epochs=1",
    "pretrain.steps=1", "pretrain.identities=3", "pretrain.views=1",
    "pretrain.captioned_per_batch=2", "sampler.identities=2",
)  # fmt: skip
SEARCH = ("--query", "INPUTS/query.npz", "--gallery", "INPUTS/gallery.npz", "--top-k", "3")
PAIR = ("--query", "INPUTS/query.npz", "--gallery", "INPUTS/gallery.npz")

WRITERS = {
    "features (.npz)": Writer(
        _features("npz"), ("features.npz",), ("data/feature_files.py", "data/feature_formats.py")
    ),
    "features (.safetensors)": Writer(
        _features("safetensors"), ("features.safetensors",),
        ("data/feature_files.py", "data/feature_formats.py"),
    ),
    "features (.h5)": Writer(
        _features("h5"), ("features.h5",), ("data/feature_files.py", "data/h5_reading.py")
    ),
    "checkpoint or model folder": Writer(
        _checkpoint, (), ("engine/checkpoint.py", "engine/trainer.py", "engine/model_card.py"),
        _earlier_checkpoint, whole="model",
    ),
    "pointer": Writer(_pointer, ("latest.json",), ("engine/checkpoint.py", "engine/trainer.py")),
    "configuration": Writer(_configuration, ("config.yaml",), ("config/schema.py",)),
    "JSON of a run": Writer(_facts, ("results.json",), ("engine/run_folder.py",)),
    "line of metrics.jsonl": Writer(
        _line, ("metrics.jsonl",), ("engine/run_folder.py",), _earlier_lines, grows=True
    ),
    "extracted features": Writer(
        _command("extract", "--run", "INPUTS/run", "--out", "OUT/all.npz"), ("all.npz",),
        ("data/feature_files.py", "data/feature_formats.py"),
    ),
    "evaluated run": Writer(
        _command("eval", "--run", "OUT/run"),
        ("run/results.json", "run/features/test.npz", "run/report.html"),
        ("engine/run_folder.py", "report/page.py"), _run_of_inputs, every=3,
    ),
    "results (--json)": Writer(
        _command("eval", *PAIR, "--json", "OUT/result.json"), ("result.json",), ("cli/options.py",)
    ),
    "re-ranked distances": Writer(
        _command("rerank", *PAIR, "--k1", "5", "--out", "OUT/d.npz"), ("d.npz",),
        ("engine/evaluation_files.py",),
    ),
    "re-ranked lists": Writer(
        _command("rerank", *PAIR, "--k1", "5", "--top-k", "3", "--out", "OUT/d.npz"), ("d.npz",),
        ("engine/evaluation_files.py",),
    ),
    "synthetic set": Writer(
        _command("synth", "--out", "OUT/set", *SYNTH, "--sheet", "OUT/sheet.png"), (),
        (
            "cli/data.py", "data/synthetic/folder.py", "data/synthetic/people.py",
            "engine/demo.py", *(
                f"data/synthetic/layouts/{name}.py"
                for name in ("bupt_campus", "llcm", "regdb", "hitsz_vcm", "sysu_mm01", "manifest")
            ),
        ),
        _earlier_set, whole="set", every=3,
    ),
    "data report": Writer(
        _command("check-data", "--root", "INPUTS/sets/images", "--json", "OUT/report.json"),
        ("report.json",), ("cli/data.py",),
    ),
    "pre-trained weights": Writer(
        _command(*PRETRAIN), ("pre/weights.safetensors", "pre/weights.json"),
        ("engine/pretraining.py",), _earlier_pretraining, every=9,
    ),
    "search results (table)": Writer(
        _command("search", *SEARCH, "--format", "table", "--out", "OUT/found.txt"), ("found.txt",),
        ("engine/search_output.py",),
    ),
    "search results (JSON)": Writer(
        _command("search", *SEARCH, "--format", "json", "--out", "OUT/found.json"),
        ("found.json",), ("engine/search_output.py",),
    ),
    "search page": Writer(
        _command("search", *SEARCH, "--format", "page", "--out", "OUT/found.html"),
        ("found.html",), ("engine/search_output.py", "report/search_page.py"),
    ),
    "converted model": Writer(
        _command("convert", "INPUTS/run", "--out", "OUT/model"), (), ("engine/checkpoint.py",),
        _earlier_model, whole="model",
    ),
    "ONNX": Writer(
        _command("export", "--run", "INPUTS/run", "--out", "OUT/net.onnx", "--modality", "visible"),
        ("net.onnx",), ("engine/onnx_export.py",), every=8, slow=True,
    ),
    "report page": Writer(
        _command("report", *PAIR, "--out", "OUT/page.html"), ("page.html",),
        ("report/page.py", "engine/report/shelf.py", "engine/pages.py"),
    ),
}  # fmt: skip
