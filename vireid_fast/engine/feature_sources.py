"""What `vireid extract` reads: a split of a data set, or images of one's own; with which model."""

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vireid_fast._checks import require, require_choice, sentence
from vireid_fast.config.common import DataConfig
from vireid_fast.data.feature_files import require_target
from vireid_fast.engine.extractor import open_extractor
from vireid_fast.engine.feature_writing import DTYPES, extract_images
from vireid_fast.engine.model_features import extract_split
from vireid_fast.engine.networks import WHICH, open_network
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.engine.workflow import extract_run

_WHAT = "extract"


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of the command; None where one is left out.

    Attributes:
        run: Folder of a run.
        model: Model folder.
        split: "train", "val" or "test", which is usual.
        images: An image or a folder, instead of a split.
        modality: "visible" or "infrared", of the images.
        out: Feature file; of a run's split None is RUN/features/SPLIT.npz.
        data: Name of the data set that a model folder reads.
        data_root: Its folder.
        data_split: Its numbered split, where there are several.
        dtype: "float32" or "float16", in the file.
        checkpoint: "best" or "latest", of the run.
        skip_bad: Leave damaged images out instead of stopping.
        device: Where the network goes; a run's split is read where its configuration says.
    """

    run: Path | None = None
    model: Path | None = None
    split: str | None = None
    images: Path | None = None
    modality: str | None = None
    out: Path | None = None
    data: str | None = None
    data_root: Path | None = None
    data_split: int = 1
    dtype: str = "float32"
    checkpoint: str = "best"
    skip_bad: bool = False
    device: str | None = None


def extract(asked: Request) -> tuple[Path, int, int]:
    """Write the feature file that the options ask for.

    Returns:
        The file, its rows and their width.

    Raises:
        ValueError: Options are missing or contradict each other, or see `extract_run`,
            `extract_split` and `extract_images`.
    """
    require_choice(_WHAT, "--checkpoint", asked.checkpoint, WHICH)
    require_choice(_WHAT, "--dtype", asked.dtype, DTYPES)
    if asked.out is not None:
        require_target(asked.out)
    if asked.images is not None or asked.run is not None:
        _refuse({"--data": asked.data, "--data-root": asked.data_root}, "come with --model alone",
                "--run or --images too")  # fmt: skip
    if asked.images is not None:
        return _images(asked, asked.images)
    if asked.run is None and asked.model is not None:
        return _split_with_model(asked, asked.model)
    return _split_of_run(asked)


def _images(asked: Request, images: Path) -> tuple[Path, int, int]:
    require(asked.split is None, _WHAT, "--split", "come without --images", asked.split)
    if asked.out is None:
        _missing("--out", "name the feature file of --images", "none")
    if asked.modality is None:
        _missing("--modality", "be visible or infrared with --images", "none")
    extractor = open_extractor(
        _WHAT, asked.run, asked.model, asked.checkpoint, asked.device or "cpu"
    )
    if extractor is None:
        _missing("--run or --model", "name the model", "neither")
    found = extract_images(
        extractor, images, asked.modality, asked.out, dtype=asked.dtype, skip_bad=asked.skip_bad
    )
    return asked.out, *found.features.shape


def _split_with_model(asked: Request, model: Path) -> tuple[Path, int, int]:
    require(asked.modality is None, _WHAT, "--modality", "come with --images", asked.modality)
    name, root, out = asked.data, asked.data_root, asked.out
    if name is None or root is None or out is None:
        got = {"--data": name, "--data-root": root, "--out": out}
        absent = ", ".join(option for option, value in got.items() if value is None)
        _missing("--data, --data-root and --out", "be given with --model, or --images",
                 f"no {absent}")  # fmt: skip
    data = DataConfig(
        name=name, root=str(root), split=asked.data_split, skip_bad_images=asked.skip_bad
    )
    network = open_network(model, asked.device or "cpu")
    extraction = extract_split(network, data, asked.split or "test", out, dtype=asked.dtype)
    return out, *extraction.features.features.shape


def _split_of_run(asked: Request) -> tuple[Path, int, int]:
    if asked.run is None or asked.model is not None:
        _missing("--run", "be given alone where --images is not",
                 "none" if asked.run is None else f"--model {asked.model} too")  # fmt: skip
    _refuse({"--modality": asked.modality, "--device": asked.device}, "come with --images", "none")
    path, extraction = extract_run(
        RunFolder.open(asked.run), asked.split or "test", out=asked.out, which=asked.checkpoint,
        dtype=asked.dtype, skip_bad=asked.skip_bad,
    )  # fmt: skip
    return path, *extraction.features.features.shape


def _refuse(options: dict[str, object], requirement: str, got: str) -> None:
    """Raise ValueError if one of some options is given."""
    given = ", ".join(option for option, value in options.items() if value is not None)
    require(not given, _WHAT, given, requirement, got)


def _missing(option: str, requirement: str, got: str) -> NoReturn:
    raise ValueError(sentence(_WHAT, option, requirement, got))
