"""Contact sheet: many pictures of a set on one page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vireid_fast._checks import require
from vireid_fast.data.datasets.sysu_mm01 import read_sysu_layout
from vireid_fast.data.synthetic.attributes import require_integer
from vireid_fast.data.table import ImageTable
from vireid_fast.data.tracklets import TrackletTable

PAPER = (245, 245, 243)
GAP = 4
Table = ImageTable | TrackletTable


def contact_sheet(
    source: str | Path | Table | Sequence[Sequence[NDArray[np.uint8]]],
    *,
    identities: int = 8,
    views: int = 2,
    tile: tuple[int, int] = (128, 64),
) -> Image.Image:
    """One row per person, visible cameras left, infrared ones right.

    Args:
        source: A data set, or the folder of one in SYSU-MM01's layout, or rows of uint8 images
            (H, W, 3).
        identities: Rows to show of a data set, spread over all of its identities.
        views: Pictures per camera to show of a data set; the first ones, of tracklets spread over
            their frames.
        tile: Height and width of one picture on the sheet in pixels.

    Returns:
        RGB image.

    Raises:
        ValueError: The folder is no such set, or there is no picture.
    """
    require_integer("contact_sheet", "identities", identities, 1)
    require_integer("contact_sheet", "views", views, 1)
    if isinstance(source, str | Path):
        source = read_sysu_layout(source, strict=False)
    if isinstance(source, Table):
        rows = _read_rows(source, identities, views, tile)
    else:
        rows = [[_fit(Image.fromarray(image), tile) for image in row] for row in source]
    require(
        any(rows), "contact_sheet", "source", "hold at least one picture", "none",
        "Pass a data set or rows of images.",
    )  # fmt: skip
    height, width = tile
    columns = max(len(row) for row in rows)
    page = Image.new(
        "RGB", (columns * (width + GAP) + GAP, len(rows) * (height + GAP) + GAP), PAPER
    )
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            if picture is not None:
                page.paste(picture, (GAP + j * (width + GAP), GAP + i * (height + GAP)))
    return page


def _fit(picture: Image.Image, tile: tuple[int, int]) -> Image.Image:
    height, width = tile
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _read_rows(
    table: Table, identities: int, views: int, tile: tuple[int, int]
) -> list[list[Image.Image | None]]:
    video = isinstance(table, TrackletTable)
    images = table.frames if isinstance(table, TrackletTable) else table
    people = np.unique(images.person_ids)
    places = np.linspace(0, len(people) - 1, min(identities, len(people))).round().astype(int)
    columns = np.unique(np.stack([images.modality, images.camera_ids], 1), axis=0)
    rows: list[list[Image.Image | None]] = []
    for person in people[places]:
        row: list[Image.Image | None] = []
        for modality, camera in columns:
            found = images.rows([person], modality=int(modality), cameras=[int(camera)])
            step = max(len(found) // views, 1) if video else 1
            files = [images.file(int(n)) for n in found[::step][:views]]
            row += [_read(path, tile) for path in files] + [None] * (views - len(files))
        rows.append(row)
    return rows


def _read(path: Path, tile: tuple[int, int]) -> Image.Image:
    with Image.open(path) as picture:
        return _fit(picture, tile)
