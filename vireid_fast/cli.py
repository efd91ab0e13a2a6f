"""The command `vireid`: parses, calls, prints. No logic."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vireid_fast._version import __version__
from vireid_fast.config import load_config

app = typer.Typer(
    name="vireid",
    help="Visible-infrared person re-identification: train, extract, evaluate, re-rank.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help="YAML file, or a preset such as csdn/scene_regions.")
]
RunOption = Annotated[Path, typer.Option("--run", "-r", help="Folder of the run.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue a stopped run; on the CPU bit for bit.")
]
DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of the data set (data.root).")
]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad-images", help="Leave damaged images out and count them.")
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        help="sysu/agw (default), sysu/official, regdb/agw, regdb/mpanet, llcm/paper, "
        "llcm/official-code, llcm/idkl, vcm/mitml, bupt/full, bupt/official-bs64, market1501."
    ),
]
ModeOption = Annotated[
    str | None,
    typer.Option(
        help="all or indoor (sysu), infrared-visible or visible-infrared (regdb, llcm, vcm, "
        "bupt), all (market1501), several with commas, or each. Left out: all, or both directions."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Overrides such as seed=2 csdn.visual.epochs=10.", metavar="[KEY=VALUE]"),
]


def _config(source: str, overrides: list[str] | None, root: Path | None, skip: bool) -> Any:
    # Quoted, so that a folder called 2024 stays text.
    extra = [f"data.root={json.dumps(str(root))}"] if root is not None else []
    extra += ["data.skip_bad_images=true"] if skip else []
    return load_config(source, [*extra, *(overrides or [])])


def _say(text: str) -> None:
    """One line as it is: never wrapped, and brackets in a path are no markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _once_per_machine() -> Iterator[None]:
    """torchrun starts equal processes; what is wrong before they meet, the first one tells."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        error.shown_elsewhere = os.environ.get("LOCAL_RANK", "0") != "0"
        raise


def _show(results: dict[str, Any], path: Path | None, *, together: bool = False) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    from vireid_fast._files import atomic_write
    from vireid_fast.engine.evaluation_files import results_json
    from vireid_fast.engine.tables import results_table, settings_table

    console.print(settings_table(results) if together else results_table(results))
    if path is not None:
        with atomic_write(path) as temporary:
            temporary.write_text(results_json(results), encoding="utf-8")
        _say(f"written: {path}")


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"must be integers such as 1,10, got {text!r}") from None


@app.command()
def pretrain(
    config: ConfigOption,
    run: RunOption,
    overrides: Overrides = None,
    data_root: DataRootOption = None,
    skip_bad_images: SkipOption = False,
    resume: ResumeOption = False,
) -> None:
    """Align the image and text encoder of a small CLIP; writes RUN/weights.safetensors."""
    from vireid_fast.engine.pretraining import pretrain as work

    weights = work(_config(config, overrides, data_root, skip_bad_images), run, resume=resume)
    _say(f"weights: {weights}")


@app.command()
def train(
    run: RunOption,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="YAML file, or a preset such as csdn/scene_regions."),
    ] = None,
    overrides: Overrides = None,
    method: Annotated[
        str | None, typer.Option("--method", help="With --data: the preset METHOD/DATA.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="See --method.")] = None,
    data_root: DataRootOption = None,
    skip_bad_images: SkipOption = False,
    resume: ResumeOption = False,
) -> None:
    """Train a method through all its stages."""
    from vireid_fast.engine.run_folder import configuration_source
    from vireid_fast.engine.workflow import train as work

    with _once_per_machine():
        source = configuration_source(config, method, data, run if resume else None)
        configuration = _config(source, overrides, data_root, skip_bad_images)
    result = work(configuration, run, resume=resume)
    if os.environ.get("RANK", "0") == "0":
        _say(f"run: {result.path}  next: vireid eval --run {result.path}")


@app.command()
def extract(
    run: RunOption,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[Path | None, typer.Option(help=".npz or .safetensors file.")] = None,
    checkpoint: Annotated[str, typer.Option(help="best or latest.")] = "best",
    skip_bad_images: SkipOption = False,
) -> None:
    """Write the features of a split as a feature file."""
    from vireid_fast._checks import require_choice
    from vireid_fast.data.feature_files import require_target
    from vireid_fast.engine.run_folder import RunFolder
    from vireid_fast.engine.workflow import extract_run

    require_choice("extract", "--checkpoint", checkpoint, ("best", "latest"))
    if out is not None:
        require_target(out)
    path, extraction = extract_run(
        RunFolder.open(run), split, out=out, which=checkpoint, skip_bad=skip_bad_images
    )
    rows, width = extraction.features.features.shape
    _say(f"features: {path}  {rows} images, width {width}")


@app.command("eval")
def evaluate(
    query: Annotated[Path | None, typer.Option(help="Feature file of the queries.")] = None,
    gallery: Annotated[Path | None, typer.Option(help="Feature file of the gallery.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Feature file to draw query and gallery from.")
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option("--run", "-r", help="Run to evaluate; several are averaged, as RegDB's ten."),
    ] = None,
    protocol: ProtocolOption = None,
    mode: ModeOption = None,
    shots: Annotated[
        tuple | None,
        typer.Option(
            parser=_integers,
            metavar="N[,N]",
            help="Images per identity and camera, where drawn; default 1.",
        ),
    ] = None,
    permutations: Annotated[
        Path | None, typer.Option(help="rand_perm_cam.mat, for sysu/official.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="euclidean, cosine or dot; the protocol's own otherwise.")
    ] = None,
    rerank: Annotated[str | None, typer.Option(help="k1,k2,lambda, e.g. 20,6,0.3.")] = None,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="With --run: leave damaged images out.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result.")] = None,
) -> None:
    """Evaluate feature files of any model, or a run on its test identities.

    A run is evaluated as its configuration says, plain and re-ranked, unless an option says else.
    Lists, as in --mode all,indoor --shots 1,10, give one table and compute each distance once.
    """
    from vireid_fast._checks import require
    from vireid_fast.config import EvaluationConfig
    from vireid_fast.engine.evaluation_files import evaluate_files, override_settings, parse_rerank

    parameters = None if rerank is None else parse_rerank(rerank)
    together = "," in (mode or "") or len(shots or ()) > 1
    require(bool(run) or not skip_bad_images, "eval", "--skip-bad-images", "come with --run",
            "no --run")  # fmt: skip
    if run:
        from vireid_fast.engine.run_folder import RunFolder
        from vireid_fast.engine.workflow import evaluate_runs, extract_run

        others = [str(path) for path in (query, gallery, features) if path is not None]
        require(not others, "eval", "--run", "be the only source of features", ", ".join(others))
        opened = [RunFolder.open(path) for path in run]
        if {protocol, mode, shots, permutations, metric, rerank} == {None}:
            _show(evaluate_runs(opened, skip_bad=skip_bad_images), json_file)
            for each in opened:
                _say(f"written: {each.results_file}")
            return
        require(len(opened) == 1, "eval", "--run", "come alone, or without further options",
                f"{len(opened)} runs", "Extract their features and evaluate these.")  # fmt: skip
        own = opened[0].config().evaluation
        protocol, mode, shots = override_settings(own, protocol, mode, shots)
        features, _ = extract_run(opened[0], skip_bad=skip_bad_images)
    results = evaluate_files(
        query, gallery, features, protocol=protocol or EvaluationConfig().protocol, mode=mode,
        shots=shots, permutations=permutations, metric=metric, rerank=parameters,
    )  # fmt: skip
    _show(results, json_file, together=together)


@app.command()
def rerank(
    query: Annotated[Path, typer.Option(help="Feature file of the queries.")],
    gallery: Annotated[Path, typer.Option(help="Feature file of the gallery.")],
    out: Annotated[Path, typer.Option(help="Target .npz file.")],
    k1: Annotated[int, typer.Option(help="Neighbours of the reciprocal sets.")] = 20,
    k2: Annotated[int, typer.Option(help="Neighbours of the query expansion.")] = 6,
    lambda_value: Annotated[float, typer.Option("--lambda", help="Weight of the distance.")] = 0.3,
    top_k: Annotated[int | None, typer.Option(help="Write lists of K instead of a matrix.")] = None,
    metric: Annotated[str, typer.Option(help="euclidean, or cosine to normalise.")] = "euclidean",
) -> None:
    """Re-rank a gallery with k-reciprocal encoding and write distances or lists."""
    from vireid_fast.engine.evaluation_files import rerank_files

    shape = rerank_files(
        query, gallery, out, k1=k1, k2=k2, lambda_value=lambda_value, top_k=top_k, metric=metric
    )
    _say(f"written: {out}  {' x '.join(str(n) for n in shape)}")


@app.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
    layout: Annotated[
        str,
        typer.Option(help="sysu_mm01, regdb, llcm, hitsz_vcm, bupt_campus or manifest."),
    ] = "sysu_mm01",
    identities: Annotated[int, typer.Option(help="Persons to draw.")] = 60,
    views: Annotated[
        int | None, typer.Option(help="Images per person and camera, in layouts of images.")
    ] = None,
    height: Annotated[int, typer.Option(help="Pixels.")] = 128,
    width: Annotated[int, typer.Option(help="Pixels.")] = 64,
    tracklets: Annotated[
        int | None, typer.Option(help="Walks per person and camera, in layouts with video.")
    ] = None,
    tracklet_frames: Annotated[int | None, typer.Option(help="Frames per walk.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    sheet: Annotated[Path | None, typer.Option(help="Also write a contact sheet (PNG).")] = None,
) -> None:
    """Draw a synthetic visible-infrared pedestrian set."""
    from vireid_fast._checks import require, require_choice
    from vireid_fast._files import atomic_write
    from vireid_fast.data.datasets import DATASETS
    from vireid_fast.data.synthetic import LAYOUTS, contact_sheet, write_layout
    from vireid_fast.engine.progress import progress_bar

    require_choice("synth", "--layout", layout, LAYOUTS)
    require(sheet is None or sheet.suffix == ".png", "synth", "--sheet", "end in .png", sheet)
    # An option that is left out has the layout's own default, or does not exist there.
    some = {"views": views, "tracklets": tracklets, "tracklet_frames": tracklet_frames}
    given = {name: value for name, value in some.items() if value is not None}
    with progress_bar("drawing pedestrians") as advance:
        write_layout(
            layout, out, identities=identities, size=(height, width), seed=seed, progress=advance,
            **given,
        )  # fmt: skip
    if sheet is not None:
        with atomic_write(sheet) as temporary:
            contact_sheet(DATASETS[layout].read(out)).save(temporary, format="PNG")
    _say(f"data set: {out}" + (f"  contact sheet: {sheet}" if sheet else ""))


@app.command("check-data")
def check_data(
    root: Annotated[
        Path,
        typer.Option("--root", "--data-root", help="Folder of the data set; a manifest itself."),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="sysu_mm01, regdb, llcm, hitsz_vcm, bupt_campus, manifest, scene_regions or "
            "scene_tracks."
        ),
    ] = "sysu_mm01",
    split: Annotated[
        int | None, typer.Option(help="The one split to check, where a set has several.")
    ] = None,
    decode: Annotated[bool, typer.Option(help="Open every image too.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report.")] = None,
) -> None:
    """Count identities, cameras, images and tracklets; name what deviates from the published set.

    Exit code 1 if something is wrong; a set of `vireid synth` may deviate.
    """
    from vireid_fast._files import atomic_write
    from vireid_fast.data.check import check_folder
    from vireid_fast.engine.progress import progress_bar

    with progress_bar("decoding images", enabled=decode) as advance:
        report = check_folder(data, root, split=split, decode=decode, progress=advance)
    _say(str(report))
    if json_file is not None:
        with atomic_write(json_file) as temporary:
            temporary.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Versions, the kernels in use, and what to run to get the others."""
    from vireid_fast.engine.info import fact_lines, kernel_lines, report

    values = report()
    if as_json:
        print(json.dumps(values, indent=1))  # noqa: T201
        return
    for line in fact_lines(values):
        _say(line)
    table = Table("op", "CPU", "GPU", title="kernels in use", title_justify="left")
    for line in kernel_lines():
        table.add_row(line.op, line.cpu, line.cuda)
    console.print(table)
    for line in values["advice"]:
        _say(line)


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--run", "-r", help="Folder.")] = Path("runs/demo"),
    identities: Annotated[int, typer.Option(help="Persons to draw.")] = 200,
    short: Annotated[bool, typer.Option(help="Only show that everything works.")] = False,
    resume: ResumeOption = False,
) -> None:
    """Draw a data set, train a small CSDN, evaluate it without and with re-ranking."""
    from vireid_fast.engine.demo import demo as work
    from vireid_fast.engine.tables import results_table

    finished, results = work(run, identities=identities, short=short, resume=resume)
    console.print(results_table(results))
    _say(f"run: {finished.path}  results: {finished.results_file}")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        _say(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: errors of use and of files become one line and exit code 1."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, TypeError, OSError, RuntimeError, NotImplementedError) as error:
        if getattr(error, "shown_elsewhere", False):
            # torchrun ends all processes when one has left; the one that shows it needs time.
            time.sleep(5)
            sys.exit(1)
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
