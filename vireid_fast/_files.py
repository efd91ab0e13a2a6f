"""Writing files so that a full disk or a killed process never damages an existing one."""

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vireid_fast._checks import WriteError
from vireid_fast._locks import CAN_LOCK, try_lock

# Of `renameat2`: swap two names in one step.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, own_folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it becomes `path` in one step.

    The file and then its folder are flushed to disk, so a reader finds either the old content or
    the whole new one, also after a power cut. If the block raises, the temporary file is removed
    and `path` stays as it was. A killed process leaves at most one hidden `.<name>.<random>.tmp`,
    which the next write of `path` removes. Missing parent folders are made, and a symbolic link is
    followed instead of being replaced.

    Args:
        path: File to create or replace.
        own_folder: Yield a path in a hidden folder of its own, for writers that make files beside
            the one that they are told to write, as safetensors does.

    Yields:
        Path of a new file, to be written by the caller; empty, or absent in its own folder. The
        result has the permissions that the umask allows, whatever the writer gave it.

    Raises:
        WriteError: The folder or the file cannot be written: no space, no permission, ...
        OSError: `path` is a folder, or leads through a file.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(
            f"atomic_write: path must be a file, got the folder {target}. Give a file name."
        )
    with _temporary(target, folder=own_folder) as temporary:
        # Of a folder the bits that let one look into it are left out.
        permissions = temporary.stat().st_mode & 0o666
        file = temporary / target.name if own_folder else temporary
        yield file
        if file.stat().st_mode & 0o777 != permissions:
            os.chmod(file, permissions)
        flush(file)
        os.replace(file, target)
        flush_folder(target.parent)
        if own_folder:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a hidden new folder beside `path`; on success it becomes `path` in one step.

    What holds for `atomic_write` holds for a whole folder: it appears complete or not at all, and
    an earlier one of that name stays until the new one stands in its place. (Where the file system
    cannot swap two names, a kill between two renames leaves the earlier folder as
    `.<name>.<random>.old`.)

    Args:
        path: Folder to create or replace.

    Yields:
        Path of an empty new folder. The caller flushes the files that it writes there.

    Raises:
        WriteError: The folder cannot be written.
        OSError: `path` is a file, or leads through one.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(
            f"atomic_folder: path must be a folder, got the file {target}. Give another name."
        )
    with _temporary(target, folder=True) as temporary:
        yield temporary
        flush_folder(temporary)
        if target.exists():
            _swap(temporary, target)
            flush_folder(target.parent)
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            os.replace(temporary, target)
            flush_folder(target.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line of text to a file; see `append_bytes`."""
    append_bytes(path, f"{line}\n".encode())


def append_bytes(path: Path, content: bytes) -> None:
    """Add to a file and flush it to disk; what cannot be written whole is taken back.

    A kill in the middle may leave a part, which readers skip.

    Raises:
        WriteError: The file cannot be written; it is as it was.
    """
    try:
        with open(path, "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            data = memoryview(content)
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(path)) from error


def refusal_in(error: Exception) -> OSError:
    """The refusal of the system that a library in Rust reports as "... (os error N)"."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    code = int(found[1]) if found else errno.EIO
    return OSError(code, os.strerror(code))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    # hashlib.file_digest is of Python 3.11.
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Force a file's content to disk."""
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(path: Path) -> None:
    """Force a folder's list of names to disk."""
    # Only POSIX can open a folder; elsewhere the replacement itself is all there is.
    if os.name == "posix":
        flush(path)


def remove_abandoned(target: Path) -> None:
    """Remove what killed writers of `target` left beside it; a live one keeps its own."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{8}\.tmp")
    with os.scandir(target.parent) as entries:
        found = [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]
    for path in found:
        with suppress(OSError):
            descriptor = _open_for_lock(path)
            try:
                if try_lock(descriptor):
                    _remove(path)
            finally:
                os.close(descriptor)


@contextmanager
def _temporary(target: Path, *, folder: bool) -> Iterator[Path]:
    """A new file or folder beside `target`, locked while its writer lives; gone after an error."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    descriptor = None
    try:
        _make_parents(target)
        remove_abandoned(target)
        if folder:
            temporary.mkdir()
        else:
            # 0o666 instead of mkstemp: the result gets the permissions that the umask allows.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        # Who cannot lock cannot remove what seems abandoned either; and Windows, which has no such
        # locks, would not rename a file that is open.
        if CAN_LOCK:
            with suppress(OSError):
                descriptor = _open_for_lock(temporary)
                try_lock(descriptor)
        yield temporary
    except BaseException as error:
        with suppress(OSError):
            _remove(temporary)
        if isinstance(error, OSError) and _is_about(error, temporary, target):
            named = str(error.filename or "")
            # Of a folder the file in it, under the name that it was to have.
            inner = named[len(str(temporary)) :] if named.startswith(f"{temporary}/") else ""
            place = str(target) if inner == f"/{target.name}" else f"{target}{inner}"
            raise WriteError(error.errno, error.strerror, place) from error
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _make_parents(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(
            f"atomic_write: path must lie in a folder, got the file {error.filename}."
        ) from error


def _is_about(error: OSError, temporary: Path, target: Path) -> bool:
    """Whether the error is the refusal of a write here; such a one may not say which file."""
    if error.errno is None:
        return False
    if error.filename is None:
        return True
    named = str(error.filename)
    return named.startswith(str(temporary)) or named in map(str, (target, *target.parents))


def _open_for_lock(path: Path) -> int:
    # Over NFS an exclusive lock wants a file that is open for writing.
    return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _swap(new: Path, old: Path) -> None:
    """Give `new` the name of `old` and the reverse."""
    if _exchange(new, old):
        return
    aside = old.with_name(f".{old.name}.{secrets.token_hex(4)}.old")
    os.rename(old, aside)
    os.rename(new, old)
    os.rename(aside, new)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system or its file system cannot."""
    # Of Linux; the C library has no name that opens it on Windows.
    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    rename = getattr(library, "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(second))
