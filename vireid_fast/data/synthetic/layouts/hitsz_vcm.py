"""Write a synthetic set of tracklets to disk in HITSZ-VCM's layout."""

from dataclasses import dataclass, field
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
from vireid_fast.data.synthetic.render import render_tracklet

# Digit of the lists, and folder -> camera of the set -> drawn camera. As in HITSZ-VCM the
# modalities share the camera numbers: the infrared cameras stand where two visible ones do.
CAMERAS = {(1, "ir"): {2: 3, 3: 6}, (2, "rgb"): {1: 1, 2: 2, 3: 4, 4: 5}}
_FOLDERS = {"train": "Train", "test": "Test"}
_QUERIES = "query_IDX.txt"
_CONTENTS = Contents(
    pictures=tuple(_FOLDERS.values()),
    files=(
        CAPTIONS,
        f"info/{_QUERIES}",
        *(f"info/{name}" for part in _FOLDERS for name in (f"{part}_name.txt",
                                                           f"track_{part}_info.txt")),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _Parameters:
    identities: int
    size: tuple[int, int]
    seed: int
    test_share: float
    tracklets: int
    tracklet_frames: int
    quality: int
    layout: str = "hitsz_vcm"
    generator_version: int = GENERATOR_VERSION


@dataclass
class _Lists:
    """Lines of the lists of one part; rows count from 1."""

    names: list[str] = field(default_factory=list)
    tracks: list[str] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)


def write_vcm_layout(
    root: str | Path,
    *,
    identities: int = 60,
    size: tuple[int, int] = (128, 64),
    seed: int = 0,
    test_share: float = 0.46,
    tracklets: int = 1,
    tracklet_frames: int = 12,
    quality: int = 92,
    progress: Progress | None = None,
) -> bool:
    """Generate tracklets of walking persons in HITSZ-VCM's layout.

    {Train,Test}/%04d/{ir,rgb}/D%d/%d.jpg, two infrared and four visible cameras, and in info
    {train,test}_name.txt, track_{train,test}_info.txt and query_IDX.txt. All infrared test
    tracklets are queries, as published. The tracklets of one camera lie in one folder and number
    their frames on. Adds captions.json and, last, the marker synth.json.

    Args:
        root: Folder to create; it may exist if empty or an earlier set of this function.
        identities: Number of people, numbered from 1.
        size: Height and width of the images in pixels.
        seed: Non-negative; equal arguments give equal files.
        test_share: Share of test identities; 427 of 927 in HITSZ-VCM.
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
    what = "write_vcm_layout"
    own = checked(what, _Parameters(
        identities, size, seed, test_share, tracklets, tracklet_frames, quality
    ))  # fmt: skip
    require(own.tracklets >= 1, what, "tracklets", "be at least 1", own.tracklets)
    train, _, test = split_counts(own.identities, _shares(own))
    require(
        train > 0 and test > 0, what, "test_share", "leave identities for training and test",
        own.test_share,
    )  # fmt: skip
    return write_set(root, own, _CONTENTS, lambda root: _draw(root, own, progress))


def _shares(own: _Parameters) -> Shares:
    return 1 - own.test_share, 0.0, own.test_share


def _draw(root: Path, own: _Parameters, progress: Progress | None) -> None:
    splits = split_identities(own.identities, _shares(own), own.seed)
    lists = {part: _Lists() for part in _FOLDERS}
    for person in people(own.seed, own.identities, progress):
        part = "test" if person.person_id in splits["test"] else "train"
        _draw_person(root / _FOLDERS[part], person, own, lists[part])
    info = root / "info"
    info.mkdir()
    for part, lines in lists.items():
        _write(info / f"{part}_name.txt", lines.names)
        _write(info / f"track_{part}_info.txt", lines.tracks)
    _write(info / _QUERIES, [" ".join(map(str, lists["test"].queries))])
    write_captions(root, own.seed, own.identities)


def _draw_person(folder: Path, person: Attributes, own: _Parameters, lists: _Lists) -> None:
    number = f"{person.person_id:04d}"
    for (digit, kind), cameras in CAMERAS.items():
        for camera, drawn in cameras.items():
            for track in range(own.tracklets):
                first = len(lists.names) + 1
                frames = render_tracklet(person, drawn, track, own.tracklet_frames, own.size)
                for frame, pixels in enumerate(frames, start=track * own.tracklet_frames + 1):
                    save_picture(
                        folder / number / kind / f"D{camera}" / f"{frame}.jpg", pixels, own.quality
                    )
                    lists.names.append(f"{number}M{digit}D{camera}T{track + 1}F{frame}.jpg")
                last = len(lists.names)
                lists.tracks.append(f"{digit} {first} {last} {person.person_id} {camera}")
                if kind == "ir":
                    lists.queries.append(len(lists.tracks))


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
