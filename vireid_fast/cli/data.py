"""Commands on data sets: `vireid synth`, `vireid check-data`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vireid_fast.cli.app import app
from vireid_fast.cli.options import (
    say,
)


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
    say(f"data set: {out}" + (f"  contact sheet: {sheet}" if sheet else ""))


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
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Of a manifest: links may lead elsewhere.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report.")] = None,
) -> None:
    """Count identities, cameras, images and tracklets; name what deviates from the published set.

    Exit code 1 if something is wrong; a set of `vireid synth` may deviate.
    """
    from vireid_fast._files import atomic_write
    from vireid_fast.data.check import check_folder
    from vireid_fast.engine.progress import progress_bar

    with progress_bar("decoding images", enabled=decode) as advance:
        report = check_folder(
            data, root, split=split, decode=decode, follow_links=follow_links, progress=advance
        )
    say(str(report))
    if json_file is not None:
        with atomic_write(json_file) as temporary:
            temporary.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    if not report.ok:
        raise typer.Exit(1)
