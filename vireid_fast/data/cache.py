"""Resized images in one memory-mapped file, shared by every view and every run."""

import errno
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireid_fast._checks import require, sentence
from vireid_fast._files import atomic_write, remove_abandoned
from vireid_fast._locks import exclusive, remove_unheld
from vireid_fast._version import __version__
from vireid_fast.data.images import ImageError, load_images, require_size
from vireid_fast.data.table import ImageTable, require_rows

Progress = Callable[[int, int], None]

# Raise when the content of the files changes for the same images and package version.
_FORMAT = 2
_NPY_HEADER_BYTES = 128


@dataclass(frozen=True)
class ImageCache:
    """Resized images of some rows of a table.

    Attributes:
        images: Read-only memory map. Shape (n, H, W, 3), uint8.
        rows: Row of the table of each image; bad images are left out. Shape (n,), int64.
        bad: The images that could not be read and were skipped.
        path: The file of the images.
        checksums: CRC-32 of each image as it was written. Shape (n,), uint32.
    """

    images: np.ndarray
    rows: np.ndarray
    bad: tuple[ImageError, ...]
    path: Path
    checksums: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray) -> Tensor:
        """Copy images at positions 0..n-1 of the cache. Shape (B, H, W, 3), uint8, CPU.

        Raises:
            ValueError: An image is not as it was written: the file is damaged.
        """
        indices = np.asarray(indices, np.int64)
        images = self.images[indices]
        for index, image in zip(indices.ravel().tolist(), images.reshape(-1, *images.shape[-3:]),
                                strict=True):  # fmt: skip
            if zlib.crc32(image) != self.checksums[index]:
                raise ValueError(sentence(
                    "open_cache", str(self.path), "hold the images that were written to it",
                    f"other bytes of image {index}", "Remove it; the next run makes it anew."
                ))  # fmt: skip
        return torch.from_numpy(images)


def open_cache(
    table: ImageTable,
    rows: np.ndarray,
    size: tuple[int, int],
    folder: str | Path,
    *,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> ImageCache:
    """Open the cache of some images, making it first if it is absent or out of date.

    A cache is two files in `folder`: the images as .npy and an index as .json, which is written
    last. It is reused while the files' paths, lengths and modification times, the size and the
    package version are the same. A run that dies while writing leaves nothing that counts as a
    cache.

    Args:
        table: The data set.
        rows: Rows to hold, in this order. Shape (N,).
        size: (height, width) of the images in the cache.
        folder: Folder of the cache files; made if absent.
        skip_bad: Leave unreadable images out and list them in `ImageCache.bad`.
        progress: Called with (images done, N) after each image; not called for a reused cache.

    Raises:
        ImageError: An image cannot be read and `skip_bad` is False. Nothing is left behind.
        ValueError: `rows` or `size` does not fit, or every image is bad.
        RuntimeError: The folder cannot be written, or the disk is too full.
    """
    rows = require_rows(table, rows, "open_cache")
    require_size("open_cache", size)
    require(len(rows) > 0, "open_cache", "rows", "name at least one image", "none")
    folder = Path(folder)
    key, digest = _digests(table, rows, size)
    data = folder / f"images-{size[0]}x{size[1]}-{key}.npy"
    cached = _open_existing(data, digest, rows, size)
    if cached is not None:
        # A process that was killed in the last moments of building it has left these.
        remove_unheld(_lock_file(data))
        remove_abandoned(data.with_suffix(".json"))
    else:
        cached = _build_alone(table, rows, size, data, digest, skip_bad, progress)
    if cached.bad and not skip_bad:
        raise cached.bad[0]
    return cached


def _digests(table: ImageTable, rows: np.ndarray, size: tuple[int, int]) -> tuple[str, str]:
    """Name of the selection, and a digest that also covers the files' state."""
    paths = [table.paths[row] for row in rows]
    selection = json.dumps([str(table.root.resolve()), size, paths])
    state: list[tuple[int, int] | None] = []
    for row in rows:
        try:
            stat = table.file(row).stat()
            state.append((stat.st_size, stat.st_mtime_ns))
        except OSError:
            # Reading the image gives the error that names it.
            state.append(None)
    key = hashlib.sha256(selection.encode()).hexdigest()
    content = json.dumps([_FORMAT, __version__, key, state])
    return key[:16], hashlib.sha256(content.encode()).hexdigest()


def _open_existing(
    data: Path, digest: str, rows: np.ndarray, size: tuple[int, int]
) -> ImageCache | None:
    """The cache at `data` if it is whole and up to date."""
    try:
        index = json.loads(data.with_suffix(".json").read_text(encoding="utf-8"))
        if index["digest"] != digest or index.pop("seal") != _seal(index):
            return None
        images = np.load(data, mmap_mode="r")
    # A damaged cache is made anew, whatever its readers think of it.
    except Exception:
        return None
    if images.shape != (len(rows), *size, 3) or images.dtype != np.uint8:
        return None
    kept = np.delete(rows, index["bad_positions"])
    checksums = np.asarray(index["checksums"], np.uint32)
    bad = tuple(ImageError(entry["path"], entry["reason"]) for entry in index["bad"])
    # The slots behind the kept images are unused: the header was written before they were read.
    return ImageCache(images[: len(kept)], kept, bad, data, checksums)


def _seal(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _build_alone(
    table: ImageTable,
    rows: np.ndarray,
    size: tuple[int, int],
    data: Path,
    digest: str,
    skip_bad: bool,
    progress: Progress | None,
) -> ImageCache:
    """Build the cache, or wait for the process that does; of several one alone builds."""
    with _explained(data.parent, _needed(rows, size)), exclusive(
        data.parent, "open_cache", name=_lock_file(data).name, held=data, wait=True
    ):
        cached = _open_existing(data, digest, rows, size)
        if cached is None:
            _build(table, rows, size, data, digest, skip_bad, progress)
            cached = _open_existing(data, digest, rows, size)
        if cached is None:
            raise RuntimeError(sentence(
                "open_cache", "the new cache", f"be readable at {data}", "none",
                "Another program changed it; run again."))  # fmt: skip
        return cached


def _lock_file(data: Path) -> Path:
    return data.with_name(f".{data.stem}.lock")


def _needed(rows: np.ndarray, size: tuple[int, int]) -> int:
    """Bytes of the images."""
    return _NPY_HEADER_BYTES + len(rows) * size[0] * size[1] * 3


@contextmanager
def _explained(folder: Path, needed: int) -> Iterator[None]:
    """Errors of writing the cache say what `data.cache` must be."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full_disk(folder, needed, "a full disk") from error
        raise RuntimeError(
            sentence(
                "open_cache", "data.cache", "be a folder that can be written",
                f"{folder} ({error.strerror or error})", "Set data.cache to another folder.",
            )
        ) from error  # fmt: skip


def _build(
    table: ImageTable,
    rows: np.ndarray,
    size: tuple[int, int],
    data: Path,
    digest: str,
    skip_bad: bool,
    progress: Progress | None,
) -> None:
    remove_abandoned(data)
    _require_space(data.parent, _needed(rows, size))
    # An old index must never describe new images, even if this process is killed in between.
    data.with_suffix(".json").unlink(missing_ok=True)
    with atomic_write(data) as temporary:
        bad, checksums = _write_images(table, rows, size, temporary, skip_bad, progress)
    index: dict[str, Any] = {
        "digest": digest,
        "size": list(size),
        "paths": [table.paths[row] for row in rows],
        "bad_positions": list(bad),
        "bad": [{"path": error.path, "reason": error.reason} for error in bad.values()],
        "checksums": checksums,
    }
    index["seal"] = _seal(index)
    with atomic_write(data.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(index), encoding="utf-8")


def _write_images(
    table: ImageTable,
    rows: np.ndarray,
    size: tuple[int, int],
    path: Path,
    skip_bad: bool,
    progress: Progress | None,
) -> tuple[dict[int, ImageError], list[int]]:
    """Write all readable images one after another; the bad ones by position, and checksums.

    Plain writes instead of a writable memory map: on a full disk a map kills the process (SIGBUS).
    """
    bad: dict[int, ImageError] = {}
    checksums: list[int] = []
    files = [table.file(row) for row in rows]
    shape = (len(rows), *size, 3)
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        for position, image in enumerate(load_images(files, size)):
            if isinstance(image, ImageError):
                if not skip_bad:
                    raise image
                bad[position] = image
            else:
                stream.write(image.tobytes())
                checksums.append(zlib.crc32(image.data))
            if progress is not None:
                progress(position + 1, len(rows))
        require(
            len(bad) < len(rows), "open_cache", "rows", "name at least one readable image",
            f"{len(bad)} bad ones, the first: {next(iter(bad.values()), None)}",
        )  # fmt: skip
        stream.write(bytes(len(bad) * size[0] * size[1] * 3))
    return bad, checksums


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _full_disk(folder, needed, f"{free:,} free bytes")


def _full_disk(folder: Path, needed: int, got: str) -> RuntimeError:
    return RuntimeError(
        sentence(
            "open_cache", "data.cache", f"have {needed:,} free bytes in {folder}", got,
            "Free space, or set data.cache to a folder on another disk.",
        )
    )  # fmt: skip
