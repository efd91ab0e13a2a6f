"""Write a synthetic set of images or tracklets that a manifest lists."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vireid_fast.data.synthetic.attributes import Attributes
from vireid_fast.data.synthetic.cameras import CAMERAS
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

MANIFEST = "manifest.csv"
_CONTENTS = Contents(pictures=("images",), files=(CAPTIONS, MANIFEST))
_COLUMNS = ("path", "person_id", "camera_id", "modality", "split")
_TRACK_COLUMNS = ("tracklet", "frame")


@dataclass(frozen=True)
class _Parameters:
    identities: int
    views: int
    size: tuple[int, int]
    seed: int
    splits: Shares
    tracklets: int
    tracklet_frames: int
    quality: int
    layout: str = "manifest"
    generator_version: int = GENERATOR_VERSION


def write_manifest_layout(
    root: str | Path,
    *,
    identities: int = 60,
    views: int = 4,
    size: tuple[int, int] = (128, 64),
    seed: int = 0,
    splits: Shares = (0.7, 0.0, 0.3),
    tracklets: int = 0,
    tracklet_frames: int = 12,
    quality: int = 92,
    progress: Progress | None = None,
) -> bool:
    """Generate a visible-infrared pedestrian set with a manifest.csv.

    images/%04d/cam%d/%04d.jpg, or for tracklets images/%04d/cam%d/T%d/%03d.jpg. Of the test
    identities the infrared cameras give the queries and the visible ones the gallery. Adds
    captions.json and, last, the marker synth.json.

    Args:
        root: Folder to create; it may exist if empty or an earlier set of this function.
        identities: Number of people, numbered from 1.
        views: Images per identity and camera, of which there are six; unused with tracklets.
        size: Height and width of the images in pixels.
        seed: Non-negative; equal arguments give equal files.
        splits: Shares of train, validation and test identities; they sum to 1. Without validation
            identities a run may hold out a share of the training ones.
        tracklets: Walks per identity and camera in place of images; 0 writes images.
        tracklet_frames: Frames per walk; 15 are one gait cycle.
        quality: JPEG quality, 1 to 95.
        progress: Called as progress(done, total) after each identity.

    Returns:
        True if the set was written, False if the same set was already there.

    Raises:
        TypeError, ValueError: An argument does not fit.
        FileExistsError: `root` holds something else, which is left untouched.
    """
    own = checked("write_manifest_layout", _Parameters(
        identities, views, size, seed, splits, tracklets, tracklet_frames, quality,
    ))  # fmt: skip
    return write_set(root, own, _CONTENTS, lambda root: _draw(root, own, progress))


def _draw(root: Path, own: _Parameters, progress: Progress | None) -> None:
    splits = split_identities(own.identities, own.splits, own.seed)
    split_of = {identity: split for split, ids in splits.items() for identity in ids}
    with open(root / MANIFEST, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS + _TRACK_COLUMNS * bool(own.tracklets))
        for person in people(own.seed, own.identities, progress):
            for camera in CAMERAS:
                infrared = is_infrared(camera)
                split = split_of[person.person_id]
                role = split if split != "test" else "query" if infrared else "gallery"
                modality = "infrared" if infrared else "visible"
                for path, *track in _draw_camera(root, person, camera, own):
                    writer.writerow((path, person.person_id, camera, modality, role, *track))
    write_captions(root, own.seed, own.identities)


def _draw_camera(
    root: Path, person: Attributes, camera: int, own: _Parameters
) -> Iterator[tuple[object, ...]]:
    """Draws one camera; yields paths, of tracklets with their number and that of the frame."""
    place = f"images/{person.person_id:04d}/cam{camera}"
    if not own.tracklets:
        save_views(root / place, person, camera, own.views, own.size, own.quality)
        yield from ((f"{place}/{view:04d}.jpg",) for view in range(1, own.views + 1))
        return
    save_walks(root / place, person, camera, own.tracklets, own.tracklet_frames, own.size,
               own.quality)  # fmt: skip
    for track in range(1, own.tracklets + 1):
        for frame in range(1, own.tracklet_frames + 1):
            yield f"{place}/T{track}/{frame:03d}.jpg", f"T{track}", frame
