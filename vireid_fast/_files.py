"""Writing files so that a full disk or a killed process never damages an existing one."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it becomes `path` in one step.

    The file and then its folder are flushed to disk, so a reader finds either the old content or
    the whole new one, also after a power cut. If the block raises, the temporary file is removed
    and `path` stays as it was. A killed process leaves at most one hidden `.<name>.<random>.tmp`.
    Missing parent folders are made, and a symbolic link is followed instead of being replaced.

    Args:
        path: File to create or replace.

    Yields:
        Path of an empty new file, to be written by the caller.

    Raises:
        OSError: The folder or the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(
            f"atomic_write: path must lie in a folder, got the file {error.filename}."
        ) from error
    if target.is_dir():
        raise IsADirectoryError(
            f"atomic_write: path must be a file, got the folder {target}. Give a file name."
        )
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    # O_EXCL with 0o666 instead of mkstemp: the result gets the permissions that the umask allows.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # A failed write, as on a full disk, does not say by itself which file it was.
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    # Only POSIX can open a folder; elsewhere the replacement itself is all there is.
    if os.name == "posix":
        flush(target.parent)


def flush(path: Path) -> None:
    """Force a file's or a folder's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
