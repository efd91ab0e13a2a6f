"""Reader of BUPTCampus: tracklets of data_paths.json, chosen by train, query and gallery lists."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vireid_fast.data.datasets.findings import (
    Findings,
    existing,
    modality_findings,
    overlap_problems,
    require_root,
)
from vireid_fast.data.datasets.tracks import (
    NO_PARTNER,
    NO_ROLE,
    Track,
    build_tracklets,
    ids_of,
    read_lines,
    report_lines,
)
from vireid_fast.data.table import (
    GALLERY,
    INFRARED,
    MODALITY_NAMES,
    QUERY,
    VISIBLE,
    DatasetError,
    name_some,
)
from vireid_fast.data.tracklets import TrackletTable

# dyhBUPT/BUPTCampus@db1f179 `utils.py` numbers them from 0.
CAMERAS = {"LS3": 1, "G25": 2, "CQ1": 3, "W4": 4, "TSG1": 5, "TSG2": 6}
MODALITIES = {"RGB": VISIBLE, "IR": INFRARED}
PAIR = "RGB/IR"
PATHS, PICTURES = "data_paths.json", "DATA"
# List -> its file, and the role of its tracklets.
LISTS = {
    "train": ("train.txt", NO_ROLE),
    "auxiliary": ("train_auxiliary.txt", NO_ROLE),
    "query": ("query.txt", QUERY),
    "gallery": ("gallery.txt", GALLERY),
}
_RESTORE = "Restore the lists from the original archive."


def read_bupt_campus(root: str | Path, *, strict: bool = True) -> TrackletTable:
    """List the tracklets of BUPTCampus.

    Lines `person modality camera tracklet` of train.txt, train_auxiliary.txt, query.txt and
    gallery.txt choose tracklets of data_paths.json, {person: {"RGB" | "IR": {camera: {tracklet:
    paths below DATA}}}}. A line of the two training lists has the modality RGB/IR and is a pair of
    tracklets, pixel by pixel, which are partners. Rows are ordered as the lists, in the order
    above, the visible one of a pair first. What is in no list is left out, as are the FakeIR
    pictures. A tracklet that is in the query and in the gallery list has two rows.

    Args:
        root: Folder that holds data_paths.json, or its folder DATA, as the public code wants it.
        strict: Raise if there is a problem; otherwise list it in `problems` and leave the lines
            and frames concerned out.

    Returns:
        The table, with a split "auxiliary" and no validation identities. Roles are 1 query, 0
        gallery, -1 in training. Cameras LS3, G25, CQ1, W4, TSG1, TSG2 are 1 to 6, for both
        modalities.

    Raises:
        DatasetError: The root or data_paths.json is missing or unusable, or there is no usable
            tracklet; or, if strict: a list other than the auxiliary one is missing or empty, a line
            does not have its form, is repeated, or names a tracklet that data_paths.json does not
            hold, a frame is missing, or an identity is in two of train, auxiliary and test.
    """
    lists, pictures = _places(require_root(root, f"{PICTURES}, {PATHS} and the lists"))
    listing = _read_listing(lists / PATHS)
    findings = Findings()
    tracks, people = _read_lists(lists, listing, pictures, findings)
    findings.require_images(
        tracks, lists, f"tracklets in {PICTURES}, listed in {PATHS}, train.txt, query.txt, ..."
    )
    splits = {
        "train": people["train"],
        "val": ids_of(()),
        "test": np.union1d(people["query"], people["gallery"]),
        "auxiliary": people["auxiliary"],
    }
    findings.problems += overlap_problems(lists, splits, _RESTORE)
    _warn_of_pairs(lists / PATHS, tracks, findings)
    _warn_of_queries(lists, tracks, findings)
    paths = (path for track in tracks for path in track.paths)
    present = existing(lists, paths, lists / PATHS, findings)
    table = build_tracklets(lists, tracks, splits, present)
    modality_findings(table.frames, findings)
    return replace(table, frames=findings.finish(table.frames, strict=strict))


def _places(root: Path) -> tuple[Path, str]:
    """Folder of the lists, and what comes before the paths of data_paths.json below it."""
    if (root / PATHS).is_file():
        return root, f"{PICTURES}/" if (root / PICTURES).is_dir() else ""
    root = Path(os.path.abspath(root))
    if (root.parent / PATHS).is_file():
        return root.parent, f"{root.name}/"
    raise DatasetError(
        f"{root}: the data root must hold {PATHS} beside its folder {PICTURES}, got none, nor one "
        "above it. Check data.root."
    )


def _read_listing(file: Path) -> dict[str, Any]:
    try:
        listing = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{file}: the list of paths must be readable JSON, got {error}. Restore it from the "
            "original archive."
        ) from error
    if not isinstance(listing, dict):
        raise DatasetError(
            f"{file}: the list of paths must be an object of persons, got "
            f"{type(listing).__name__}. Restore it from the original archive."
        )
    return listing


def _read_lists(
    lists: Path, listing: dict[str, Any], pictures: str, findings: Findings
) -> tuple[list[Track], dict[str, np.ndarray]]:
    """The usable tracklets of all lists, and the identities of each list."""
    tracks: list[Track] = []
    people: dict[str, np.ndarray] = {}
    for name, (file, role) in LISTS.items():
        lines = _read_lines(lists / file, name, findings)
        own = _read_list(lists / file, lines, role, listing, pictures, findings)
        people[name] = ids_of(own)
        offset = len(tracks)
        tracks += [
            track if track.partner == NO_PARTNER
            else track._replace(partner=offset + track.partner)
            for track in own
        ]  # fmt: skip
    return tracks, people


def _read_lines(file: Path, name: str, findings: Findings) -> list[str]:
    """Lines of a list; without auxiliary identities a method can do."""
    own = Findings()
    lines = read_lines(file, own)
    if name == "auxiliary":
        findings.warnings += own.problems
    else:
        findings.problems += own.problems
    return lines


def _read_list(
    file: Path,
    lines: Sequence[str],
    role: int,
    listing: dict[str, Any],
    pictures: str,
    findings: Findings,
) -> list[Track]:
    """Usable tracklets of one list; partners are counted from the first of them."""
    words = (PAIR,) if role == NO_ROLE else tuple(MODALITIES)
    tracks: list[Track] = []
    seen: set[tuple[str, ...]] = set()
    malformed, repeated, absent = [], [], []
    for number, text in enumerate(lines, start=1):
        cells = tuple(text.split())
        if not _is_line(cells, words):
            malformed.append((number, repr(text)))
            continue
        if cells in seen:
            repeated.append((number, repr(text)))
            continue
        seen.add(cells)
        person, modality, camera, tracklet = cells
        # The visible one first: MODALITIES is in this order.
        kinds = list(MODALITIES) if modality == PAIR else [modality]
        found = [_frames(listing, person, kind, camera, tracklet) for kind in kinds]
        if not all(found):
            absent.append((number, repr(text)))
            continue
        partners = [len(tracks) + 1, len(tracks)] if modality == PAIR else [NO_PARTNER]
        tracks += [
            Track(int(person), CAMERAS[camera], MODALITIES[kind], role,
                  [pictures + path for path in paths], partner)
            for kind, paths, partner in zip(kinds, found, partners, strict=True)
        ]  # fmt: skip
    form = f"every line must be `person {' or '.join(words)} camera tracklet`"
    report_lines(file, f"{form}, camera one of {', '.join(CAMERAS)}", malformed, _RESTORE, findings)
    report_lines(file, "every tracklet must be listed once", repeated, _RESTORE, findings)
    report_lines(
        file, f"every line must name a tracklet of {PATHS} with frames", absent, _RESTORE, findings
    )
    return tracks


def _is_line(cells: tuple[str, ...], modalities: Sequence[str]) -> bool:
    return (
        len(cells) == 4
        and re.fullmatch(r"[0-9]{1,18}", cells[0]) is not None
        and cells[1] in modalities
        and cells[2] in CAMERAS
    )


def _frames(listing: Any, *keys: str) -> list[str]:
    """Paths of one tracklet with forward slashes; none if they are missing or lead outside."""
    for key in keys:
        listing = listing.get(key) if isinstance(listing, dict) else None
    if not isinstance(listing, list) or not all(isinstance(path, str) for path in listing):
        return []
    paths = [path.replace("\\", "/") for path in listing]
    is_inside = all(not path.startswith("/") and ".." not in path.split("/") for path in paths)
    return paths if is_inside else []


def _warn_of_pairs(file: Path, tracks: Sequence[Track], findings: Findings) -> None:
    """Pairs that cannot be aligned from the first frame to the last."""
    uneven = [
        f"identity {track.person}, camera {track.camera}"
        for track in tracks
        if track.modality == VISIBLE
        and track.partner != NO_PARTNER
        and len(track.paths) != len(tracks[track.partner].paths)
    ]
    if uneven:
        findings.warnings.append(
            f"{file}: {len(uneven)} aligned pairs have more frames in one modality: "
            f"{name_some(uneven, 4)}."
        )


def _warn_of_queries(lists: Path, tracks: Sequence[Track], findings: Findings) -> None:
    """Queries that are in the gallery too, or have no match there."""
    gallery = [track for track in tracks if track.role == GALLERY]
    held = {(track.person, track.modality, track.camera, track.paths[0]) for track in gallery}
    reached = {(track.person, track.modality) for track in gallery}
    queries = [track for track in tracks if track.role == QUERY]
    both = [
        track.paths[0] for track in queries
        if (track.person, track.modality, track.camera, track.paths[0]) in held
    ]  # fmt: skip
    if both:
        findings.warnings.append(
            f"{lists}: {len(both)} tracklets are in {LISTS['query'][0]} and in "
            f"{LISTS['gallery'][0]}, such as that of {both[0]}."
        )
    for modality, word in enumerate(MODALITY_NAMES):
        alone = [
            track.person for track in queries
            if track.modality == modality and (track.person, 1 - modality) not in reached
        ]  # fmt: skip
        if alone:
            findings.warnings.append(
                f"{lists / LISTS['query'][0]}: {len(alone)} {word} queries have no "
                f"{MODALITY_NAMES[1 - modality]} match in the gallery: identities "
                f"{name_some(alone)}. They do not count."
            )
