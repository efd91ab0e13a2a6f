"""What `vireid convert` reads: published checkpoints, runs, model folders, feature files."""

from dataclasses import replace
from pathlib import Path

from vireid_fast._checks import require
from vireid_fast.data.feature_files import (
    FORMATS as FEATURE_FORMATS,
)
from vireid_fast.data.feature_files import (
    read_features,
    read_metadata,
    read_paths,
    require_target,
    write_features,
)
from vireid_fast.engine.imports import ImportOptions
from vireid_fast.engine.imports.conversion import (
    convert_checkpoint,
    describe_import,
    require_replaceable,
)
from vireid_fast.engine.model_card import save_model
from vireid_fast.engine.networks import open_network, open_run_network
from vireid_fast.engine.run_folder import RunFolder

_WHAT = "convert"


def convert(
    source: Path, out: Path, format_name: str = "auto", options: ImportOptions | None = None,
    *, which: str = "best",
) -> list[str]:  # fmt: skip
    """Write `source` in our form.

    A folder is a run or a model folder and becomes a slim model folder, without the state of the
    optimiser. A feature file becomes one of the other format, where `out` ends like one. Any other
    file is a published checkpoint and becomes a model folder.

    Args:
        source: What to read.
        out: What to write.
        format_name: Of a published checkpoint; see `import_checkpoint`.
        options: Of a published checkpoint, whose `data`, `source` and `licence` also correct the
            card of a folder.
        which: "best" or "latest" checkpoint of a run.

    Returns:
        What was read, in lines.
    """
    options = options or ImportOptions()
    require(source.exists(), _WHAT, "the source", "exist", str(source), "Check the name.",
            FileNotFoundError)  # fmt: skip
    require(source.resolve() != out.resolve(), _WHAT, "--out", "differ from the source", out)
    if source.is_dir():
        return _slim(source, out, options, which)
    if out.suffix in FEATURE_FORMATS or source.suffix in (".npz", ".h5"):
        return _convert_features(source, out)
    imported = convert_checkpoint(source, out, format_name, options)
    return describe_import(imported)


def _slim(source: Path, out: Path, options: ImportOptions, which: str) -> list[str]:
    """A run's checkpoint, or a model folder, without what resuming needs."""
    require_replaceable(out)
    if (source / "config.yaml").is_file():
        network = open_run_network(RunFolder.open(source), which, "cpu")
    else:
        network = open_network(source)
    told = {name: value for name in ("data", "source", "licence")
            if (value := getattr(options, name))}  # fmt: skip
    card = replace(network.card, **told)
    save_model(out, card, network.module.state_dict())
    size = " x ".join(str(side) for side in network.size)
    return [f"model: {card.method}  {card.architecture}, images of {size}, from {network.source}"]


def _convert_features(source: Path, out: Path) -> list[str]:
    """A feature file in another format, notes and all."""
    require_target(out)
    require(
        source.suffix in FEATURE_FORMATS, _WHAT, "the source",
        f"be a feature file ({', '.join(FEATURE_FORMATS)}) for --out {out.name}", source.name,
        "Name a folder with --out to convert a checkpoint.",
    )  # fmt: skip
    arrays = read_features(source)
    write_features(out, arrays, read_metadata(source), read_paths(source))
    rows, width = arrays["features"].shape
    return [f"features: {rows} x {width}, from {source}"]
