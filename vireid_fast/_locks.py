"""Locks that tell two processes apart which write the same folder or file.

A lock is a hidden file that its holder has locked with `flock`. The kernel lets go of it when the
process ends, however it ends, so no lock outlives its holder; the file itself, which names the
holder, is removed by a holder that ends by itself.
"""

import contextlib
import errno
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vireid_fast._checks import WriteError, sentence

try:
    import fcntl
except ImportError:  # Windows has no flock: there nothing is locked, as `exclusive` warns.
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
LOCK_FILE = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class InUseError(RuntimeError):
    """Another process has what was asked for; the message names it."""


@contextmanager
def exclusive(
    folder: str | os.PathLike[str],
    what: str,
    *,
    name: str = LOCK_FILE,
    held: str | os.PathLike[str] | None = None,
    wait: bool = False,
) -> Iterator[None]:
    """Hold a folder for this process alone.

    The folder is made if it is absent, and removed again if it is still empty in the end.

    Args:
        folder: What is held.
        what: Start of the error sentence: the command, or "run".
        name: The lock's file in `folder`; locks of different names do not exclude each other.
        held: What messages name where it is not `folder` itself.
        wait: Wait for a holder to end, with a warning that names it, instead of raising.

    Raises:
        InUseError: Another process holds it; names its process id, machine and start.
        WriteError: The folder cannot be written.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = folder / name
    descriptor = None
    try:
        try:
            descriptor = _acquire(file, Path(held or folder), what, wait)
        except OSError as error:
            raise WriteError(error.errno, error.strerror, str(file)) from error
        yield
    finally:
        if descriptor is not None:
            # Unlinked while it is held: who waits for this file notices and makes a new one.
            with contextlib.suppress(OSError):
                if _is_at(descriptor, file):
                    file.unlink()
            os.close(descriptor)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def remove_unheld(file: Path) -> None:
    """Remove the file of a lock whose holder was killed, if there is one."""
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_RDWR)
        try:
            if try_lock(descriptor) and _is_at(descriptor, file):
                file.unlink()
        finally:
            os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process, without waiting; False if another one has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _acquire(file: Path, held: Path, what: str, wait: bool) -> int:
    """A descriptor of the locked file, which holds this process's name."""
    told = False
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            # A holder that ended has removed the folder, still empty, at this moment.
            continue
        try:
            if _locked(descriptor, held, blocking=told):
                if _is_at(descriptor, file):
                    _sign(descriptor)
                    return descriptor
            elif wait:
                warnings.warn(
                    f"{what}: waiting for {_holder(descriptor)}, which is writing {held}.",
                    RuntimeWarning, stacklevel=4,
                )  # fmt: skip
                told = True
            else:
                raise InUseError(
                    sentence(
                        what, str(held), "not be in use by another process",
                        _holder(descriptor), "Wait until it has ended, or name another folder.",
                    )
                )  # fmt: skip
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _locked(descriptor: int, held: Path, *, blocking: bool) -> bool:
    """Lock; True as well, after a warning, where the file system has no locks."""
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        warnings.warn(
            f"{held} lies where files cannot be locked ({error.strerror}): take care that no "
            "two processes write it at once.", RuntimeWarning, stacklevel=5,
        )  # fmt: skip
    return True


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether the open file still has its name; an earlier holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    # On a full disk the lock holds without a name.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text.encode())


def _holder(descriptor: int) -> str:
    """How messages name who has a lock."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        found = json.loads(os.read(descriptor, 4096))
        return f"pid {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "one that has not said its name yet"
