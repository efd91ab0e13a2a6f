"""Reader of SYSU-MM01's layout: camK/<identity>/<image>, exp/{train,val,test}_id.{txt,mat}."""

from pathlib import Path

import numpy as np

from vireid_fast.data.datasets.findings import (
    Findings,
    absence_problems,
    count_up,
    modality_findings,
    overlap_problems,
    parse_ids,
    require_root,
)
from vireid_fast.data.datasets.listings import list_identities
from vireid_fast.data.matlab import read_variables
from vireid_fast.data.table import INFRARED, SPLITS, VISIBLE, DatasetError, ImageTable

VISIBLE_CAMERAS = (1, 2, 4, 5)
INFRARED_CAMERAS = (3, 6)


def read_sysu_layout(root: str | Path, *, strict: bool = True) -> ImageTable:
    """List the images of a data set in SYSU-MM01's layout.

    Rows are ordered by (identity, camera, file name), the order in which the de-facto protocol
    walks through the gallery. File names are sorted as text, and `image_indices` count the sorted
    files from 1, as `rand_perm_cam.mat` does. Hidden files and files without an image extension
    are ignored. Ids on disk that are in no split keep their rows.

    Args:
        root: Folder that holds cam1 ... cam6 and exp.
        strict: Raise if there is a problem; otherwise list it in `ImageTable.problems`, so that a
            checker can name all of them.

    Returns:
        The table. `warnings` names what was ignored.

    Raises:
        DatasetError: The root is missing or holds no image; or, if strict: camera folders or id
            lists are missing or empty, a list is no list of ids, an id is in two splits, an id of
            a split has no image, or a training identity has images of one modality only.
    """
    root = require_root(root, "cam1 ... cam6 and exp")
    findings = Findings()
    files = _list_cameras(root, findings)
    findings.require_images(files, root, "images as camK/<identity>/<image>.jpg")
    splits = {split: _read_split(root, split, findings) for split in SPLITS}
    table = _make_table(root, files, splits)
    remedy = "Remove them from one list."
    findings.problems += overlap_problems(root / "exp", splits, remedy)
    findings.problems += absence_problems(table, "exp/{split}_id.txt")
    modality_findings(table, findings)
    return findings.finish(table, strict=strict)


def _list_cameras(root: Path, findings: Findings) -> list[tuple[int, int, str]]:
    """All images as (identity, camera, relative path), sorted."""
    files: list[tuple[int, int, str]] = []
    for camera in sorted(VISIBLE_CAMERAS + INFRARED_CAMERAS):
        folder = root / f"cam{camera}"
        found = list_identities(root, folder, findings) if folder.is_dir() else []
        if not found:
            state = "holds no image" if folder.is_dir() else "is missing"
            findings.problems.append(
                f"{folder}: the camera folder {state}. Restore it from the original archive."
            )
        files += [(identity, camera, path) for identity, path in found]
    return sorted(files)


def _read_split(root: Path, split: str, findings: Findings) -> np.ndarray:
    """Ascending identities of one split; a missing or damaged list is a finding."""
    text, matlab = root / "exp" / f"{split}_id.txt", root / "exp" / f"{split}_id.mat"
    try:
        if text.is_file():
            source, ids = text, parse_ids(text)
        elif matlab.is_file():
            source, ids = matlab, _read_matlab_ids(matlab)
        else:
            source, ids = text, None
    except DatasetError as error:
        findings.problems.append(str(error))
        return np.empty(0, np.int64)
    if not ids:
        state = "is missing" if ids is None else "holds no id"
        line = f"{source}: the id list {state}."
        if split == "val":
            findings.warnings.append(f"{line} There are no validation identities.")
        else:
            findings.problems.append(
                f"{line} Write the {split} identities into it, separated by commas."
            )
    unique = np.unique(np.asarray(ids or [], np.int64))
    if ids and len(unique) < len(ids):
        findings.warnings.append(f"{source}: {len(ids) - len(unique)} ids are listed repeatedly.")
    return unique


def _read_matlab_ids(path: Path) -> list[int]:
    remedy = f"Write the ids into {path.with_suffix('.txt')}, separated by commas."
    try:
        content = read_variables(path)
    except (ValueError, OSError) as error:
        raise DatasetError(
            f"{path}: the id list must be a MATLAB file, got {error}. {remedy}"
        ) from error
    arrays = [value for value in content.values() if isinstance(value, np.ndarray)]
    if len(arrays) != 1 or len(content) != 1:
        raise DatasetError(
            f"{path}: the id list must hold one array of numbers, got {len(content)} variables. "
            f"{remedy}"
        )
    ids = arrays[0].ravel()
    is_id = (ids >= 0) & (ids < 1 << 53) & (ids == np.floor(ids))
    if not is_id.all():
        raise DatasetError(
            f"{path}: the id list must hold whole numbers from 0, got {ids[~is_id][0]}. {remedy}"
        )
    return [int(value) for value in ids]


def _make_table(
    root: Path, files: list[tuple[int, int, str]], splits: dict[str, np.ndarray]
) -> ImageTable:
    person_ids, camera_ids, paths = zip(*files, strict=True)
    people, cameras = np.asarray(person_ids, np.int64), np.asarray(camera_ids, np.int64)
    return ImageTable(
        root=root,
        paths=paths,
        person_ids=people,
        camera_ids=cameras,
        modality=np.where(np.isin(cameras, INFRARED_CAMERAS), INFRARED, VISIBLE),
        image_indices=count_up(people, cameras),
        splits=splits,
    )
