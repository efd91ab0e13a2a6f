"""Contact sheet: many pictures of a set on one page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vireid_fast._checks import require
from vireid_fast.data.synthetic.attributes import require_integer
from vireid_fast.data.synthetic.cameras import CAMERAS, INFRARED_CAMERAS, VISIBLE_CAMERAS

SHEET_CAMERAS = VISIBLE_CAMERAS + INFRARED_CAMERAS
PAPER = (245, 245, 243)
GAP = 4


def contact_sheet(
    source: str | Path | Sequence[Sequence[NDArray[np.uint8]]],
    *,
    identities: int = 8,
    views: int = 2,
    tile: tuple[int, int] = (128, 64),
) -> Image.Image:
    """One row per person, visible cameras left, infrared ones right.

    Args:
        source: Root folder of a set in SYSU-MM01's layout, or rows of uint8 images (H, W, 3).
        identities: Rows to show of a folder, spread over all of its identities.
        views: Pictures per camera to show of a folder.
        tile: Height and width of one picture on the sheet in pixels.

    Returns:
        RGB image.

    Raises:
        ValueError: The folder holds no identity, or there is no picture.
    """
    require_integer("contact_sheet", "identities", identities, 1)
    require_integer("contact_sheet", "views", views, 1)
    if isinstance(source, str | Path):
        rows = _read_rows(Path(source), identities, views, tile)
    else:
        rows = [[_fit(Image.fromarray(image), tile) for image in row] for row in source]
    require(
        any(rows), "contact_sheet", "source", "hold at least one picture", "none",
        "Pass a folder with cam1..cam6 or rows of images.",
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
    root: Path, identities: int, views: int, tile: tuple[int, int]
) -> list[list[Image.Image | None]]:
    found = {p.name for camera in CAMERAS for p in (root / f"cam{camera}").glob("[0-9]*")}
    names = sorted(found)
    places = np.linspace(0, len(names) - 1, min(identities, len(names))).round().astype(int)
    rows: list[list[Image.Image | None]] = []
    for name in (names[place] for place in places):
        row: list[Image.Image | None] = []
        for camera in SHEET_CAMERAS:
            files = sorted((root / f"cam{camera}" / name).glob("*.jpg"))[:views]
            row += [_read(path, tile) for path in files] + [None] * (views - len(files))
        rows.append(row)
    return rows


def _read(path: Path, tile: tuple[int, int]) -> Image.Image:
    with Image.open(path) as picture:
        return _fit(picture, tile)
