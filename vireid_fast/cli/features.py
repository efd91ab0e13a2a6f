"""Commands on features: `vireid extract`, `vireid eval`, `vireid rerank`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vireid_fast.cli.app import app
from vireid_fast.cli.options import (
    DataRootOption,
    MetricOption,
    ModelOption,
    ModeOption,
    PermutationsOption,
    ProtocolOption,
    RerankOption,
    ShotsOption,
    SkipOption,
    is_first_process,
    say,
    show_results,
)


@app.command()
def extract(
    run: Annotated[Path | None, typer.Option("--run", "-r", help="Folder of the run.")] = None,
    model: ModelOption = None,
    split: Annotated[str | None, typer.Option(help="train, val or test (default).")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Instead of a split: an image or a folder of your own.")
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="With --images: visible or infrared.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help=".npz, .safetensors or .h5 file.")] = None,
    data: Annotated[
        str | None, typer.Option(help="With --model and --data-root: name of the data set.")
    ] = None,
    data_root: DataRootOption = None,
    data_split: Annotated[
        int, typer.Option(help="With --data: number of the split, where there are several.")
    ] = 1,
    dtype: Annotated[str, typer.Option(help="float32 or float16, in the file.")] = "float32",
    checkpoint: Annotated[str, typer.Option(help="With --run: best or latest.")] = "best",
    skip_bad_images: SkipOption = False,
    device: Annotated[
        str | None, typer.Option(help="Without --run: cpu (default), cuda, cuda:1.")
    ] = None,
) -> None:
    """Write features as a file: of a split of a run's data set, or of images of your own."""
    from vireid_fast.engine import feature_sources

    path, rows, width = feature_sources.extract(
        feature_sources.Request(
            run=run, model=model, split=split, images=images, modality=modality, out=out,
            data=data, data_root=data_root, data_split=data_split, dtype=dtype,
            checkpoint=checkpoint, skip_bad=skip_bad_images, device=device,
        )
    )  # fmt: skip
    say(f"features: {path}  {rows} images, width {width}")


RunsOption = Annotated[
    list[Path] | None,
    typer.Option("--run", "-r", help="Run to evaluate; several are averaged, as RegDB's ten."),
]
PageOption = Annotated[
    Path | None, typer.Option("--report", help="Write the report here; see `vireid report`.")
]
NoPageOption = Annotated[bool, typer.Option("--no-report", help="With --run: no RUN/report.html.")]


@app.command("eval")
def evaluate(
    query: Annotated[Path | None, typer.Option(help="Feature file of the queries.")] = None,
    gallery: Annotated[Path | None, typer.Option(help="Feature file of the gallery.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Feature file to draw query and gallery from.")
    ] = None,
    run: RunsOption = None,
    protocol: ProtocolOption = None,
    mode: ModeOption = None,
    shots: ShotsOption = None,
    permutations: PermutationsOption = None,
    metric: MetricOption = None,
    rerank: RerankOption = None,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="With --run: leave damaged images out.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result.")] = None,
    page: PageOption = None,
    no_report: NoPageOption = False,
) -> None:
    """Evaluate feature files of any model, or a run on its test identities.

    A run is evaluated as its configuration says, plain and re-ranked, unless an option says else,
    and RUN/report.html shows it.
    Lists, as in --mode all,indoor --shots 1,10, give one table and compute each distance once.
    """
    from vireid_fast._checks import require
    from vireid_fast.config import EvaluationConfig
    from vireid_fast.engine.evaluation_files import evaluate_files, parse_rerank
    from vireid_fast.engine.pages import require_page, write_features_page

    if page is not None:
        require_page(page)
    parameters = None if rerank is None else parse_rerank(rerank)
    together = "," in (mode or "") or len(shots or ()) > 1
    require(bool(run) or not skip_bad_images, "eval", "--skip-bad-images", "come with --run",
            "no --run")  # fmt: skip
    require(page is None or not no_report, "eval", "--report", "come without --no-report", page)
    if run:
        from vireid_fast.engine.run_folder import RunFolder

        others = [str(path) for path in (query, gallery, features) if path is not None]
        require(not others, "eval", "--run", "be the only source of features", ", ".join(others))
        opened = [RunFolder.open(path) for path in run]
        if {protocol, mode, shots, permutations, metric, rerank} == {None}:
            _evaluate_runs(opened, skip_bad_images, json_file, page, not no_report)
            return
        features, (protocol, mode, shots) = _features_of(
            opened, (protocol, mode, shots), skip_bad_images
        )
    settings: dict[str, Any] = {
        "protocol": protocol or EvaluationConfig().protocol, "mode": mode, "shots": shots,
        "permutations": permutations, "metric": metric, "rerank": parameters,
    }  # fmt: skip
    results = evaluate_files(query, gallery, features, **settings)
    show_results(results, json_file, together=together)
    if page is not None and is_first_process():
        written = write_features_page(query, gallery, features, out=page, **settings)
        say(f"report: {written}")


def _features_of(
    runs: list[Any], given: tuple[Any, Any, Any], skip_bad: bool
) -> tuple[Path, tuple[Any, Any, Any]]:
    """Test features of the one run, and protocol, mode and shots: its own where none is given."""
    from vireid_fast._checks import require
    from vireid_fast.engine.evaluation_files import override_settings
    from vireid_fast.engine.workflow import extract_run

    require(len(runs) == 1, "eval", "--run", "come alone, or without further options",
            f"{len(runs)} runs", "Extract their features and evaluate these.")  # fmt: skip
    settings = override_settings(runs[0].config().evaluation, *given)
    features, _ = extract_run(runs[0], skip_bad=skip_bad)
    return features, settings


def _evaluate_runs(
    runs: list[Any], skip_bad: bool, json_file: Path | None, page: Path | None, with_report: bool
) -> None:
    """Runs as they are configured, each with its report; several share one at `page`."""
    from vireid_fast.engine.pages import write_run_page, write_runs_page
    from vireid_fast.engine.workflow import evaluate_runs

    joint = page if len(runs) > 1 else None
    evaluated: list[Any] = []
    results = evaluate_runs(runs, skip_bad=skip_bad, then=lambda *each: evaluated.append(each))
    show_results(results, json_file)
    for run in runs:
        say(f"written: {run.results_file}")
    for each in evaluated if with_report else ():
        out = None if joint else page
        say(f"report: {write_run_page(*each, out=out, skip_bad=skip_bad)}")
    if joint is not None:
        say(f"report: {write_runs_page(runs, results, joint)}")


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
    say(f"written: {out}  {' x '.join(str(n) for n in shape)}")
