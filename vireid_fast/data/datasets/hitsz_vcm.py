"""Reader of HITSZ-VCM: tracklets, listed in info/ as rows of the lists of frames."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vireid_fast.data.datasets.findings import (
    Findings,
    existing,
    modality_findings,
    overlap_problems,
    require_root,
)
from vireid_fast.data.datasets.tracks import (
    NO_ROLE,
    Track,
    build_tracklets,
    ids_of,
    read_lines,
    report_lines,
)
from vireid_fast.data.table import GALLERY, INFRARED, MODALITY_NAMES, QUERY, VISIBLE, name_some
from vireid_fast.data.tracklets import TrackletTable, drop_short

# Digit of the lists -> modality, and folder of its frames.
MODALITIES = {1: INFRARED, 2: VISIBLE}
FOLDERS = {INFRARED: "ir", VISIBLE: "rgb"}
# The public code uses no tracklet of fewer frames.
PUBLISHED_MIN_FRAMES = 12
# Where the lists, and the identity folders, can lie; "" is the root itself.
_LISTS_IN = ("info", "", "data")
_FRAMES_IN = {"train": ("Train", "data", ""), "test": ("Test", "data", "")}
_NAME = re.compile(r"([0-9]{4})M([12])D([0-9]{1,18})T[^F/\\]+F([^/\\]+)")
_RESTORE = "Restore the lists from the original archive."


@dataclass(frozen=True)
class _Frames:
    """A list of frames: paths below the folder of the identities, and columns of N rows."""

    file: Path
    paths: list[str]
    people: np.ndarray
    modality: np.ndarray
    cameras: np.ndarray


class _Row(NamedTuple):
    """A tracklet of a list; `line`, `start` and `end` count from 1."""

    line: int
    modality: int
    start: int
    end: int
    person: int
    camera: int

    @property
    def part(self) -> slice:
        """Its rows in the columns of the frames."""
        return slice(self.start - 1, self.end)


def read_vcm_layout(root: str | Path, *, strict: bool = True, min_frames: int = 1) -> TrackletTable:
    """List the tracklets of a data set in HITSZ-VCM's layout.

    A line of {train,test}_name.txt such as 0001M2D3T1F4.jpg names identity, modality (1 infrared,
    2 visible), camera, tracklet and frame, and stands for the file 0001/rgb/D3/4.jpg, as in
    VCM-project233/MITML@1b39c05 `data_manager.py`. A line `modality start end person camera` of
    track_{train,test}_info.txt makes a tracklet of the lines start to end, counted from 1, of the
    names. The one line of query_IDX.txt holds the lines, from 1, of track_test_info.txt that are
    queries; all others are the gallery. Rows are ordered as the lists: training, then test.

    Identity folders may lie in Train and Test, in data, or in the root; the lists in info, in the
    root, or in data. There are no validation identities.

    Args:
        root: Folder of the data set.
        strict: Raise if there is a problem; otherwise list it in `problems` and leave the lines
            and frames concerned out.
        min_frames: Tracklets of fewer frames are left out, in training and test; 12 in the public
            code.

    Returns:
        The table; roles are 1 query, 0 gallery, -1 in training. Both modalities share the camera
        numbers.

    Raises:
        DatasetError: The root is missing or there is no usable tracklet; or, if strict: a list is
            missing or empty, a line does not have its form, a tracklet has rows below 1, past the
            end or in wrong order or contradicts the names of its frames, a query is no line of the
            test list, a frame is missing, an identity is in train and test, or a training identity
            has tracklets of one modality only.
    """
    root = require_root(root, "Train, Test and info, or with the identities and info")
    findings = Findings()
    train, _ = _read_part(root, "train", findings)
    test, lines = _read_part(root, "test", findings)
    queries = _read_queries(_list(root, "query_IDX.txt"), lines, findings)
    for line, track in test.items():
        test[line] = track._replace(role=QUERY if line in queries else GALLERY)
    tracks = [*train.values(), *test.values()]
    findings.require_images(
        tracks, root, "tracklets as Train/<identity>/{ir,rgb}/D<camera>/<frame>.jpg, listed in info"
    )
    _warn_of_visible_queries(_list(root, "query_IDX.txt"), test, findings)
    present: set[str] = set()
    for part, listed in (("train", train), ("test", test)):
        paths = (path for track in listed.values() for path in track.paths)
        present |= existing(root, paths, _list(root, f"{part}_name.txt"), findings)
    splits = {"train": ids_of(train.values()), "val": ids_of(()), "test": ids_of(test.values())}
    findings.problems += overlap_problems(
        _list(root, "track_train_info.txt").parent, splits, _RESTORE
    )
    table = build_tracklets(root, tracks, splits, present)
    modality_findings(table.frames, findings)
    table = replace(table, frames=findings.finish(table.frames, strict=strict))
    return drop_short(table, min_frames)


def _list(root: Path, name: str) -> Path:
    """The list called `name`; where there is none, where it should be."""
    places = [root / folder / name for folder in _LISTS_IN]
    return next((place for place in places if place.is_file()), places[0])


def _read_part(root: Path, part: str, findings: Findings) -> tuple[dict[int, Track], int]:
    """Usable tracklets of the train or test list by their line, and the lines of the list."""
    frames = _read_names(_list(root, f"{part}_name.txt"), findings)
    file = _list(root, f"track_{part}_info.txt")
    lines = read_lines(file, findings)
    rows = _agreeing(file, _parse_rows(file, lines, frames, findings), frames, findings)
    used = np.zeros(len(frames.paths), np.int64)
    for row in rows:
        used[row.part] += 1
    for count, words in ((np.sum(used == 0), "no tracklet"), (np.sum(used > 1), "several")):
        if rows and count:
            findings.warnings.append(f"{frames.file}: {count} frames are part of {words}.")
    folder = _folder(root, part, frames.paths)
    tracks = {
        row.line: Track(
            row.person, row.camera, row.modality, NO_ROLE,
            [folder + path for path in frames.paths[row.part]],
        )
        for row in rows
    }  # fmt: skip
    return tracks, len(lines)


def _folder(root: Path, part: str, paths: list[str]) -> str:
    """What comes before the paths of a part: the first folder that holds one of its identities."""
    people = {path.split("/")[0] for path in paths if path}
    for name in _FRAMES_IN[part]:
        if any((root / name / person).is_dir() for person in people):
            return f"{name}/" if name else ""
    return f"{_FRAMES_IN[part][0]}/"


def _read_names(file: Path, findings: Findings) -> _Frames:
    """All lines, in their order; a line of another form has no path and identity -1."""
    lines = [line.strip() for line in read_lines(file, findings)]
    columns = np.full((len(lines), 3), -1, np.int64)
    paths, bad = [], []
    for row, line in enumerate(lines):
        match = _NAME.fullmatch(line)
        if match is None:
            bad.append((row + 1, repr(line)))
            paths.append("")
            continue
        person, digit, camera, picture = match.groups()
        modality = MODALITIES[int(digit)]
        columns[row] = int(person), modality, int(camera)
        paths.append(f"{person}/{FOLDERS[modality]}/D{camera}/{picture}")
    report_lines(
        file, "every line must name a frame as in 0001M1D2T3F4.jpg, M1 infrared or M2 visible",
        bad, _RESTORE, findings,
    )  # fmt: skip
    return _Frames(file, paths, *columns.T)


def _parse_rows(file: Path, lines: list[str], frames: _Frames, findings: Findings) -> list[_Row]:
    """The lines that have the right form and rows of the list of frames."""
    rows: list[_Row] = []
    malformed, low, turned, high = [], [], [], []
    total = len(frames.paths)
    for line, text in enumerate(lines, start=1):
        words = text.split()
        is_whole = len(words) == 5 and all(re.fullmatch(r"-?[0-9]{1,18}", w) for w in words)
        digit, start, end, person, camera = map(int, words) if is_whole else (0, 0, 0, 0, 0)
        if digit not in MODALITIES or person < 0 or camera < 0:
            malformed.append((line, repr(text)))
        elif start < 1:
            low.append((line, start))
        elif end < start:
            turned.append((line, f"{start} to {end}"))
        elif end > total:
            high.append((line, end))
        else:
            rows.append(_Row(line, MODALITIES[digit], start, end, person, camera))
    form = "every line must be `modality start end person camera`, modality 1 or 2"
    report_lines(file, form, malformed, _RESTORE, findings)
    report_lines(file, "start must be at least 1", low, "Rows count from 1.", findings)
    report_lines(file, "start must not lie behind end", turned, _RESTORE, findings)
    # That a list of frames is missing or empty is said already.
    if total:
        bound = f"end must be at most {total}, the last line of {frames.file.name}"
        report_lines(file, bound, high, _RESTORE, findings)
    return rows


def _agreeing(file: Path, rows: list[_Row], frames: _Frames, findings: Findings) -> list[_Row]:
    """Those rows whose frames have well-formed names of their identity and modality."""
    kept, bad, other_camera = [], [], []
    for row in rows:
        people, modality = frames.people[row.part], frames.modality[row.part]
        is_named = people >= 0
        differs = is_named & ((people != row.person) | (modality != row.modality))
        if differs.any():
            path = frames.paths[row.start - 1 + int(np.argmax(differs))]
            bad.append((row.line, f"{MODALITY_NAMES[row.modality]} {row.person} for {path}"))
        elif is_named.all():
            kept.append(row)
            if (frames.cameras[row.part] != row.camera).any():
                other_camera.append(row.line)
    agreement = "every tracklet must have the identity and modality of its frames"
    report_lines(file, agreement, bad, _RESTORE, findings)
    if other_camera:
        findings.warnings.append(
            f"{file}: {len(other_camera)} tracklets have another camera than the names of their "
            f"frames; the tracklet's is taken. Lines {name_some(other_camera)}."
        )
    return kept


def _read_queries(file: Path, total: int, findings: Findings) -> set[int]:
    """Lines, from 1, of the test list that query.

    Args:
        file: The list of queries.
        total: Lines of the test list.
        findings: Receives the problems.
    """
    lines = read_lines(file, findings)
    if len(lines) > 1:
        findings.problems.append(
            f"{file}: the queries must stand in one line, got {len(lines)}. Join the lines: the "
            "public code would read the last one only."
        )
    queries: list[int] = []
    bad = []
    for number, text in enumerate(lines, start=1):
        for word in text.split():
            if re.fullmatch(r"[0-9]{1,18}", word) and 1 <= int(word) <= total:
                queries.append(int(word))
            else:
                bad.append((number, repr(word)))
    entries = f"every entry must be a line of the test list, 1 to {total}"
    report_lines(file, entries, bad, _RESTORE, findings)
    if len(set(queries)) < len(queries):
        findings.problems.append(
            f"{file}: a query must be listed once, got {len(queries) - len(set(queries))} "
            f"repeated entries. {_RESTORE}"
        )
    return set(queries)


def _warn_of_visible_queries(file: Path, test: dict[int, Track], findings: Findings) -> None:
    visible = [
        line for line, track in test.items() if (track.role, track.modality) == (QUERY, VISIBLE)
    ]
    if visible:
        findings.warnings.append(
            f"{file}: queries are infrared as published, got {len(visible)} visible ones: lines "
            f"{name_some(visible)} of the test list."
        )
