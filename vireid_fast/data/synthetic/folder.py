"""A folder of a synthetic set: its marker file, and the protection of folders that are not ours.

A set is drawn in a hidden folder that gets its name when it is complete; until then an earlier one
stays. The marker synth.json holds the parameters, so an equal call finds that nothing is to be
done.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from vireid_fast._files import atomic_folder, remove_abandoned
from vireid_fast._locks import exclusive, remove_unheld
from vireid_fast.data.synthetic.parameters import Parameters

MARKER = "synth.json"
UNFINISHED = "synth.json.unfinished"
"""What earlier versions of the package left in a folder while they drew there."""


@dataclass(frozen=True)
class Contents:
    """What the writer of a layout may have written; everything else in a folder is foreign.

    Attributes:
        pictures: Names, or shell patterns, of the top folders that hold pictures.
        suffix: Suffix of the pictures.
        files: Other files, relative to the root, with forward slashes.
    """

    pictures: tuple[str, ...]
    suffix: str = ".jpg"
    files: tuple[str, ...] = ()

    def owns(self, path: Path, root: Path) -> bool:
        """Whether the writer can have made this file or folder below `root`."""
        inner = path.relative_to(root)
        is_picture = any(fnmatchcase(inner.parts[0], name) for name in self.pictures)
        if path.is_dir():
            return is_picture or any(inner in PurePath(file).parents for file in self.files)
        known = inner.as_posix() in (*self.files, MARKER, UNFINISHED)
        return known or (is_picture and path.suffix == self.suffix)


def write_set(
    root: str | Path, parameters: Parameters, contents: Contents, draw: Callable[[Path], None]
) -> bool:
    """Write a set unless the same one is there.

    Args:
        root: Folder to create; it may exist if empty or an earlier set of this layout.
        parameters: Everything that decides the content.
        contents: What the layout consists of.
        draw: Writes the pictures and lists into the empty folder that it is given.

    Returns:
        True if the set was written, False if the same set was already there.

    Raises:
        FileExistsError: `root` holds something else, which is left untouched.
        InUseError: Another process is drawing there.
    """
    root = Path(root)
    text = json.dumps(asdict(parameters), indent=2) + "\n"
    root = root.resolve()
    # The folder is replaced as a whole, so the lock lies beside it.
    lock = root.with_name(f".{root.name}.lock")
    if _holds_same_set(root, text, contents):
        # A writer that was killed in its last moments has left these.
        remove_abandoned(root)
        remove_unheld(lock)
        return False
    with exclusive(root.parent, "synth", name=lock.name, held=root):
        # Another process may have drawn it meanwhile.
        if _holds_same_set(root, text, contents):
            return False
        with atomic_folder(root) as drawn:
            draw(drawn)
            (drawn / MARKER).write_text(text, encoding="utf-8")
    return True


def is_synthetic(root: str | Path) -> bool:
    """Whether `root` holds a finished synthetic set."""
    return (Path(root) / MARKER).is_file()


def _holds_same_set(root: Path, text: str, contents: Contents) -> bool:
    """Whether `root` is a finished set with this marker; raises if it is foreign."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise FileExistsError(f"{root}: is no folder. Choose another output folder.")
    entries = {entry.name for entry in root.iterdir()}
    if not entries:
        return False
    foreign = _first_foreign(root, contents)
    if foreign is None and not entries & {MARKER, UNFINISHED}:
        foreign = min(entries)
    if foreign is not None:
        raise FileExistsError(
            f"{root}: is not empty and is no synthetic set of ours in this layout (it holds "
            f"{foreign!r}). Choose another output folder; nothing was changed."
        )
    marker = root / MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == text


def _first_foreign(root: Path, contents: Contents) -> str | None:
    """A file under `root` that the writer cannot have written; None if there is none."""
    for path in root.rglob("*"):
        inner = path.relative_to(root)
        # Hidden folders are caches of the pictures and are drawn from them again.
        if not inner.parts[0].startswith(".") and not contents.owns(path, root):
            return inner.as_posix()
    return None

