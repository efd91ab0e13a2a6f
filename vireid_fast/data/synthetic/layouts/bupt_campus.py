"""Write a synthetic set of tracklets to disk in BUPTCampus' layout."""

import json
from dataclasses import dataclass
from pathlib import Path

from vireid_fast._checks import require
from vireid_fast.data.synthetic.attributes import Attributes
from vireid_fast.data.synthetic.folder import Contents, write_set
from vireid_fast.data.synthetic.parameters import (
    GENERATOR_VERSION,
    Shares,
    checked,
    split_counts,
    split_identities,
)
from vireid_fast.data.synthetic.people import (
    CAPTIONS,
    Progress,
    people,
    save_picture,
    write_captions,
)
from vireid_fast.data.synthetic.render import render_pair

# Camera of the set -> drawn camera, which records both modalities here.
CAMERAS = {"LS3": 1, "G25": 2, "CQ1": 3, "W4": 4, "TSG1": 5, "TSG2": 6}
PATHS, PICTURES = "data_paths.json", "DATA"
MODALITIES = ("RGB", "IR")
_FILES = {
    "train": "train.txt",
    "auxiliary": "train_auxiliary.txt",
    "query": "query.txt",
    "gallery": "gallery.txt",
}
_CONTENTS = Contents(pictures=(PICTURES,), files=(CAPTIONS, PATHS, *_FILES.values()))

# modality -> camera -> tracklet -> paths below DATA
_Listing = dict[str, dict[str, dict[str, list[str]]]]


@dataclass(frozen=True)
class _Parameters:
    identities: int
    size: tuple[int, int]
    seed: int
    splits: Shares
    tracklets: int
    tracklet_frames: int
    quality: int
    layout: str = "bupt_campus"
    generator_version: int = GENERATOR_VERSION


def write_bupt_layout(
    root: str | Path,
    *,
    identities: int = 60,
    size: tuple[int, int] = (128, 64),
    seed: int = 0,
    splits: Shares = (0.4, 0.2, 0.4),
    tracklets: int = 1,
    tracklet_frames: int = 12,
    quality: int = 92,
    progress: Progress | None = None,
) -> bool:
    """Generate aligned tracklets of walking persons in BUPTCampus' layout.

    DATA/%d/{RGB,IR}/<camera>/%d/%05d.jpg, data_paths.json and the lists train.txt,
    train_auxiliary.txt, query.txt and gallery.txt. Every walk is recorded in both modalities by one
    camera, pixel by pixel. An auxiliary identity is seen by one camera, the others by all six. Of a
    test identity one tracklet queries, by turns a visible and an infrared one; its pair is not in
    the gallery, all others are. Adds captions.json and, last, the marker synth.json.

    Args:
        root: Folder to create; it may exist if empty or an earlier set of this function.
        identities: Number of people, numbered from 1.
        size: Height and width of the images in pixels.
        seed: Non-negative; equal arguments give equal files.
        splits: Shares of train, auxiliary and test identities; they sum to 1.
        tracklets: Walks per identity and camera, at least 1.
        tracklet_frames: Frames per walk; 15 are one gait cycle.
        quality: JPEG quality, 1 to 95.
        progress: Called as progress(done, total) after each identity.

    Returns:
        True if the set was written, False if the same set was already there.

    Raises:
        TypeError, ValueError: An argument does not fit.
        FileExistsError: `root` holds something else, which is left untouched.
    """
    what = "write_bupt_layout"
    own = checked(what, _Parameters(
        identities, size, seed, splits, tracklets, tracklet_frames, quality
    ))  # fmt: skip
    require(own.tracklets >= 1, what, "tracklets", "be at least 1", own.tracklets)
    train, _, test = split_counts(own.identities, own.splits)
    require(
        train > 0 and test > 0, what, "splits", "leave identities for training and test",
        own.splits,
    )  # fmt: skip
    return write_set(root, own, _CONTENTS, lambda root: _draw(root, own, progress))


def _draw(root: Path, own: _Parameters, progress: Progress | None) -> None:
    splits = split_identities(own.identities, own.splits, own.seed)
    # The middle share is that of the auxiliary identities, of which each has one camera.
    auxiliary = {person: place for place, person in enumerate(splits["val"])}
    test = {person: place for place, person in enumerate(splits["test"])}
    names = tuple(CAMERAS)
    listing: dict[str, _Listing] = {}
    lists: dict[str, list[str]] = {name: [] for name in _FILES}
    for person in people(own.seed, own.identities, progress):
        number = person.person_id
        seen = (names[auxiliary[number] % len(names)],) if number in auxiliary else names
        listing[str(number)] = _draw_person(root / PICTURES, person, seen, own)
        walks = [(camera, walk) for camera in seen for walk in range(1, own.tracklets + 1)]
        if number in test:
            queried = test[number] % len(walks)
            modality = MODALITIES[test[number] % 2]
            lists["query"].append(_line(number, modality, *walks.pop(queried)))
            lists["gallery"] += [_line(number, m, *walk) for m in MODALITIES for walk in walks]
        else:
            name = "auxiliary" if number in auxiliary else "train"
            lists[name] += [_line(number, "RGB/IR", *walk) for walk in walks]
    for name, lines in lists.items():
        (root / _FILES[name]).write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    (root / PATHS).write_text(json.dumps(listing, indent=1) + "\n", encoding="ascii")
    write_captions(root, own.seed, own.identities)


def _line(person: int, modality: str, camera: str, walk: int) -> str:
    return f"{person} {modality} {camera} {walk}"


def _draw_person(
    folder: Path, person: Attributes, cameras: tuple[str, ...], own: _Parameters
) -> _Listing:
    """Pictures of one person; returns their paths."""
    paths: _Listing = {modality: {} for modality in MODALITIES}
    for camera in cameras:
        for walk in range(own.tracklets):
            pair = render_pair(person, CAMERAS[camera], walk, own.tracklet_frames, own.size)
            for modality, frames in zip(MODALITIES, pair, strict=True):
                place = f"{person.person_id}/{modality}/{camera}/{walk + 1}"
                files = [f"{place}/{frame:05d}.jpg" for frame in range(1, len(frames) + 1)]
                for file, pixels in zip(files, frames, strict=True):
                    save_picture(folder / file, pixels, own.quality)
                paths[modality].setdefault(camera, {})[str(walk + 1)] = files
    return paths
