"""Write a synthetic set to disk in LLCM's layout."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from vireid_fast.data.synthetic.attributes import Attributes
from vireid_fast.data.synthetic.folder import Contents, write_set
from vireid_fast.data.synthetic.parameters import GENERATOR_VERSION, checked, split_identities
from vireid_fast.data.synthetic.people import (
    CAPTIONS,
    Progress,
    people,
    save_picture,
    write_captions,
)
from vireid_fast.data.synthetic.render import render_person

# Camera of the set -> drawn camera. As in LLCM one camera sees both modalities, and camera 3 has no
# infrared test images.
CAMERAS = {"vis": {1: 1, 2: 2, 3: 4, 4: 5}, "nir": {1: 3, 2: 6, 4: 3}}
# Views of cameras that are drawn by one camera begin this far apart.
_VIEWS_APART = 10_000
_HOURS = {"vis": 10, "nir": 20}
_CONTENTS = Contents(
    pictures=("vis", "nir", "test_vis", "test_nir"),
    files=(
        CAPTIONS,
        "idx/test_id.txt",
        *(f"idx/{part}_{word}.txt" for part in ("train", "test") for word in CAMERAS),
    ),
)


@dataclass(frozen=True)
class _Parameters:
    identities: int
    views: int
    size: tuple[int, int]
    seed: int
    test_share: float
    quality: int
    layout: str = "llcm"
    generator_version: int = GENERATOR_VERSION


def write_llcm_layout(
    root: str | Path,
    *,
    identities: int = 60,
    views: int = 4,
    size: tuple[int, int] = (128, 64),
    seed: int = 0,
    test_share: float = 0.33,
    quality: int = 92,
    progress: Progress | None = None,
) -> bool:
    """Generate a visible-infrared pedestrian set in LLCM's layout.

    {vis,nir}/%04d/0001_c01_s101530_f00001_vis.jpg of everyone, their copies test_{vis,nir}/cam%d/
    %04d of the test identities, and idx/{train,test}_{vis,nir}.txt and idx/test_id.txt. The test
    lists name the files in vis and nir. Adds captions.json and, last, the marker synth.json.

    Args:
        root: Folder to create; it may exist if empty or an earlier set of this function.
        identities: Number of people, numbered from 1.
        views: Images per identity, camera and modality; there are four visible and three infrared
            cameras.
        size: Height and width of the images in pixels.
        seed: Non-negative; equal arguments give equal files.
        test_share: Share of test identities; 0.33 in LLCM.
        quality: JPEG quality, 1 to 95.
        progress: Called as progress(done, total) after each identity.

    Returns:
        True if the set was written, False if the same set was already there.

    Raises:
        TypeError, ValueError: An argument does not fit.
        FileExistsError: `root` holds something else, which is left untouched.
    """
    own = checked(
        "write_llcm_layout", _Parameters(identities, views, size, seed, test_share, quality)
    )
    return write_set(root, own, _CONTENTS, lambda root: _draw(root, own, progress))


def _draw(root: Path, own: _Parameters, progress: Progress | None) -> None:
    shares = (1.0 - own.test_share, 0.0, own.test_share)
    splits = split_identities(own.identities, shares, own.seed)
    files: dict[str, dict[int, list[str]]] = {word: {} for word in CAMERAS}
    for person in people(own.seed, own.identities, progress):
        for word in CAMERAS:
            names = _draw_person(root, person, word, own, person.person_id in splits["test"])
            files[word][person.person_id] = names
    folder = root / "idx"
    folder.mkdir()
    for part in ("train", "test"):
        for word, paths in files.items():
            lines = [f"{p} {label}" for label, i in enumerate(splits[part]) for p in paths[i]]
            (folder / f"{part}_{word}.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
    ids = ",".join(str(i) for i in splits["test"])
    (folder / "test_id.txt").write_text(ids + "\n", encoding="ascii")
    write_captions(root, own.seed, own.identities)


def _draw_person(
    root: Path, person: Attributes, word: str, own: _Parameters, in_test: bool
) -> list[str]:
    """Pictures of one person in one modality, copied for the test; returns their paths."""
    number, paths = f"{person.person_id:04d}", []
    for camera, drawn in CAMERAS[word].items():
        for view in range(own.views):
            time = f"{_HOURS[word]}{camera:02d}{view % 60:02d}"
            name = f"{number}_c{camera:02d}_s{time}_f{view + 1:05d}_{word}.jpg"
            path = f"{word}/{number}/{name}"
            pixels = render_person(person, drawn, camera * _VIEWS_APART + view, own.size)
            save_picture(root / path, pixels, own.quality)
            if in_test:
                copy = root / f"test_{word}" / f"cam{camera}" / number / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / path, copy)
            paths.append(path)
    return paths
