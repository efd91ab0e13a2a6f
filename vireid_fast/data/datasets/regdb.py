"""Reader of RegDB: {Visible,Thermal}/<identity>/<image>, and the splits in idx."""

from pathlib import Path

import numpy as np

from vireid_fast._checks import require
from vireid_fast.data.datasets.findings import (
    Findings,
    count_up,
    existing,
    modality_findings,
    overlap_problems,
    require_root,
)
from vireid_fast.data.datasets.listings import Entry, label_problems, read_index
from vireid_fast.data.table import INFRARED, VISIBLE, ImageTable

NUM_SPLITS = 10
FOLDERS = {VISIBLE: "Visible", INFRARED: "Thermal"}
# RegDB has one pair of cameras, which it does not number.
CAMERAS = {VISIBLE: 1, INFRARED: 2}
_WORDS = {VISIBLE: "visible", INFRARED: "thermal"}
_PARTS = ("train", "test")


def read_regdb(root: str | Path, *, strict: bool = True, split: int = 1) -> ImageTable:
    """List the images of one of RegDB's ten train / test splits.

    Identities are the folder numbers 1 to 412, not the labels of the index files, which count the
    training and the test identities of each split from 0. Rows are ordered by (identity, modality,
    file name). There are no validation identities.

    Args:
        root: Folder that holds Visible, Thermal and idx.
        strict: Raise if there is a problem; otherwise list it in `ImageTable.problems`.
        split: Number of the split, 1 to 10. Each needs a model of its own: half of the identities
            of any other split are training identities of this one.

    Returns:
        The table; camera 1 is the visible and 2 the thermal one.

    Raises:
        ValueError: There is no such split.
        DatasetError: The root is missing or its index files list no image; or, if strict: an index
            file is missing, empty or has lines that are no `<path> <label>`, a listed image is
            missing, labels and identities do not correspond, an identity is in train and test, or a
            training identity has images of one modality only.
    """
    is_split = isinstance(split, int) and 1 <= split <= NUM_SPLITS
    require(is_split, "regdb", "split", f"be 1 to {NUM_SPLITS}", split)
    root = require_root(root, "Visible, Thermal and idx")
    findings = Findings()
    found = {part: _read_part(root, part, split, findings) for part in _PARTS}
    rows = sorted(row for part in found.values() for row in part)
    findings.require_images(
        rows, root, f"images as Visible/<identity>/<image>.bmp, listed in idx/*_{split}.txt"
    )
    splits = {
        part: np.unique(np.asarray([identity for identity, _, _ in found[part]], np.int64))
        if part in found
        else np.empty(0, np.int64)
        for part in ("train", "val", "test")
    }
    findings.problems += overlap_problems(
        f"{root / 'idx'}, split {split}", splits, "Restore the index files from the archive."
    )
    table = _make_table(root, list(dict.fromkeys(rows)), splits)
    modality_findings(table, findings)
    return findings.finish(table, strict=strict)


def _read_part(
    root: Path, part: str, split: int, findings: Findings
) -> list[tuple[int, int, str]]:
    """Existing images of the train or test half, as (identity, modality, path)."""
    rows: list[tuple[int, int, str]] = []
    entries: list[Entry] = []
    for modality, word in _WORDS.items():
        source = root / "idx" / f"{part}_{word}_{split}.txt"
        listed = read_index(source, {FOLDERS[1 - modality]}, findings)
        present = existing(root, (entry.path for entry in listed), source, findings)
        rows += [(e.identity, modality, e.path) for e in listed if e.path in present]
        entries += listed
    findings.problems += label_problems(root / "idx" / f"{part}_*_{split}.txt", entries)
    return rows


def _make_table(
    root: Path, rows: list[tuple[int, int, str]], splits: dict[str, np.ndarray]
) -> ImageTable:
    person_ids, modality, paths = zip(*rows, strict=True)
    people, kinds = np.asarray(person_ids, np.int64), np.asarray(modality, np.int64)
    return ImageTable(
        root=root,
        paths=paths,
        person_ids=people,
        camera_ids=np.where(kinds == VISIBLE, CAMERAS[VISIBLE], CAMERAS[INFRARED]),
        modality=kinds,
        image_indices=count_up(people, kinds),
        splits=splits,
    )
