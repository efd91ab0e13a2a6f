"""Reader of LLCM: {vis,nir}/<identity>/<image>, test_{vis,nir}/cam<k>/<identity>/<image>, idx/*."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vireid_fast.data.datasets.findings import (
    Findings,
    absence_problems,
    count_up,
    existing,
    modality_findings,
    overlap_problems,
    parse_ids,
    require_root,
)
from vireid_fast.data.datasets.listings import Entry, label_problems, list_identities, read_index
from vireid_fast.data.table import (
    INFRARED,
    UNKNOWN_CAMERA,
    VISIBLE,
    DatasetError,
    ImageTable,
    name_some,
)

_WORDS = {VISIBLE: "vis", INFRARED: "nir"}


class _Row(NamedTuple):
    """One image, in the order in which rows are sorted."""

    identity: int
    camera: int
    modality: int
    path: str


def read_llcm(root: str | Path, *, strict: bool = True) -> ImageTable:
    """List the training and test images of LLCM.

    Training images are those of idx/train_vis.txt and idx/train_nir.txt. Test images are the files
    in test_vis/cam<k>/<identity> and test_nir/cam<k>/<identity>, the copies that the official code
    reads; where such a folder is absent, those of idx/test_vis.txt or idx/test_nir.txt with the
    camera of the file name, as in 0001_c01_s185535_f7010_nir.jpg. Test identities are those of
    idx/test_id.txt. Both modalities share the camera numbers 1 to 9. Rows are ordered by (identity,
    camera, modality, path), and `image_indices` count the sorted files of an identity, camera and
    modality, as the official gallery draw does. There are no validation identities.

    Args:
        root: Folder that holds vis, nir, test_vis, test_nir and idx.
        strict: Raise if there is a problem; otherwise list it in `ImageTable.problems`.

    Returns:
        The table; the camera of a training image whose name does not tell it is -1.

    Raises:
        DatasetError: The root is missing or holds no listed image; or, if strict: an index file is
            missing, empty or has lines that are no `<path> <label>`, a listed image is missing or
            its name does not tell the camera of a test image, labels and identities do not
            correspond, an identity is in train and test, a test identity has no image, or a
            training identity has images of one modality only.
    """
    root = require_root(root, "vis, nir, test_vis, test_nir and idx")
    findings = Findings()
    train = _read_lists(root, "train", _WORDS, findings)
    test = _read_test(root, findings)
    findings.require_images(
        [*train, *test], root, "images as vis/<identity>/<image>.jpg, listed in idx/train_vis.txt"
    )
    splits = {
        "train": np.unique(np.asarray([row.identity for row in train], np.int64)),
        "val": np.empty(0, np.int64),
        "test": _read_test_ids(root, findings),
    }
    held = np.unique(np.asarray([row.identity for row in test], np.int64))
    # An unlisted identity among the test images would still be trained on and seen in the test.
    findings.problems += overlap_problems(
        root,
        {"train": splits["train"], "test": np.union1d(splits["test"], held)},
        "Restore idx and the test folders from the archive.",
    )
    unlisted = np.setdiff1d(held, np.union1d(splits["test"], splits["train"]))
    if unlisted.size:
        findings.warnings.append(
            f"{root / 'idx' / 'test_id.txt'}: {unlisted.size} identities with test images are not "
            f"listed and not used: {name_some(unlisted)}."
        )
    table = _make_table(root, sorted({*train, *test}), splits)
    findings.problems += absence_problems(table, "idx/{split}_id.txt")
    modality_findings(table, findings)
    return findings.finish(table, strict=strict)


def _read_test(root: Path, findings: Findings) -> list[_Row]:
    """Test images: from the camera folders of a modality, or from its index file without them."""
    folders = {modality: root / f"test_{word}" for modality, word in _WORDS.items()}
    rows = [
        row
        for modality, folder in folders.items()
        if folder.is_dir()
        for row in _list_cameras(root, folder, modality, findings)
    ]
    listed = {m: word for m, word in _WORDS.items() if not folders[m].is_dir()}
    return rows + _read_lists(root, "test", listed, findings)


def _list_cameras(root: Path, folder: Path, modality: int, findings: Findings) -> list[_Row]:
    rows, ignored = [], []
    for inner in sorted(folder.iterdir()):
        match = re.fullmatch(r"cam0*([1-9][0-9]{0,17})", inner.name)
        if match and inner.is_dir():
            found = list_identities(root, inner, findings)
            rows += [_Row(identity, int(match[1]), modality, path) for identity, path in found]
        elif not inner.name.startswith("."):
            ignored.append(inner.name)
    if ignored:
        findings.warnings.append(
            f"{folder}: ignored what is not a camera folder: {name_some(ignored)}."
        )
    if not rows:
        findings.problems.append(
            f"{folder}: the folder must hold images as cam<k>/<identity>/<image>.jpg, got none. "
            "Restore it from the original archive, or remove it to use the index file."
        )
    return rows


def _read_lists(
    root: Path, part: str, words: dict[int, str], findings: Findings
) -> list[_Row]:
    """Existing images of the index files of some modalities."""
    rows: list[_Row] = []
    entries: list[Entry] = []
    for modality, word in words.items():
        source = root / "idx" / f"{part}_{word}.txt"
        other = _WORDS[1 - modality]
        listed = read_index(source, {other, f"test_{other}"}, findings)
        present = existing(root, (entry.path for entry in listed), source, findings)
        own = [
            _Row(entry.identity, _camera_of(entry.path), modality, entry.path)
            for entry in listed
            if entry.path in present
        ]
        _report_unknown_cameras(source, part, own, findings)
        rows += own
        entries += listed
    findings.problems += label_problems(root / "idx" / f"{part}_*.txt", entries)
    return rows


def _camera_of(path: str) -> int:
    """Camera of a file name; -1 if it does not tell."""
    match = re.match(r"[0-9]+_c0*([1-9][0-9]{0,17})_", path.rsplit("/", 1)[-1])
    return int(match[1]) if match else UNKNOWN_CAMERA


def _report_unknown_cameras(
    source: Path, part: str, rows: list[_Row], findings: Findings
) -> None:
    unknown = [row.path for row in rows if row.camera == UNKNOWN_CAMERA]
    if not unknown:
        return
    got = f"{len(unknown)} others: {name_some(unknown, 3)}"
    if part == "train":
        findings.warnings.append(f"{source}: no camera in the names of {got}.")
    else:
        findings.problems.append(
            f"{source}: names must tell the camera as in 0001_c01_s185535_f7010_nir.jpg, got "
            f"{got}. Restore the names, or the folders test_vis and test_nir."
        )


def _read_test_ids(root: Path, findings: Findings) -> np.ndarray:
    source = root / "idx" / "test_id.txt"
    ids: list[int] = []
    if not source.is_file():
        findings.problems.append(
            f"{source}: the id list is missing. Write the test identities into it, separated by "
            "commas."
        )
        return np.empty(0, np.int64)
    try:
        ids = parse_ids(source)
    except DatasetError as error:
        findings.problems.append(str(error))
        return np.empty(0, np.int64)
    if not ids:
        findings.problems.append(
            f"{source}: the id list holds no id. Write the test identities into it, separated by "
            "commas."
        )
    return np.unique(np.asarray(ids, np.int64))


def _make_table(root: Path, rows: list[_Row], splits: dict[str, np.ndarray]) -> ImageTable:
    person_ids, camera_ids, modality, paths = zip(*rows, strict=True)
    people, cameras, kinds = (np.asarray(c, np.int64) for c in (person_ids, camera_ids, modality))
    return ImageTable(
        root=root,
        paths=paths,
        person_ids=people,
        camera_ids=cameras,
        modality=kinds,
        image_indices=count_up(people, cameras, kinds),
        splits=splits,
    )
