"""The command `vireid report`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vireid_fast.cli.app import app
from vireid_fast.cli.options import (
    MetricOption,
    ModeOption,
    PermutationsOption,
    ProtocolOption,
    RerankOption,
    ShotsOption,
    SkipOption,
    say,
)


@app.command()
def report(
    run: Annotated[Path | None, typer.Argument(help="Folder of the run.", metavar="[RUN]")] = None,
    features: Annotated[Path | None, typer.Option(help="Or a feature file of any model.")] = None,
    query: Annotated[Path | None, typer.Option(help="Or one of queries, with --gallery.")] = None,
    gallery: Annotated[Path | None, typer.Option(help="See --query.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The page; RUN/report.html otherwise, or beside the feature file."),
    ] = None,
    map_method: Annotated[
        str, typer.Option("--map", help="pca, or tsne, which takes longer.")
    ] = "pca",
    queries: Annotated[
        int, typer.Option(help="Ranked lists of each kind: best, median, worst.")
    ] = 3,
    protocol: ProtocolOption = None,
    mode: ModeOption = None,
    shots: ShotsOption = None,
    permutations: PermutationsOption = None,
    metric: MetricOption = None,
    rerank: RerankOption = None,
    skip_bad_images: SkipOption = False,
) -> None:
    """Write one HTML page with results, curves, distances, a map, ranked lists and training.

    A single file that works offline. --protocol to --rerank are for feature files alone.
    """
    from vireid_fast._checks import require
    from vireid_fast.config import EvaluationConfig
    from vireid_fast.engine.evaluation_files import parse_rerank
    from vireid_fast.engine.pages import write_features_page, write_run_page
    from vireid_fast.engine.run_folder import RunFolder

    shown: dict[str, Any] = {"map_method": map_method, "queries": queries, "out": out}
    rules = {"--protocol": protocol, "--mode": mode, "--shots": shots, "--metric": metric,
             "--permutations": permutations, "--rerank": rerank}  # fmt: skip
    if run is not None:
        sources = {"--features": features, "--query": query, "--gallery": gallery}
        others = [name for name, value in (sources | rules).items() if value is not None]
        require(not others, "report", "RUN", "come without options for feature files",
                ", ".join(others), "Give --features RUN/features/test.npz instead.")  # fmt: skip
        page = write_run_page(RunFolder.open(run), skip_bad=skip_bad_images, **shown)
    else:
        require(not skip_bad_images, "report", "--skip-bad-images", "come with RUN", "none")
        page = write_features_page(
            query, gallery, features, protocol=protocol or EvaluationConfig().protocol, mode=mode,
            shots=shots, permutations=permutations, metric=metric,
            rerank=None if rerank is None else parse_rerank(rerank), **shown,
        )  # fmt: skip
    say(f"report: {page}")
