"""Write a synthetic set to disk in SYSU-MM01's layout."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from scipy.io import savemat

from vireid_fast.data.synthetic.cameras import CAMERAS, INFRARED_CAMERAS, VISIBLE_CAMERAS
from vireid_fast.data.synthetic.folder import Contents, write_set
from vireid_fast.data.synthetic.parameters import (
    GENERATOR_VERSION,
    Shares,
    checked,
    split_identities,
)
from vireid_fast.data.synthetic.people import (
    CAPTIONS,
    Progress,
    is_infrared,
    people,
    save_views,
    save_walks,
    write_captions,
)

TRIALS = 10
MAT_HEADER, MAT_HEADER_SIZE = b"MATLAB 5.0 MAT-file, written by vireid_fast", 116
_LISTS = ("train_id.txt", "val_id.txt", "test_id.txt", "available_id.txt", "rand_perm_cam.mat")
_CONTENTS = Contents(
    pictures=(*(f"cam{number}" for number in CAMERAS), "tracklets"),
    files=(CAPTIONS, *(f"exp/{name}" for name in _LISTS)),
)


@dataclass(frozen=True)
class _Parameters:
    """Stored in the marker in this order; other layouts also store their name."""

    identities: int
    views: int
    size: tuple[int, int]
    seed: int
    splits: Shares
    tracklets: int
    tracklet_frames: int
    quality: int
    camera_dropout: float
    generator_version: int = GENERATOR_VERSION


def write_sysu_layout(
    root: str | Path,
    *,
    identities: int = 60,
    views: int = 4,
    size: tuple[int, int] = (128, 64),
    seed: int = 0,
    splits: Shares = (0.6, 0.15, 0.25),
    tracklets: int = 0,
    tracklet_frames: int = 12,
    camera_dropout: float = 0.0,
    quality: int = 92,
    progress: Progress | None = None,
) -> bool:
    """Generate a visible-infrared pedestrian set in SYSU-MM01's layout.

    Adds captions.json and tracklets/%04d/{rgb,ir}/D%d/T%d/%03d.jpg. The marker synth.json is
    written last: a folder without it is no set.

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
    parameters = checked("write_sysu_layout", _Parameters(
        identities, views, size, seed, splits,
        tracklets, tracklet_frames, quality, camera_dropout,
    ))  # fmt: skip
    return write_set(root, parameters, _CONTENTS, lambda root: _draw(root, parameters, progress))


def _draw(root: Path, own: _Parameters, progress: Progress | None) -> None:
    cameras = _seen_by(own)
    for person in people(own.seed, own.identities, progress):
        name = f"{person.person_id:04d}"
        for camera in cameras[person.person_id]:
            save_views(root / f"cam{camera}" / name, person, camera, own.views, own.size,
                       own.quality)  # fmt: skip
            kind = "ir" if is_infrared(camera) else "rgb"
            save_walks(
                root / "tracklets" / name / kind / f"D{camera}", person, camera, own.tracklets,
                own.tracklet_frames, own.size, own.quality,
            )  # fmt: skip
    _write_lists(root, own)
    _write_permutations(root, cameras, own)
    write_captions(root, own.seed, own.identities)


def _seen_by(own: _Parameters) -> dict[int, tuple[int, ...]]:
    """Cameras that see each identity."""
    seen = {}
    for person_id in range(1, own.identities + 1):
        rng = np.random.default_rng([own.seed, person_id, 0xCA])
        drawn = rng.random(len(CAMERAS)) >= own.camera_dropout
        kept = {number for number, keep in zip(CAMERAS, drawn, strict=True) if keep}
        for group in (VISIBLE_CAMERAS, INFRARED_CAMERAS):
            if not kept.intersection(group):
                kept.add(int(rng.choice(group)))
        seen[person_id] = tuple(sorted(kept))
    return seen


def _write_lists(root: Path, own: _Parameters) -> None:
    """The identity lists: one line of comma separated numbers each, as published."""
    lists = split_identities(own.identities, own.splits, own.seed)
    lists["available"] = list(range(1, own.identities + 1))
    folder = root / "exp"
    folder.mkdir()
    for name, ids in lists.items():
        (folder / f"{name}_id.txt").write_text(",".join(map(str, ids)) + "\n", encoding="ascii")


def _write_permutations(root: Path, cameras: dict[int, tuple[int, ...]], own: _Parameters) -> None:
    """exp/rand_perm_cam.mat: cell (6, 1) of cells (identities, 1) of permutations (10, images)."""
    rng = np.random.default_rng([own.seed, 0x9E7])
    dtype = np.uint8 if own.views < 256 else np.uint16
    outer = np.empty((len(CAMERAS), 1), dtype=object)
    for row, camera_id in enumerate(CAMERAS):
        inner = np.empty((own.identities, 1), dtype=object)
        for person_id, seen in cameras.items():
            count = own.views if camera_id in seen else 0
            permutations = [rng.permutation(count) + 1 for _ in range(TRIALS)]
            inner[person_id - 1, 0] = np.array(permutations, dtype=dtype).reshape(TRIALS, count)
        outer[row, 0] = inner
    buffer = BytesIO()
    savemat(buffer, {"rand_perm_cam": outer})
    # The header text holds the time of writing; a fixed one keeps equal sets equal.
    content = MAT_HEADER.ljust(MAT_HEADER_SIZE) + buffer.getvalue()[MAT_HEADER_SIZE:]
    (root / "exp" / "rand_perm_cam.mat").write_bytes(content)
