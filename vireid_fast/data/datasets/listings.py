"""Where images are listed: folders of identities, and index files of lines `<path> <label>`."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vireid_fast.data.datasets.findings import Findings, is_image
from vireid_fast.data.table import name_some

# More digits do not fit the 64 bits of an id.
_NUMBER = re.compile(r"[0-9]{1,18}")


class Entry(NamedTuple):
    """A line of an index file: an image, its identity and the label that the file gives it."""

    path: str
    identity: int
    label: int


def list_identities(root: Path, folder: Path, findings: Findings) -> list[tuple[int, str]]:
    """Images below a folder whose sub-folders are named by identity numbers.

    Args:
        root: Folder of the data set.
        folder: Folder to list, below `root`.
        findings: Receives what was ignored, and two folders of one identity.

    Returns:
        (identity, path relative to `root`), sorted by folder name and file name.
    """
    files: list[tuple[int, str]] = []
    names: dict[int, str] = {}
    ignored, empty = [], []
    for inner in sorted(folder.iterdir()):
        if inner.name.startswith("."):
            continue
        if not (inner.is_dir() and _NUMBER.fullmatch(inner.name)):
            ignored.append(inner.name)
            continue
        identity = int(inner.name)
        if identity in names:
            findings.problems.append(
                f"{folder}: folders must name different identities, got "
                f"{names[identity]} and {inner.name}. Merge or rename one of them."
            )
            continue
        names[identity] = inner.name
        images = sorted(file.name for file in inner.iterdir() if is_image(file))
        if not images:
            empty.append(inner.name)
        place = inner.relative_to(root).as_posix()
        files += [(identity, f"{place}/{image}") for image in images]
    if ignored:
        findings.warnings.append(
            f"{folder}: ignored what is not a folder named by an identity number: "
            f"{name_some(ignored)}."
        )
    if empty:
        findings.warnings.append(
            f"{folder}: {len(empty)} identity folders hold no image: {name_some(empty)}."
        )
    return files


def read_index(path: Path, foreign: Iterable[str], findings: Findings) -> list[Entry]:
    """Lines `<relative path> <label>` of an index file; the image's folder names its identity.

    A file that is missing or empty, and lines of another form, are problems. Repeated files are
    kept once.

    Args:
        path: The index file.
        foreign: Top folders that an image of this list cannot lie in: those of the other modality.
        findings: Receives problems and warnings.

    Returns:
        The good lines, in their order.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        findings.problems.append(
            f"{path}: the index file is missing. Restore it from the original archive."
        )
        return []
    except (OSError, UnicodeDecodeError) as error:
        findings.problems.append(f"{path}: the index file must be a readable text, got {error}.")
        return []
    numbered = [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]
    parsed = [(n, line, _parse(line, frozenset(foreign))) for n, line in numbered]
    bad = [f"{line!r} in line {n}" for n, line, entry in parsed if entry is None]
    if bad:
        findings.problems.append(
            f"{path}: every line must be <folder>/<identity number>/<image> <label>, with an "
            f"image of the list's modality below the data root, got {name_some(bad, 3)}. "
            "Repair the lines."
        )
    elif not numbered:
        findings.problems.append(
            f"{path}: the index file holds no line. Restore it from the original archive."
        )
    entries = [entry for _, _, entry in parsed if entry is not None]
    unique = list(dict.fromkeys(entries))
    if len(unique) < len(entries):
        findings.warnings.append(
            f"{path}: {len(entries) - len(unique)} lines are repeated; each image counts once."
        )
    return unique


def _parse(line: str, foreign: frozenset[str]) -> Entry | None:
    words = line.replace("\\", "/").rsplit(maxsplit=1)
    if len(words) < 2 or not _NUMBER.fullmatch(words[1]):
        return None
    path = PurePosixPath(words[0])
    parts = path.parts
    is_inside = len(parts) > 2 and not path.is_absolute() and ".." not in parts
    if not is_inside or parts[0] in foreign or not _NUMBER.fullmatch(parts[-2]):
        return None
    return Entry(path.as_posix(), int(parts[-2]), int(words[1]))


def label_problems(where: object, entries: Iterable[Entry]) -> Iterator[str]:
    """Sentences unless labels and identities correspond one to one.

    Args:
        where: The index files, for the message.
        entries: Lines of all files that share their labels.
    """
    labels: dict[int, set[int]] = {}
    identities: dict[int, set[int]] = {}
    for entry in entries:
        labels.setdefault(entry.identity, set()).add(entry.label)
        identities.setdefault(entry.label, set()).add(entry.identity)
    for of, kind, others, groups in (
        ("identity", "label", "labels", labels), ("label", "identity", "identities", identities),
    ):  # fmt: skip
        torn = {key: sorted(values) for key, values in groups.items() if len(values) > 1}
        if torn:
            some = [f"{of} {key} with {others} {name_some(torn[key], 3)}" for key in sorted(torn)]
            yield (
                f"{where}: every {of} must have one {kind}, got {len(torn)} with several: "
                f"{name_some(some, 3)}. Restore the index files from the original archive."
            )
