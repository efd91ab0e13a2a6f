"""Tracklets: runs of frames of one person before one camera, over a table of their frames."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vireid_fast.data.table import ImageTable


@dataclass(frozen=True)
class TrackletTable:
    """The tracklets of one data set; row m describes tracklet m.

    Person, camera, modality and role of a tracklet are those of its frames, and splits, problems
    and warnings those of the table of frames, so that what works on the columns of an `ImageTable`
    (samplers, structure counts, feature sets) works on tracklets as well.

    Attributes:
        frames: One row per frame; the frames of a tracklet lie one after the other, in time.
        start: First frame of each tracklet, a row of `frames`. Shape (M,), int64.
        length: Frames of each tracklet, at least 1. Shape (M,), int64.
        partner: Tracklet recorded at the same time in the other modality, pixel by pixel; -1 where
            there is none. Shape (M,), int64; None where the set has no such pairs.
    """

    frames: ImageTable
    start: np.ndarray
    length: np.ndarray
    partner: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.start)

    @property
    def root(self) -> Path:
        """Folder of the data set."""
        return self.frames.root

    @property
    def person_ids(self) -> np.ndarray:
        """Identity of each tracklet. Shape (M,), int64."""
        return self.frames.person_ids[self.start]

    @property
    def camera_ids(self) -> np.ndarray:
        """Camera of each tracklet; -1 where the set does not tell. Shape (M,), int64."""
        return self.frames.camera_ids[self.start]

    @property
    def modality(self) -> np.ndarray:
        """0 visible, 1 infrared. Shape (M,), int64."""
        return self.frames.modality[self.start]

    @property
    def roles(self) -> np.ndarray | None:
        """0 gallery, 1 query, -1 neither. Shape (M,), int64; None where the set fixes no roles."""
        return None if self.frames.roles is None else self.frames.roles[self.start]

    @property
    def splits(self) -> dict[str, np.ndarray]:
        """Split -> ascending identities."""
        return self.frames.splits

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps the data set from being used."""
        return self.frames.problems

    @property
    def warnings(self) -> tuple[str, ...]:
        """Oddities that do no harm, in words."""
        return self.frames.warnings

    def identities(self, split: str) -> np.ndarray:
        """See `ImageTable.identities`."""
        return self.frames.identities(split)

    def rows(
        self,
        split: str | Iterable[int],
        *,
        modality: int | None = None,
        cameras: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Tracklets of a split; arguments and errors as of `ImageTable.rows`. Shape (m,), int64."""
        chosen = np.zeros(len(self.frames), bool)
        chosen[self.frames.rows(split, modality=modality, cameras=cameras)] = True
        return np.flatnonzero(chosen[self.start])

    def middle_frames(self, rows: np.ndarray) -> np.ndarray:
        """Rows of `frames` by which tracklets are named and shown. Shape (m,), int64."""
        return self.start[rows] + self.length[rows] // 2

    def frame_rows(self, tracklet: int) -> np.ndarray:
        """Rows of `frames` of one tracklet, in time. Shape (length,), int64."""
        first = int(self.start[tracklet])
        return np.arange(first, first + int(self.length[tracklet]), dtype=np.int64)


def select_tracklets(table: TrackletTable, rows: np.ndarray) -> TrackletTable:
    """The tracklets in `rows`, in that order; a partner that is not among them becomes -1.

    The table of frames, and with it splits and findings, stays as it is.
    """
    partner = table.partner
    if partner is not None:
        place = np.full(len(table) + 1, -1, np.int64)
        place[rows] = np.arange(len(rows))
        # The last entry stands for those without a partner.
        partner = place[partner[rows]]
    return TrackletTable(table.frames, table.start[rows], table.length[rows], partner)


def drop_short(table: TrackletTable, frames: int) -> TrackletTable:
    """The tracklets of at least `frames` frames, of all splits.

    VCM-project233/MITML@1b39c05 `data_manager.py` drops those of fewer than 12 frames in training
    and in the test, as do VLD, X-ReID and M3-ReID.
    """
    return select_tracklets(table, np.flatnonzero(table.length >= frames))
