"""Write a synthetic set to disk in RegDB's layout."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vireid_fast.data.synthetic.attributes import Attributes
from vireid_fast.data.synthetic.folder import Contents, write_set
from vireid_fast.data.synthetic.parameters import GENERATOR_VERSION, checked
from vireid_fast.data.synthetic.people import (
    CAPTIONS,
    Progress,
    people,
    save_picture,
    write_captions,
)
from vireid_fast.data.synthetic.render import faces_camera, render_person

NUM_SPLITS = 10
# Folder, word of the index files, letter of the file names, and drawn camera. Both cameras stand in
# the street, as RegDB's two are one device.
_MODALITIES = (("Visible", "visible", "v", 4), ("Thermal", "thermal", "t", 6))
_CONTENTS = Contents(
    pictures=tuple(folder for folder, *_ in _MODALITIES),
    suffix=".bmp",
    files=(
        CAPTIONS,
        *(
            f"idx/{part}_{word}_{split}.txt"
            for part in ("train", "test")
            for _, word, *_ in _MODALITIES
            for split in range(1, NUM_SPLITS + 1)
        ),
    ),
)


@dataclass(frozen=True)
class _Parameters:
    identities: int
    views: int
    size: tuple[int, int]
    seed: int
    layout: str = "regdb"
    generator_version: int = GENERATOR_VERSION


def write_regdb_layout(
    root: str | Path,
    *,
    identities: int = 60,
    views: int = 10,
    size: tuple[int, int] = (128, 64),
    seed: int = 0,
    progress: Progress | None = None,
) -> bool:
    """Generate a visible-infrared pedestrian set in RegDB's layout.

    Visible/<identity>/<gender>_<front|back>_v_<frame>_<identity>.bmp, Thermal alike with t, and ten
    splits in idx, each with half of the identities for training and the rest for the test. Adds
    captions.json and, last, the marker synth.json.

    Args:
        root: Folder to create; it may exist if empty or an earlier set of this function.
        identities: Number of people, numbered from 1.
        views: Images per identity and modality; RegDB has 10.
        size: Height and width of the images in pixels.
        seed: Non-negative; equal arguments give equal files.
        progress: Called as progress(done, total) after each identity.

    Returns:
        True if the set was written, False if the same set was already there.

    Raises:
        TypeError, ValueError: An argument does not fit.
        FileExistsError: `root` holds something else, which is left untouched.
    """
    own = checked("write_regdb_layout", _Parameters(identities, views, size, seed))
    return write_set(root, own, _CONTENTS, lambda root: _draw(root, own, progress))


def _draw(root: Path, own: _Parameters, progress: Progress | None) -> None:
    files: dict[str, dict[int, list[str]]] = {word: {} for _, word, *_ in _MODALITIES}
    for person in people(own.seed, own.identities, progress):
        for folder, word, letter, camera in _MODALITIES:
            paths = [
                f"{folder}/{person.person_id}/{_name(person, letter, camera, view, own.views)}"
                for view in range(own.views)
            ]
            for view, path in enumerate(paths):
                save_picture(root / path, render_person(person, camera, view, own.size))
            files[word][person.person_id] = paths
    _write_splits(root / "idx", files, own)
    write_captions(root, own.seed, own.identities)


def _name(person: Attributes, letter: str, camera: int, view: int, views: int) -> str:
    gender = "female" if person.upper == "dress" or person.lower == "skirt" else "male"
    side = "front" if faces_camera(person, camera, view) else "back"
    frame = (person.person_id - 1) * views + view + 1
    return f"{gender}_{side}_{letter}_{frame:05d}_{person.person_id}.bmp"


def _write_splits(
    folder: Path, files: dict[str, dict[int, list[str]]], own: _Parameters
) -> None:
    """idx/{train,test}_{visible,thermal}_{1..10}.txt: lines of a path and a label from 0."""
    folder.mkdir()
    half = own.identities // 2
    for split in range(1, NUM_SPLITS + 1):
        rng = np.random.default_rng([own.seed, 0x2E6, split])
        order = rng.permutation(own.identities) + 1
        for part, ids in (("train", sorted(order[:half])), ("test", sorted(order[half:]))):
            for word, paths in files.items():
                lines = [f"{path} {label}" for label, i in enumerate(ids) for path in paths[int(i)]]
                target = folder / f"{part}_{word}_{split}.txt"
                target.write_text("\n".join(lines) + "\n", encoding="ascii")
