"""Commands between programs: `vireid export`, `vireid convert`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vireid_fast.cli.app import app
from vireid_fast.cli.options import ModelOption, integers, say


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The .onnx file.")],
    run: Annotated[Path | None, typer.Option("--run", "-r", help="Folder of the run.")] = None,
    model: ModelOption = None,
    checkpoint: Annotated[str, typer.Option(help="With --run: best or latest.")] = "best",
    modality: Annotated[
        str,
        typer.Option(
            help="visible, infrared, or both: NAME-visible.onnx and NAME-infrared.onnx, or one "
            "file for a network that treats them alike."
        ),
    ] = "both",
    batch: Annotated[str, typer.Option(help="dynamic, or a fixed number of images.")] = "dynamic",
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators, 18 to 23.")] = 18,
    tolerance: Annotated[
        float, typer.Option(help="Largest accepted difference; above it nothing is written.")
    ] = 1e-4,
) -> None:
    """Write a network as ONNX; onnxruntime must give the same features, or nothing is written.

    The graph takes float32 RGB images (N, 3, H, W) in 0..1, resized as its card says. Everything
    after that is inside: mean and deviation, the mirrored view, normalisation.
    """
    from vireid_fast.engine.onnx_export import card_path, export_onnx
    from vireid_fast.engine.onnx_graph import require_packages

    require_packages()
    files = export_onnx(
        _network(run, model, checkpoint), out, modality=modality, batch=_batch(batch),
        opset=opset, tolerance=tolerance,
    )  # fmt: skip
    for file in files:
        say(f"written: {file.path}  {file.modality}, {file.path.stat().st_size / 1e6:.1f} MB")
        say(f"  {file.card['input']}, resized by {file.card['interpolation']}")
        say(f"  {file.card['output']}, {file.card['normalisation']}, {file.card['metric']}")
        for row in file.parity:
            say(f"  {row.images} {row.kind}: largest difference {row.largest:.1e}, "
                f"relative {row.relative:.1e}, cosine {row.cosine:.9f}")  # fmt: skip
        say(f"written: {card_path(file.path)}")


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(help="Published checkpoint, run, model folder or feature file."),
    ],
    out: Annotated[Path, typer.Option(help="Model folder, or feature file, to write.")],
    format: Annotated[
        str, typer.Option(help="csdn, clip-reid or agw; auto tells by the names of the tensors.")
    ] = "auto",
    size: Annotated[
        tuple | None,  # type: ignore[type-arg]  # of whatever `integers` gives
        typer.Option(parser=integers, metavar="H,W",
                     help="Images in pixels, where the checkpoint does not tell."),
    ] = None,
    neck: Annotated[
        str | None, typer.Option(help="Features before or after batch normalisation.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="agw: gem or average.")] = None,
    camera: Annotated[
        str | None,
        typer.Option(help="clip-reid with SIE: mean, none or a row of cv_embed from 0 on."),
    ] = None,
    sie_coefficient: Annotated[float, typer.Option(help="clip-reid with SIE: SIE_COE.")] = 1.0,
    drop_unknown: Annotated[
        bool, typer.Option("--drop-unknown", help="Leave out tensors that are not known.")
    ] = False,
    data: Annotated[str, typer.Option(help="Data set it was trained on, for the card.")] = "",
    origin: Annotated[str, typer.Option(help="Where it comes from, for the card.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "",
    checkpoint: Annotated[str, typer.Option(help="Of a run: best or latest.")] = "best",
) -> None:  # fmt: skip
    """Make a model folder of a checkpoint of CSDN, CLIP-ReID or AGW, or of a run; convert features.

    Pickles are read for tensors and plain numbers alone; nothing in them is executed.
    """
    from vireid_fast.engine.conversion import convert as convert_file
    from vireid_fast.engine.imports import ImportOptions

    given = ImportOptions(
        size=size, neck=neck, pooling=pooling, camera=_camera(camera),
        coefficient=sie_coefficient, drop_unknown=drop_unknown, data=data, source=origin,
        licence=licence,
    )  # fmt: skip
    for line in convert_file(source, out, format, given, which=checkpoint):
        say(line)
    say(f"written: {out}")


def _network(run: Path | None, model: Path | None, which: str) -> Any:
    from vireid_fast._checks import require
    from vireid_fast.engine.networks import open_network, open_run_network
    from vireid_fast.engine.run_folder import RunFolder

    require((run is None) != (model is None), "export", "--run or --model", "be given, one of them",
            "neither" if run is None else "both")  # fmt: skip
    if run is not None:
        return open_run_network(RunFolder.open(run), which, "cpu")
    assert model is not None
    return open_network(model)


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"must be dynamic or a number, got {text!r}") from None


def _camera(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.lstrip("-").isdecimal() else text
