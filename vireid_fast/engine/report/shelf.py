"""Images and tracklets as items of a page, with small pictures where their files are at hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from vireid_fast.data.feature_files import ROOT_NOTE, read_metadata, read_paths
from vireid_fast.data.images import ImageError, file_below, load_image
from vireid_fast.data.table import ImageTable
from vireid_fast.data.tracklets import TrackletTable
from vireid_fast.report.content import Item, Picture
from vireid_fast.retrieval.feature_set import MODALITY_NAMES, FeatureSet

# Pixels of a thumbnail: a standing person twice as high as wide; wider images keep their shape.
HEIGHT, WIDEST = 128, 160
QUALITY = 80


@dataclass
class Shelf:
    """The rows of a feature set as items; pictures are made once.

    Attributes:
        features: Who and what each row shows.
        name: Name of a row.
        file: Image file of a row; None where files are not known.
        unreadable: Files that are no images, in the order in which they were asked for.
        away: Folder of the files, where it is named but not on this machine; else empty.
    """

    features: FeatureSet
    name: Callable[[int], str]
    file: Callable[[int], Path] | None = None
    unreadable: list[ImageError] = field(default_factory=list)
    away: str = ""
    _items: dict[int, Item] = field(default_factory=dict)

    def item(self, row: int) -> Item:
        """The item of a row; without a picture where its file cannot be read."""
        if row not in self._items:
            self._items[row] = self._item(row)
        return self._items[row]

    def _item(self, row: int) -> Item:
        own = self.features
        modality = "" if own.modality is None else MODALITY_NAMES[int(own.modality[row])]
        person, camera = int(own.person_ids[row]), int(own.camera_ids[row])
        picture = None
        if self.file is not None:
            known = {"person": person, "camera": camera}
            words = ", ".join(f"{name} {n}" for name, n in known.items() if n >= 0)
            text = f"{modality} image{f' of {words}' if words else ''}".strip()
            try:
                picture = thumbnail(self.file(row), text)
            except ImageError as error:
                self.unreadable.append(error)
        return Item(person, camera, modality, self.name(row), picture)


def table_shelf(table: ImageTable | TrackletTable, rows: np.ndarray, features: FeatureSet) -> Shelf:
    """The shelf of extracted features; a tracklet is shown by its middle frame.

    Args:
        table: The data set.
        rows: Row of the table of each row of features. Shape (N,), int64.
        features: The features.
    """
    if isinstance(table, TrackletTable):
        frames = table.frames
        middle, length = table.middle_frames(rows).tolist(), table.length[rows].tolist()
        return Shelf(
            features,
            lambda row: f"{frames.paths[middle[row]]} ({length[row]} frames)",
            lambda row: frames.file(middle[row]),
        )
    return Shelf(
        features, lambda row: table.paths[rows[row]], lambda row: table.file(int(rows[row]))
    )


def file_shelf(path: Path, features: FeatureSet, root: Path | None = None) -> Shelf:
    """The shelf of a feature file, with pictures where it names images that are on this machine.

    Args:
        path: The file.
        features: Its features.
        root: Folder of the images; None: the one that the file names.

    Raises:
        ValueError: The file is damaged. Asking for an item raises it, too, if a path of the file
            leads out of the folder.
    """
    names = read_paths(path)
    folder = root or Path(read_metadata(path).get(ROOT_NOTE, ""))
    if names is None:
        return row_shelf(features, path.name)

    def file(row: int) -> Path:
        return file_below(folder, names[row], str(path))

    known = root is not None or (folder.is_absolute() and folder.is_dir())
    if known:
        return Shelf(features, names.__getitem__, file)
    return Shelf(features, names.__getitem__, away=read_metadata(path).get(ROOT_NOTE, ""))


def row_shelf(features: FeatureSet, source: str) -> Shelf:
    """The shelf of features whose images are not known; rows are called after `source`."""
    return Shelf(features, lambda row: f"{source}, row {row}")


def thumbnail(path: Path, text: str) -> Picture:
    """A small JPEG of an image file.

    Raises:
        ImageError: The file cannot be read.
    """
    pixels = load_image(path)
    height, width = pixels.shape[:2]
    wide = min(WIDEST, max(1, round(width * HEIGHT / height)))
    image = Image.fromarray(pixels).resize((wide, HEIGHT), Image.Resampling.LANCZOS)
    return jpeg(image, text)


def jpeg(image: Image.Image, text: str) -> Picture:
    """An image as an embedded JPEG."""
    file = BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    return Picture(file.getvalue(), "image/jpeg", *image.size, text)


def unreadable_note(shelves: Sequence[Shelf], limit: int = 3) -> tuple[str, ...]:
    """Sentences on the files that could not be read, and on folders that are not here."""
    away = tuple(
        f"Images are shown without a picture: their folder {folder} is not on this machine."
        for folder in dict.fromkeys(shelf.away for shelf in shelves if shelf.away)
    )
    errors = {error.path: error.reason for shelf in shelves for error in shelf.unreadable}
    if not errors:
        return away
    named = "; ".join(f"{path} ({reason})" for path, reason in list(errors.items())[:limit])
    more = f" and {len(errors) - limit} more" if len(errors) > limit else ""
    return (*away, f"{len(errors)} images are shown without a picture: {named}{more}.")
