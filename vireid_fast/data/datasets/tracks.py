"""What the readers of tracklets share: lines of their lists, and the table made of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vireid_fast.data.datasets.findings import Findings
from vireid_fast.data.table import ImageTable, name_some
from vireid_fast.data.tracklets import TrackletTable, select_tracklets

NO_ROLE, NO_PARTNER = -1, -1


class Track(NamedTuple):
    """A tracklet as its list describes it; `partner` is its partner's place among all tracks."""

    person: int
    camera: int
    modality: int
    role: int
    paths: Sequence[str]
    partner: int = NO_PARTNER


def read_lines(path: Path, findings: Findings) -> list[str]:
    """Lines of a list, without the blank ones at its end; a missing or empty one is a problem."""
    remedy = "Restore it from the original archive."
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        findings.problems.append(f"{path}: the list is missing. {remedy}")
        return []
    except (OSError, UnicodeDecodeError) as error:
        findings.problems.append(f"{path}: the list must be a readable text, got {error}.")
        return []
    lines = text.rstrip().splitlines()
    if not lines:
        findings.problems.append(f"{path}: the list holds no line. {remedy}")
    return lines


def report_lines(
    path: Path, subject: str, bad: Iterable[tuple[int, object]], remedy: str, findings: Findings
) -> None:
    """One problem that names lines of a list; none if there are no bad ones.

    Args:
        path: The list.
        subject: What must hold, such as "end must be at most 7".
        bad: Number of a line, from 1, and what it has instead.
        remedy: What to do about it.
        findings: Receives the problem.
    """
    bad = list(bad)
    if bad:
        some = name_some([f"{got} in line {number}" for number, got in bad], 3)
        findings.problems.append(f"{path}: {subject}, got {some}. {remedy}")


def build_tracklets(
    root: Path, tracks: Sequence[Track], splits: dict[str, np.ndarray], present: set[str]
) -> TrackletTable:
    """The table of some tracks, without frames whose file is missing and without empty tracks.

    Args:
        root: Folder of the data set.
        tracks: Tracklets in the order of the table.
        splits: Split -> ascending identities.
        present: Paths of the frames that exist.
    """
    paths = [[path for path in track.paths if path in present] for track in tracks]
    length = np.asarray([len(frames) for frames in paths], np.int64)
    owner = np.repeat(np.arange(len(tracks)), length)
    columns = np.asarray([track[:4] for track in tracks], np.int64).reshape(-1, 4)[owner]
    start = np.cumsum(length) - length
    frames = ImageTable(
        root=root,
        paths=tuple(path for frames in paths for path in frames),
        person_ids=columns[:, 0],
        camera_ids=columns[:, 1],
        modality=columns[:, 2],
        image_indices=np.arange(len(owner)) - start[owner] + 1,
        splits=splits,
        roles=columns[:, 3],
    )
    partner = np.asarray([track.partner for track in tracks], np.int64)
    table = TrackletTable(frames, start, length, partner if (partner >= 0).any() else None)
    return select_tracklets(table, np.flatnonzero(length))


def ids_of(tracks: Iterable[Track]) -> np.ndarray:
    """Ascending identities of some tracks. Shape (n,), int64."""
    return np.unique(np.asarray([track.person for track in tracks], np.int64))
