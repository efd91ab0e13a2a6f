"""The command `vireid search`."""

from pathlib import Path
from typing import Annotated

import typer

from vireid_fast.cli.app import app
from vireid_fast.cli.options import (
    DeviceOption,
    ModelOption,
    RerankOption,
    SkipOption,
    console,
    say,
)


@app.command()
def search(
    gallery: Annotated[Path, typer.Option(help="Feature file of the gallery.")],
    query: Annotated[
        Path, typer.Option(help="An image, a folder of images, or another feature file.")
    ],
    run: Annotated[
        Path | None, typer.Option("--run", "-r", help="Run whose model reads the query.")
    ] = None,
    model: ModelOption = None,
    checkpoint: Annotated[str, typer.Option(help="With --run: best or latest.")] = "best",
    query_modality: Annotated[
        str, typer.Option(help="visible or infrared, of the query images.")
    ] = "infrared",
    gallery_modality: Annotated[
        str, typer.Option(help="visible or infrared, to search these images alone; all.")
    ] = "all",
    top_k: Annotated[int, typer.Option(help="Length of the lists.")] = 10,
    metric: Annotated[
        str | None, typer.Option(help="euclidean, cosine or dot; the gallery's own otherwise.")
    ] = None,
    rerank: RerankOption = None,
    format: Annotated[str, typer.Option(help="table, json or page.")] = "table",
    out: Annotated[
        Path | None, typer.Option(help="Write it here; JSON goes to standard output otherwise.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the gallery's images, for the page.")
    ] = None,
    skip_bad_images: SkipOption = False,
    device: DeviceOption = "cpu",
) -> None:
    """Find the gallery images nearest to some images, whoever they show.

    The gallery must be of the same model as the query. Distances are exact.
    """
    from vireid_fast.engine import search_output as output
    from vireid_fast.engine.evaluation_files import parse_rerank
    from vireid_fast.engine.extractor import open_extractor
    from vireid_fast.engine.search import search_gallery

    output.require_search_output(format, out, images)
    parameters = None if rerank is None else parse_rerank(rerank, "search")
    results = search_gallery(
        gallery, query, open_extractor("search", run, model, checkpoint, device),
        query_modality=query_modality, gallery_modality=gallery_modality, top_k=top_k,
        metric=metric, rerank=parameters, skip_bad=skip_bad_images,
    )  # fmt: skip
    if format == "json" and out is None:
        print(output.search_json(results), end="")  # noqa: T201
        return
    if out is None:
        console.print(output.search_table(results))
        return
    if format == "page":
        output.write_page(results, out, images)
    elif format == "json":
        output.write_json(results, out)
    else:
        output.write_table(results, out)
    say(f"written: {out}")
