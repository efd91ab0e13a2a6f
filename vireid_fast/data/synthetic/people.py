"""What all layouts have in common: the people, their pictures on disk, and their captions."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vireid_fast.data.synthetic.attributes import Attributes, sample_identity
from vireid_fast.data.synthetic.cameras import CAMERAS, INFRARED, VISIBLE
from vireid_fast.data.synthetic.captions import caption
from vireid_fast.data.synthetic.render import render_person, render_tracklet

Progress = Callable[[int, int], None]
CAPTIONS = "captions.json"


def people(seed: int, identities: int, progress: Progress | None) -> Iterator[Attributes]:
    """Persons 1..identities; `progress(done, total)` is called after each one's turn."""
    for done in range(1, identities + 1):
        yield sample_identity(seed, done)
        if progress is not None:
            progress(done, identities)


def save_picture(path: Path, pixels: NDArray[np.uint8], quality: int | None = None) -> None:
    """Write an image, making its folder; `quality` is that of a JPEG, None for other formats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {} if quality is None else {"quality": quality}
    Image.fromarray(pixels).save(path, **options)


def save_views(
    folder: Path,
    person: Attributes,
    camera_id: int,
    views: int,
    size: tuple[int, int],
    quality: int,
) -> None:
    """Write `views` pictures of one camera as 0001.jpg, 0002.jpg, ..."""
    for view in range(views):
        pixels = render_person(person, camera_id, view, size)
        save_picture(folder / f"{view + 1:04d}.jpg", pixels, quality)


def save_walks(
    folder: Path,
    person: Attributes,
    camera_id: int,
    walks: int,
    frames: int,
    size: tuple[int, int],
    quality: int,
) -> None:
    """Write `walks` tracklets of one camera as T1/001.jpg, T1/002.jpg, ..."""
    for walk in range(walks):
        for number, pixels in enumerate(
            render_tracklet(person, camera_id, walk, frames, size), start=1
        ):
            save_picture(folder / f"T{walk + 1}" / f"{number:03d}.jpg", pixels, quality)


def is_infrared(camera_id: int) -> bool:
    """Whether a camera of the synthetic world is an infrared one."""
    return CAMERAS[camera_id].modality == INFRARED


def write_captions(root: Path, seed: int, identities: int) -> None:
    """captions.json: number of a person, four digits -> "visible" and "infrared" sentence."""
    persons = (sample_identity(seed, number) for number in range(1, identities + 1))
    sentences = {
        f"{person.person_id:04d}": {
            "visible": caption(person, VISIBLE),
            "infrared": caption(person, INFRARED),
        }
        for person in persons
    }
    (root / CAPTIONS).write_text(json.dumps(sentences, indent=1) + "\n", encoding="utf-8")
