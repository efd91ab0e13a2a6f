"""The list of images of a data set: what every reader returns and everything else works on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vireid_fast._checks import require, require_choice

VISIBLE = 0
INFRARED = 1
MODALITY_NAMES = ("visible", "infrared")
SPLITS = ("train", "val", "test")
UNKNOWN_CAMERA = -1
GALLERY, QUERY = 0, 1


class DatasetError(ValueError):
    """A data set on disk that cannot be used as it is; the message names every problem."""


@dataclass(frozen=True)
class ImageTable:
    """The images of one data set; row n describes image n.

    Attributes:
        root: Folder of the data set.
        paths: Files relative to `root`, with forward slashes. N entries.
        person_ids: Identity of each image as numbered on disk. Shape (N,), int64.
        camera_ids: Camera of each image; -1 where the set does not tell. Shape (N,), int64.
        modality: 0 visible, 1 infrared. Shape (N,), int64.
        image_indices: 1-based position of the image among the sorted files of its identity and
            camera. Shape (N,), int64.
        splits: "train", "val" and "test" -> ascending identities. An identity on disk may be in
            no split.
        roles: Part of each test image where the set fixes it: 0 gallery, 1 query, -1 neither. Shape
            (N,), int64; None where the protocol draws queries and gallery itself.
        problems: What keeps the data set from being used; empty after a strict read.
        warnings: Oddities that do no harm, in words.
    """

    root: Path
    paths: tuple[str, ...]
    person_ids: np.ndarray
    camera_ids: np.ndarray
    modality: np.ndarray
    image_indices: np.ndarray
    splits: dict[str, np.ndarray]
    roles: np.ndarray | None = None
    problems: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, row: int) -> Path:
        """Full path of the image in `row`."""
        return self.root / self.paths[row]

    def identities(self, split: str) -> np.ndarray:
        """Identities of "train", "val", "test" or a union such as "train+val", ascending."""
        parts = split.split("+")
        for part in parts:
            require_choice("ImageTable", "split", part, self.splits)
        return np.unique(np.concatenate([self.splits[part] for part in parts]))

    def rows(
        self,
        split: str | Iterable[int],
        *,
        modality: int | None = None,
        cameras: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Rows of some images, in table order.

        Args:
            split: "train", "val", "test", a union such as "train+val", or identities.
            modality: 0 visible, 1 infrared; None takes both.
            cameras: Cameras to take; None takes all.

        Returns:
            Ascending rows. Shape (n,), int64.

        Raises:
            ValueError: An unknown split or modality.
        """
        require_choice("ImageTable", "modality", modality, (None, VISIBLE, INFRARED))
        ids = self.identities(split) if isinstance(split, str) else np.asarray(list(split))
        keep = np.isin(self.person_ids, ids)
        if modality is not None:
            keep &= self.modality == modality
        if cameras is not None:
            keep &= np.isin(self.camera_ids, np.asarray(cameras))
        return np.flatnonzero(keep)

    def lacking_modality(
        self, split: str | Iterable[int], *, rows: np.ndarray | None = None
    ) -> dict[int, list[int]]:
        """Identities of a split with images, but none of a modality: {modality: sorted ids}.

        Args:
            split: As of `rows`.
            rows: Images that count; None: all of the split.
        """
        rows = self.rows(split) if rows is None else rows
        people, modality = self.person_ids[rows], self.modality[rows]
        return {
            m: np.setdiff1d(people, people[modality == m]).tolist() for m in (VISIBLE, INFRARED)
        }


def name_some(items: Iterable[object], limit: int = 8) -> str:
    """Join items for a message: the first `limit`, then how many more there are."""
    names = [str(item) for item in items]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def require_trainable(table: ImageTable, split: str, *, rows: np.ndarray | None = None) -> None:
    """Raise DatasetError if `split` is empty or an identity has images of one modality only.

    Args:
        table: The data set.
        split: Its training split.
        rows: Images that count; None: all of the split.
    """
    problems = untrainable(table, split, rows=rows)
    if not len(table.rows(split) if rows is None else rows):
        problems = [
            f"{table.root}: the {split} split must hold at least one image to train on, got none. "
            "Add training images, or evaluate a run that was trained on another set."
        ]
    if problems:
        raise DatasetError("\n".join(problems))


def untrainable(table: ImageTable, split: str, *, rows: np.ndarray | None = None) -> list[str]:
    """Sentences naming the identities of `split` that lack a modality; empty if there is none."""
    return [
        f"{table.root}: every {split} identity must have visible and infrared images, got "
        f"{len(ids)} without {MODALITY_NAMES[modality]} images: {name_some(ids)}. "
        f"Restore their images, or take these ids out of the {split} list."
        for modality, ids in table.lacking_modality(split, rows=rows).items()
        if ids
    ]


def require_rows(table: ImageTable, rows: np.ndarray, what: str) -> np.ndarray:
    """Return `rows` as int64, or raise ValueError if one lies outside the table."""
    rows = np.asarray(rows)
    require(rows.ndim == 1, what, "rows", "have one dimension", f"shape {rows.shape}")
    inside = rows.size == 0 or (rows.min() >= 0 and rows.max() < len(table))
    require(inside, what, "rows", f"lie in 0..{len(table) - 1}", name_some(rows.tolist()))
    return rows.astype(np.int64)
