"""Write a synthetic set to disk in SYSU-MM01's layout."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from vireid_fast._checks import require
from vireid_fast.data.synthetic.attributes import Attributes, require_integer, sample_identity
from vireid_fast.data.synthetic.cameras import (
    CAMERAS,
    INFRARED,
    INFRARED_CAMERAS,
    VISIBLE,
    VISIBLE_CAMERAS,
)
from vireid_fast.data.synthetic.captions import caption
from vireid_fast.data.synthetic.render import render_person, render_tracklet, require_size

MARKER, UNFINISHED = "synth.json", "synth.json.unfinished"
# Raised when the pictures of equal parameters change, so that old folders are drawn again.
GENERATOR_VERSION = 1
TRIALS = 10
MAT_HEADER, MAT_HEADER_SIZE = b"MATLAB 5.0 MAT-file, written by vireid_fast", 116
SPLITS = ("train_id", "val_id", "test_id")
PICTURE_FOLDERS = (*(f"cam{number}" for number in CAMERAS), "tracklets")
TOP_FILES = ("captions.json", MARKER, UNFINISHED)
LISTS = (*(f"{name}.txt" for name in (*SPLITS, "available_id")), "rand_perm_cam.mat")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Parameters:
    """Everything that decides the content of a folder; stored in the marker file."""

    identities: int
    views: int
    size: tuple[int, int]
    seed: int
    splits: tuple[float, float, float]
    tracklets: int
    tracklet_frames: int
    quality: int
    camera_dropout: float
    generator_version: int = GENERATOR_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


def write_sysu_layout(
    root: str | Path,
    *,
    identities: int = 60,
    views: int = 4,
    size: tuple[int, int] = (128, 64),
    seed: int = 0,
    splits: tuple[float, float, float] = (0.6, 0.15, 0.25),
    tracklets: int = 0,
    tracklet_frames: int = 12,
    camera_dropout: float = 0.0,
    quality: int = 92,
    progress: Progress | None = None,
) -> bool:
    """Generate a visible-infrared pedestrian set in SYSU-MM01's layout.

    Adds captions.json and tracklets/%04d/{rgb,ir}/D%d/T%d/%03d.jpg. The marker synth.json is
    written last: a folder without it is unfinished and is drawn again.

    Args:
        root: Folder to create; it may exist if empty or an earlier set of this function.
        identities: Number of people, numbered from 1.
        views: Images per identity and camera.
        size: Height and width of the images in pixels.
        seed: Non-negative; equal arguments give equal files.
        splits: Shares of train, validation and test identities; they sum to 1.
        tracklets: Walks per identity and camera; 0 writes none.
        tracklet_frames: Frames per walk; 15 are one gait cycle.
        camera_dropout: Share of cameras that miss an identity; one of each modality stays.
        quality: JPEG quality, 1 to 95.
        progress: Called as progress(done, total) after each identity.

    Returns:
        True if the set was written, False if the same set was already there.

    Raises:
        TypeError, ValueError: An argument does not fit.
        FileExistsError: `root` holds something else, which is left untouched.
    """
    root = Path(root)
    parameters = _checked(_Parameters(
        identities, views, size, seed, splits,
        tracklets, tracklet_frames, quality, camera_dropout,
    ))  # fmt: skip
    if _holds_same_set(root, parameters):
        return False
    _clear(root)
    people = [sample_identity(parameters.seed, i + 1) for i in range(parameters.identities)]
    cameras = _seen_by(parameters)
    for done, person in enumerate(people, start=1):
        for camera_id in cameras[person.person_id]:
            _write_images(root, person, camera_id, parameters)
        if progress is not None:
            progress(done, len(people))
    _write_lists(root, parameters)
    _write_permutations(root, cameras, parameters)
    _write_captions(root, people)
    _write_marker(root, parameters)
    return True


def is_synthetic(root: str | Path) -> bool:
    """Whether `root` holds a finished set of `write_sysu_layout`."""
    return (Path(root) / MARKER).is_file()


def split_counts(identities: int, splits: tuple[float, float, float]) -> tuple[int, int, int]:
    """Numbers of train, validation and test identities; every non-zero share gets one or more."""
    validation = max(1, round(identities * splits[1])) if splits[1] > 0 else 0
    test = max(1, round(identities * splits[2])) if splits[2] > 0 else 0
    return identities - validation - test, validation, test


def _checked(parameters: _Parameters) -> _Parameters:
    """Raise unless every parameter is usable; numbers become plain Python ones."""
    what = "write_sysu_layout"
    minima = {
        "identities": 3,
        "views": 1,
        "seed": 0,
        "tracklets": 0,
        "tracklet_frames": 1,
        "quality": 1,
    }
    for name, minimum in minima.items():
        require_integer(what, name, getattr(parameters, name), minimum)
    require(parameters.identities <= 9999, what, "identities", "be at most 9999",
            parameters.identities)  # fmt: skip
    require(parameters.quality <= 95, what, "quality", "be at most 95", parameters.quality)
    require_size(what, parameters.size)
    dropout, splits = parameters.camera_dropout, parameters.splits
    require(_is_share(dropout), what, "camera_dropout", "lie in [0, 1]", dropout)
    is_triple = isinstance(splits, tuple | list) and len(splits) == 3
    is_valid = is_triple and all(map(_is_share, splits)) and abs(sum(splits) - 1.0) < 1e-6
    require(is_valid, what, "splits", "be three shares that sum to 1", splits)
    counts = split_counts(parameters.identities, splits)
    require(
        counts[0] >= 0, what, "identities", "be enough for the splits", parameters.identities,
        "Ask for more identities or drop a split.",
    )  # fmt: skip
    train, validation, test = (float(share) for share in splits)
    return _Parameters(
        identities=int(parameters.identities),
        views=int(parameters.views),
        size=(int(parameters.size[0]), int(parameters.size[1])),
        seed=int(parameters.seed),
        splits=(train, validation, test),
        tracklets=int(parameters.tracklets),
        tracklet_frames=int(parameters.tracklet_frames),
        quality=int(parameters.quality),
        camera_dropout=float(dropout),
    )


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0


def _holds_same_set(root: Path, parameters: _Parameters) -> bool:
    """Whether `root` is a finished set with these parameters; raises if it is foreign."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise FileExistsError(f"{root}: is no folder. Choose another output folder.")
    entries = {entry.name for entry in root.iterdir()}
    if not entries:
        return False
    foreign = _first_foreign(root)
    if foreign is None and not entries & {MARKER, UNFINISHED}:
        foreign = min(entries)
    if foreign is not None:
        raise FileExistsError(
            f"{root}: is not empty and is no synthetic set of ours (it holds {foreign!r}). "
            "Choose another output folder; nothing was changed."
        )
    marker = root / MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == parameters.to_json()


def _write_marker(root: Path, parameters: _Parameters) -> None:
    (root / UNFINISHED).write_text(parameters.to_json(), encoding="utf-8")
    os.replace(root / UNFINISHED, root / MARKER)


def _first_foreign(root: Path) -> str | None:
    """A file under `root` that this module cannot have written; None if there is none."""
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        # Hidden folders are caches of the pictures and are drawn from them again.
        if parts[0].startswith("."):
            continue
        is_picture = parts[0] in PICTURE_FOLDERS and path.suffix == ".jpg"
        is_list = parts[0] == "exp" and parts[1:] and parts[1] in LISTS
        is_own = is_picture or is_list or parts[0] in TOP_FILES
        if not is_own and not (path.is_dir() and parts[0] in (*PICTURE_FOLDERS, "exp")):
            return "/".join(parts)
    return None


def _clear(root: Path) -> None:
    """Remove an earlier set; from now until the end the folder is marked as unfinished."""
    root.mkdir(parents=True, exist_ok=True)
    (root / UNFINISHED).write_text("", encoding="utf-8")
    (root / MARKER).unlink(missing_ok=True)
    for entry in root.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != UNFINISHED:
            entry.unlink()


def _seen_by(parameters: _Parameters) -> dict[int, tuple[int, ...]]:
    """Cameras that see each identity."""
    seen = {}
    for person_id in range(1, parameters.identities + 1):
        rng = np.random.default_rng([parameters.seed, person_id, 0xCA])
        drawn = rng.random(len(CAMERAS)) >= parameters.camera_dropout
        kept = {number for number, keep in zip(CAMERAS, drawn, strict=True) if keep}
        for group in (VISIBLE_CAMERAS, INFRARED_CAMERAS):
            if not kept.intersection(group):
                kept.add(int(rng.choice(group)))
        seen[person_id] = tuple(sorted(kept))
    return seen


def _write_images(root: Path, person: Attributes, camera_id: int, parameters: _Parameters) -> None:
    folder = root / f"cam{camera_id}" / f"{person.person_id:04d}"
    folder.mkdir(parents=True)
    for view in range(parameters.views):
        pixels = render_person(person, camera_id, view, parameters.size)
        _save(folder / f"{view + 1:04d}.jpg", pixels, parameters.quality)
    kind = "ir" if CAMERAS[camera_id].modality == INFRARED else "rgb"
    walks = root / "tracklets" / f"{person.person_id:04d}" / kind / f"D{camera_id}"
    for track in range(parameters.tracklets):
        folder = walks / f"T{track + 1}"
        folder.mkdir(parents=True)
        frames = render_tracklet(
            person, camera_id, track, parameters.tracklet_frames, parameters.size
        )
        for number, pixels in enumerate(frames, start=1):
            _save(folder / f"{number:03d}.jpg", pixels, parameters.quality)


def _save(path: Path, pixels: NDArray[np.uint8], quality: int) -> None:
    Image.fromarray(pixels).save(path, quality=quality)


def _write_captions(root: Path, people: list[Attributes]) -> None:
    sentences = {
        f"{person.person_id:04d}": {
            "visible": caption(person, VISIBLE),
            "infrared": caption(person, INFRARED),
        }
        for person in people
    }
    (root / "captions.json").write_text(json.dumps(sentences, indent=1) + "\n", encoding="utf-8")


def _write_lists(root: Path, parameters: _Parameters) -> None:
    """The identity lists: one line of comma separated numbers each, as published."""
    counts = split_counts(parameters.identities, parameters.splits)
    edges = np.cumsum((0, *counts))
    order = np.random.default_rng([parameters.seed, 0x1D5]).permutation(parameters.identities) + 1
    lists = {
        name: sorted(int(i) for i in order[edges[k] : edges[k + 1]])
        for k, name in enumerate(SPLITS)
    }
    lists["available_id"] = list(range(1, parameters.identities + 1))
    folder = root / "exp"
    folder.mkdir()
    for name, ids in lists.items():
        (folder / f"{name}.txt").write_text(",".join(map(str, ids)) + "\n", encoding="ascii")


def _write_permutations(
    root: Path, cameras: dict[int, tuple[int, ...]], parameters: _Parameters
) -> None:
    """exp/rand_perm_cam.mat: cell (6, 1) of cells (identities, 1) of permutations (10, images)."""
    rng = np.random.default_rng([parameters.seed, 0x9E7])
    dtype = np.uint8 if parameters.views < 256 else np.uint16
    outer = np.empty((len(CAMERAS), 1), dtype=object)
    for row, camera_id in enumerate(CAMERAS):
        inner = np.empty((parameters.identities, 1), dtype=object)
        for person_id, seen in cameras.items():
            count = parameters.views if camera_id in seen else 0
            permutations = [rng.permutation(count) + 1 for _ in range(TRIALS)]
            inner[person_id - 1, 0] = np.array(permutations, dtype=dtype).reshape(TRIALS, count)
        outer[row, 0] = inner
    buffer = BytesIO()
    savemat(buffer, {"rand_perm_cam": outer})
    # The header text holds the time of writing; a fixed one keeps equal sets equal.
    content = MAT_HEADER.ljust(MAT_HEADER_SIZE) + buffer.getvalue()[MAT_HEADER_SIZE:]
    (root / "exp" / "rand_perm_cam.mat").write_bytes(content)
