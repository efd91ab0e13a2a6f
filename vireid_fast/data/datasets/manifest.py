"""Reader of people's own data: a manifest, one CSV or Parquet row per image or frame.

Columns: `path` relative to the manifest's folder; `person_id`; `modality`, visible or infrared;
`split`, one of train, val, query, gallery, test; optional `camera_id`; for video `tracklet` and,
optional, `frame`. Further columns are ignored.
"""

import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from vireid_fast.data.datasets.findings import Findings, count_up, existing, overlap_problems
from vireid_fast.data.datasets.manifest_cells import Cells, read_cells
from vireid_fast.data.table import (
    GALLERY,
    INFRARED,
    MODALITY_NAMES,
    QUERY,
    UNKNOWN_CAMERA,
    VISIBLE,
    DatasetError,
    ImageTable,
    name_some,
)
from vireid_fast.data.tracklets import TrackletTable

MANIFESTS = ("manifest.csv", "manifest.parquet")
MODALITIES = {
    **dict.fromkeys(("visible", "vis", "rgb", "0"), VISIBLE),
    **dict.fromkeys(("infrared", "ir", "nir", "thermal", "1"), INFRARED),
}
NO_ROLE = -1
# Word in the column -> split and role.
SPLITS = {
    "train": ("train", NO_ROLE),
    "val": ("val", NO_ROLE),
    "test": ("test", NO_ROLE),
    "query": ("test", QUERY),
    "gallery": ("test", GALLERY),
}
# Person of images that rankings leave out, as in Market-1501's gallery.
JUNK = -1
# More digits do not fit the 64 bits of an id.
_INTEGER = re.compile(r"-?[0-9]{1,18}(\.0+)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _Row(NamedTuple):
    """One image. Rows are sorted in this order of fields."""

    person: int
    camera: int
    modality: int
    word: str
    tracklet: tuple[str, int, str]
    frame: int
    path: str

    @property
    def run(self) -> tuple[int, int, int, str, tuple[str, int, str]]:
        """What the frames of one tracklet have in common."""
        return self[:5]


def read_manifest(
    root: str | Path, *, strict: bool = True, follow_links: bool = False
) -> ImageTable | TrackletTable:
    """List the images, or tracklets, of a manifest.

    Person ids and cameras are kept if all are integers; texts are numbered from 1 in sorted order.
    A camera may be left empty. Person -1 is junk, in the gallery only. Rows are ordered by person,
    camera and modality, images then by path and frames by tracklet and `frame`, or, without that
    column, in the order of the manifest. Frames belong to one tracklet if person, camera, modality,
    split and `tracklet` agree.

    Args:
        root: The manifest, or a folder that holds manifest.csv or manifest.parquet.
        strict: Raise if there is a problem; otherwise list it in `problems` and leave the rows out.
        follow_links: Also take images that symbolic links put outside the manifest's folder.

    Returns:
        A `TrackletTable` if the column `tracklet` is filled, an `ImageTable` otherwise. `roles` is
        None if no row is a query or of the gallery.

    Raises:
        RuntimeError: A Parquet file without pyarrow.
        DatasetError: There is no manifest, it is unreadable, lacks a required column, or has no
            usable row; or, if strict: a cell is no value of its column, a path leaves the
            manifest's folder, by itself or through a link, is listed twice or does not exist, an
            identity is in two of train, val and test, a training identity has images of one
            modality only, or there are queries without a gallery.
    """
    file = _manifest_file(Path(root))
    findings = Findings()
    cells = read_cells(file, findings)
    persons, names = _numbers(cells, "person_id", findings)
    is_video = any(cells.columns.get("tracklet", ()))
    rows = _read_rows(
        cells, persons, findings, is_video=is_video, follow_links=follow_links
    )
    if not rows:
        raise DatasetError(
            "\n".join([f"{file}: the manifest must list at least one usable image, got none.",
                       *findings.problems])
        )  # fmt: skip
    splits = _splits(rows)
    _check_splits(file, splits, names, findings)
    table = _make_table(file.parent, rows, splits)
    _check_modalities(file, table, names, findings)
    _check_roles(file, table, findings)
    table = findings.finish(table, strict=strict)
    if not is_video:
        return table
    runs = [row.run for row in rows]
    start = [n for n, run in enumerate(runs) if n == 0 or runs[n - 1] != run]
    return TrackletTable(
        frames=table,
        start=np.asarray(start, np.int64),
        length=np.diff([*start, len(rows)]).astype(np.int64),
    )


def _manifest_file(root: Path) -> Path:
    """The manifest that a root names."""
    if root.is_file():
        return root
    here = [root / name for name in MANIFESTS if (root / name).is_file()]
    if len(here) == 1:
        return here[0]
    got = "both" if here else "a folder without one" if root.is_dir() else "no such file"
    raise DatasetError(
        f"{root}: the data root must be a manifest or a folder with {' or '.join(MANIFESTS)}, got "
        f"{got}. Check data.root; it may name the file itself."
    )


def _read_rows(
    cells: Cells,
    persons: Sequence[int | None],
    findings: Findings,
    *,
    is_video: bool,
    follow_links: bool,
) -> list[_Row]:
    """The usable rows, sorted; every other one is part of a problem."""
    paths = cells.parse("path", _inner_path, "be a path below the manifest's folder", findings)
    modality = cells.parse(
        "modality", lambda text: MODALITIES.get(text.lower()),
        f"be one of {', '.join(MODALITIES)}", findings,
    )  # fmt: skip
    words = cells.parse(
        "split", lambda text: text.lower() if text.lower() in SPLITS else None,
        f"be one of {', '.join(SPLITS)}", findings,
    )  # fmt: skip
    junk = [n for n, person in enumerate(persons)
            if person == JUNK and words[n] not in ("gallery", None)]  # fmt: skip
    cells.report("person_id", junk, "be -1, which is junk, in the gallery only", findings)
    cameras: Sequence[int | None] = [UNKNOWN_CAMERA] * len(cells)
    if "camera_id" in cells.columns:
        cameras, _ = _numbers(cells, "camera_id", findings)
    tracklets: Sequence[tuple[str, int, str] | None] = [("", 0, "")] * len(cells)
    frames: Sequence[int | None] = [0] * len(cells)
    if is_video:
        tracklets, frames = _tracks(cells, findings)
    columns: tuple[Sequence[Any], ...] = (
        persons, cameras, modality, words, tracklets, frames, paths
    )  # fmt: skip
    whole = [n for n, row in enumerate(zip(*columns, strict=True)) if None not in row]
    kept = sorted(set(whole).difference(junk))
    usable = _unique_files(
        cells, cast(Sequence[str], paths), kept, findings, follow_links=follow_links
    )
    rows = [_Row(*(column[n] for column in columns)) for n in usable]
    if is_video and "frame" in cells.columns:
        _check_frames(cells.file, rows, findings)
    return sorted(rows)


def _inner_path(text: str) -> str | None:
    """The path in normal form with forward slashes; None if it is empty or leads outside.

    Control characters, NUL among them, stand in no name of an image and would garble messages.
    """
    if _CONTROL.search(text):
        return None
    path = posixpath.normpath(text.replace("\\", "/")) if text else ".."
    is_outside = path.startswith("/") or path.split("/")[0] == ".." or re.match(r"[A-Za-z]:", path)
    return None if is_outside or path == "." else path


def _unique_files(
    cells: Cells,
    paths: Sequence[str],
    rows: Sequence[int],
    findings: Findings,
    *,
    follow_links: bool,
) -> list[int]:
    """Those of `rows` whose file exists, in the manifest's folder, and was not listed before."""
    first: dict[str, int] = {}
    again = []
    for row in rows:
        if first.setdefault(paths[row], row) != row:
            again.append(f"{paths[row]} in {cells.place(first[paths[row]])} and {cells.place(row)}")
    if again:
        findings.problems.append(
            f"{cells.file}: every image must be listed once, got {len(again)} repeated: "
            f"{name_some(again, 3)}. Remove the further {cells.unit}s."
        )
    present = existing(
        cells.file.parent, first, cells.file, findings, follow_links=follow_links
    )
    return [row for path, row in first.items() if path in present]


def _numbers(
    cells: Cells, name: str, findings: Findings
) -> tuple[list[int | None], dict[int, str]]:
    """A column of ids as numbers, None where one is unusable, and number -> text if it is text.

    An empty camera is unknown, an empty person unusable.
    """
    texts = cells.columns[name]
    given = sorted({text for text in texts if text})
    integers = {text: int(text.split(".")[0]) for text in given if _INTEGER.fullmatch(text)}
    if len(integers) == len(given):
        table, names = integers, {}
        _check_spelling(cells, name, integers, findings)
    else:
        table = {text: number for number, text in enumerate(given, start=1)}
        names = {number: text for text, number in table.items()}
        if integers:
            findings.problems.append(
                f"{cells.file}: {name} must be an integer in every {cells.unit} or in none, got "
                f"{len(integers)} integers and {len(given) - len(integers)} texts: "
                f"{name_some([t for t in given if t not in integers], 3)}. Correct them, or write "
                "all as texts."
            )
        else:
            some = (f"{number} = {text}" for number, text in names.items())
            findings.warnings.append(
                f"{cells.file}: {name} is text, numbered in sorted order: {name_some(some)}."
            )
    if name == "camera_id":
        table = {"": UNKNOWN_CAMERA, **table}
    numbers = [table.get(text) for text in texts]
    numbers = [None if number is None or number < -1 else number for number in numbers]
    bad = [row for row, number in enumerate(numbers) if number is None]
    cells.report(name, bad, "be an integer from 0, or a name", findings)
    return numbers, names


def _check_spelling(
    cells: Cells, name: str, integers: Mapping[str, int], findings: Findings
) -> None:
    spelled: dict[int, list[str]] = {}
    for text, number in integers.items():
        spelled.setdefault(number, []).append(text)
    torn = [" and ".join(texts) for texts in spelled.values() if len(texts) > 1]
    if torn:
        findings.problems.append(
            f"{cells.file}: {name} must write each number in one way, got {name_some(torn, 3)}. "
            "Write equal ids equally, and different ones as names."
        )


def _tracks(
    cells: Cells, findings: Findings
) -> tuple[list[tuple[str, int, str] | None], list[int | None]]:
    """Tracklet, as a key that sorts T2 before T10, and position in it; None where unusable."""
    tracklets = cells.parse(
        "tracklet", _sorting_key, "be given for every frame or for none", findings
    )
    if "frame" not in cells.columns:
        return tracklets, list(range(len(cells)))
    return tracklets, cells.parse(
        "frame", lambda text: int(text.split(".")[0]) if _INTEGER.fullmatch(text) else None,
        "be an integer", findings,
    )  # fmt: skip


def _sorting_key(text: str) -> tuple[str, int, str] | None:
    if not text:
        return None
    number = re.search(r"[0-9]{1,18}$", text)
    return (text[: number.start()], int(number[0]), text) if number else (text, -1, text)


def _check_frames(file: Path, rows: Sequence[_Row], findings: Findings) -> None:
    seen: dict[tuple[Any, ...], str] = {}
    again = [
        f"{row.frame} of {row.path} and {seen[key]}"
        for row in rows
        if seen.setdefault(key := (row.run, row.frame), row.path) != row.path
    ]
    if again:
        findings.problems.append(
            f"{file}: frame must differ within a tracklet, got {len(again)} repeated: "
            f"{name_some(again, 3)}. Number the frames, or name the tracklets differently."
        )


def _splits(rows: Sequence[_Row]) -> dict[str, np.ndarray]:
    people: dict[str, set[int]] = {"train": set(), "val": set(), "test": set()}
    for row in rows:
        people[SPLITS[row.word][0]].add(row.person)
    return {split: np.asarray(sorted(ids), np.int64) for split, ids in people.items()}


def _make_table(root: Path, rows: Sequence[_Row], splits: dict[str, np.ndarray]) -> ImageTable:
    columns = zip(*((r.person, r.camera, r.modality, SPLITS[r.word][1]) for r in rows), strict=True)
    people, cameras, modality, roles = (np.asarray(column, np.int64) for column in columns)
    return ImageTable(
        root=root,
        paths=tuple(row.path for row in rows),
        person_ids=people,
        camera_ids=cameras,
        modality=modality,
        image_indices=count_up(people, cameras, modality),
        splits=splits,
        roles=roles if (roles != NO_ROLE).any() else None,
    )


def _check_splits(
    file: Path, splits: dict[str, np.ndarray], names: Mapping[int, str], findings: Findings
) -> None:
    remedy = "Give all of its images one split; query, gallery and test are one."
    findings.problems += overlap_problems(file, splits, remedy, names)
    for split in ("train", "test"):
        if not splits[split].size:
            findings.warnings.append(f"{file}: there are no {split} identities.")


def _check_modalities(
    file: Path, table: ImageTable, names: Mapping[int, str], findings: Findings
) -> None:
    for split in ("train", "val", "test"):
        for modality, ids in table.lacking_modality(split).items():
            people = [names.get(i, i) for i in ids if i != JUNK]
            word = MODALITY_NAMES[modality]
            if people and split == "train":
                findings.problems.append(
                    f"{file}: every train identity must have visible and infrared images, got "
                    f"{len(people)} without {word} images: {name_some(people)}. Add images, or "
                    "remove the rows of these persons."
                )
            elif people:
                findings.warnings.append(
                    f"{file}: {len(people)} {split} identities have no {word} image: "
                    f"{name_some(people)}. They give queries without a match, or none at all."
                )


def _check_roles(file: Path, table: ImageTable, findings: Findings) -> None:
    if table.roles is None:
        return
    for role, word, other in ((QUERY, "query", "gallery"), (GALLERY, "gallery", "query")):
        if not (table.roles == role).any():
            findings.problems.append(
                f"{file}: split must be {word} in some rows where it is {other} in others, got "
                f"none. Name both, or write test where the protocol draws them."
            )
