"""What the readers share: findings, the checks on splits and files, and lists of numbers.

A strict reader raises everything it found at once; a lenient one returns it with the table, so that
`check-data` can name all of it.
"""

import errno
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from vireid_fast.data.table import (
    MODALITY_NAMES,
    DatasetError,
    ImageTable,
    name_some,
    untrainable,
)

# A list may name anything, also what no file system can hold.
_NO_SUCH_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass
class Findings:
    """What is wrong with a data set (`problems`), and what is only odd (`warnings`), in words."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def finish(self, table: ImageTable, *, strict: bool) -> ImageTable:
        """The table with these findings.

        Raises:
            DatasetError: `strict`, and there is a problem; the message names all of them.
        """
        if strict and self.problems:
            raise DatasetError("\n".join(self.problems))
        return replace(table, problems=tuple(self.problems), warnings=tuple(self.warnings))

    def require_images(self, found: Sequence[object], root: Path, expected: str) -> None:
        """Raise DatasetError, with all findings, unless something was found in `root`."""
        if not found:
            raise DatasetError(
                "\n".join(
                    [
                        f"{root}: the data root must hold {expected}, got none. Check data.root "
                        "and that the archive is unpacked.",
                        *self.problems,
                        *self.warnings,
                    ]
                )
            )


def require_root(root: str | Path, contents: str) -> Path:
    """`root` as a Path; raises DatasetError unless it is a folder, which should have `contents`."""
    root = Path(root)
    if not root.is_dir():
        got = "a file" if root.exists() else "no such folder"
        raise DatasetError(
            f"{root}: the data root must be a folder with {contents}, got {got}. Check data.root."
        )
    return root


def is_image(path: Path) -> bool:
    """Whether a file is a picture by its name; hidden files are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def existing(
    root: Path,
    paths: Iterable[str],
    source: object,
    findings: Findings,
    *,
    follow_links: bool = True,
) -> set[str]:
    """Those of `paths`, relative to `root`, that are files; the others are one problem.

    Each folder is listed once: a video set has many frames in few folders.

    Args:
        root: Folder of the data set.
        paths: Files to look for, with forward slashes.
        source: What lists them, for the message.
        findings: Receives the problems.
        follow_links: False refuses files that links, their own or of a folder, put outside `root`.
    """
    paths = list(dict.fromkeys(paths))
    inside = None if follow_links else os.path.realpath(root)
    folders: dict[str, dict[str, bool]] = {}
    present, missing, outside = set(), [], []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in folders:
            folders[folder] = _files(root / folder, inside)
        # True, False, or None where there is no such file.
        leads_out = folders[folder].get(name)
        if leads_out is None:
            missing.append(path)
        elif leads_out:
            outside.append(path)
        else:
            present.add(path)
    if missing:
        findings.problems.append(
            f"{source}: every listed image must exist, got {len(missing)} of {len(paths)} that do "
            f"not: {_name_printably(missing)}. Restore them in {root}, or remove their lines."
        )
    if outside:
        findings.problems.append(
            f"{source}: every listed image must lie in {root} when links are followed, got "
            f"{len(outside)} that do not: {_name_printably(outside)}. Copy them there, or, if you "
            "trust the list, set data.follow_links=true (check-data: --follow-links)."
        )
    return present


def _name_printably(paths: Sequence[str]) -> str:
    """Some of the paths; a list may name what would move a terminal's cursor."""
    return name_some([path if path.isprintable() else repr(path) for path in paths], 4)


def _files(folder: Path, inside: str | None) -> dict[str, bool]:
    """Names of the files in a folder, and whether each really lies outside of `inside`.

    None of `inside` looks at no link. There are no names where there is no such folder.
    """
    try:
        with os.scandir(folder) as entries:
            files = [entry for entry in entries if _is_file(entry)]
    except OSError as error:
        if error.errno in _NO_SUCH_FOLDER:
            return {}
        raise
    except ValueError:
        # No folder has a name with a NUL character.
        return {}
    if inside is None:
        return dict.fromkeys((entry.name for entry in files), False)
    folder_is_out = not _is_below(os.path.realpath(folder), inside)
    return {
        entry.name: not _is_below(os.path.realpath(entry.path), inside)
        if entry.is_symlink()
        else folder_is_out
        for entry in files
    }


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    # A link that leads in a circle.
    except OSError:
        return False


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder


def overlap_problems(
    where: object,
    splits: dict[str, np.ndarray],
    remedy: str,
    names: Mapping[int, str] | None = None,
) -> list[str]:
    """One sentence for each two splits that share identities.

    Args:
        where: Folder or file that defines the splits.
        splits: Split -> identities.
        remedy: What to do about it.
        names: Identity -> its name, where the set has names.
    """
    problems = []
    for first, second in combinations(splits, 2):
        both = np.intersect1d(splits[first], splits[second]).tolist()
        if both:
            some = name_some((names or {}).get(identity, identity) for identity in both)
            problems.append(
                f"{where}: an identity must be in one split only, got {len(both)} "
                f"in {first} and {second}: {some}. {remedy}"
            )
    return problems


def absence_problems(table: ImageTable, lists: str) -> list[str]:
    """One sentence for each split whose list names identities without any image.

    Args:
        table: The data set.
        lists: File that lists the identities of a split, with "{split}" in place of its name.
    """
    problems = []
    for split, ids in table.splits.items():
        absent = np.setdiff1d(ids, table.person_ids)
        if absent.size:
            problems.append(
                f"{table.root}: every {split} identity must have images, got {absent.size} "
                f"without any: {name_some(absent)}. Restore their folders, or remove these ids "
                f"from {lists.format(split=split)}."
            )
    return problems


def modality_findings(table: ImageTable, findings: Findings) -> None:
    """Identities of one modality: a problem in training, an oddity in validation and test."""
    findings.problems += untrainable(table, "train")
    findings.warnings += [
        f"{table.root}: {len(ids)} {split} identities have no {MODALITY_NAMES[modality]} image: "
        f"{name_some(ids)}. They give queries without a match, or none at all."
        for split in ("val", "test")
        for modality, ids in table.lacking_modality(split).items()
        if ids
    ]


def parse_ids(path: Path) -> list[int]:
    """Numbers of a text file, separated by commas or white space.

    Raises:
        DatasetError: The file is no readable text, or an entry is no number.
    """
    try:
        words = re.split(r"[\s,]+", path.read_text(encoding="utf-8-sig").strip(" \t\r\n,"))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: the id list must be a readable text, got {error}.") from error
    for position, word in enumerate(words, start=1):
        # More digits do not fit the 64 bits of an id.
        if word and not re.fullmatch(r"[0-9]{1,18}", word):
            raise DatasetError(
                f"{path}: the id list must hold numbers separated by commas, got {word[:40]!r} as "
                f"entry {position}. Repair the list."
            )
    return [int(word) for word in words if word]


def count_up(*keys: np.ndarray) -> np.ndarray:
    """1-based position of each row among the rows with its keys, in their order.

    Args:
        keys: Columns whose equality groups the rows. Shape (N,) each.

    Returns:
        Shape (N,), int64.
    """
    seen: dict[tuple[int, ...], int] = {}
    positions = []
    for key in zip(*(column.tolist() for column in keys), strict=True):
        seen[key] = seen.get(key, 0) + 1
        positions.append(seen[key])
    return np.asarray(positions, np.int64)
