"""Image files to uint8 RGB arrays; every unreadable file becomes one named error."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from vireid_fast._checks import require

# Pillow's modes with 16 or 32 bits in a sample; `convert("RGB")` would clip them at 255.
_DEEP_INTEGER_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_FILES_PER_BLOCK = 64

FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, whatever a file's name says. Pillow has more, such as EPS, for which it starts
Ghostscript: a program in the file would run."""

INTERPOLATIONS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
"""Filters of resizing by name."""


class ImageError(ValueError):
    """A file that cannot be read as an image.

    Attributes:
        path: The file, as it was given.
        reason: Why it cannot be read, in words.
    """

    def __init__(self, path: str | Path, reason: str):
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"load_image: {self.path} must be a readable image, got: {self.reason}. "
            "Repair or remove the file, or skip such files with --skip-bad-images."
        )


def describe_skipped(errors: Sequence[ImageError], limit: int = 8) -> str:
    """One line that counts skipped images and names the first `limit` with their reasons."""
    named = "; ".join(f"{error.path} ({error.reason})" for error in errors[:limit])
    more = f" and {len(errors) - limit} more" if len(errors) > limit else ""
    return f"damaged images skipped: {len(errors)}: {named}{more}"


def load_image(
    path: str | Path, size: tuple[int, int] | None = None, interpolation: str = "lanczos"
) -> np.ndarray:
    """Read one image file as RGB, whatever its mode.

    Grey values are copied to three channels and alpha is dropped. 16-bit samples are scaled from
    0..65535 to 0..255. Float samples are scaled by the smallest of the ranges 0..1, 0..255 and
    0..65535 that holds the image. Only the first frame of an animation is read.

    Args:
        path: The file.
        size: (height, width) to resize to; None keeps the size.
        interpolation: Filter of the resizing; "lanczos" as in AGW's preprocessing
            (mangye16/Cross-Modal-Re-ID-baseline: pre_process_sysu.py), "bicubic" or "bilinear".

    Returns:
        The image. Shape (H, W, 3), uint8.

    Raises:
        ImageError: The file is missing, empty, no image, corrupt, truncated or larger than
            Pillow's limit for decompression bombs.
        ValueError: `size` is not two positive numbers.
    """
    if size is not None:
        require_size("load_image", size)
    try:
        return _pixels(_open_rgb(Path(path)), size, interpolation)
    except ImageError:
        raise
    # Pillow's decoders raise many types on damaged files (SyntaxError, struct.error, ...).
    except Exception as error:
        raise ImageError(path, _reason(Path(path), error)) from error


def image_pixels(
    image: Image.Image | np.ndarray,
    name: str,
    size: tuple[int, int] | None = None,
    interpolation: str = "lanczos",
) -> np.ndarray:
    """The pixels that `load_image` would give had the image been read from a file.

    Args:
        image: An image of Pillow, or an array (H, W, 3) or (H, W), uint8.
        name: What errors call it.
        size: As of `load_image`, also `interpolation`.
        interpolation: See `load_image`.

    Returns:
        Shape (H, W, 3), uint8.

    Raises:
        ImageError: Pillow cannot decode the image.
        ValueError: The shape does not fit. TypeError: The dtype does not fit.
    """
    if size is not None:
        require_size("image_pixels", size)
    if isinstance(image, np.ndarray):
        require(image.dtype == np.uint8, name, "array", "be uint8", image.dtype,
                "Scale it to 0..255 and call .astype(numpy.uint8).", TypeError)  # fmt: skip
        fits = image.ndim in (2, 3) and image.shape[2:] in ((), (3,)) and image.size > 0
        require(fits, name, "array", "have shape (H, W, 3) or (H, W)", image.shape,
                "Put the channels last, and drop alpha.")  # fmt: skip
        image = Image.fromarray(np.ascontiguousarray(image))
    try:
        return _pixels(_to_rgb(image, name), size, interpolation)
    except ImageError:
        raise
    # As of `load_image`: Pillow decodes a file that was only opened here.
    except Exception as error:
        raise ImageError(name, _reason(Path(name), error)) from error


def load_images(
    paths: Sequence[str | Path],
    size: tuple[int, int] | None = None,
    workers: int | None = None,
) -> Iterator[np.ndarray | ImageError]:
    """Read many image files on several threads, in order; a bad file yields its error.

    Args:
        paths: The files.
        size: See `load_image`.
        workers: Threads; Pillow decodes without the interpreter lock. None: one for each core.

    Yields:
        For each path its image (uint8, (H, W, 3)) or the `ImageError` it caused. At most one
        block of 64 images is held in memory.
    """

    def load(path: str | Path) -> np.ndarray | ImageError:
        try:
            return load_image(path, size)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for start in range(0, len(paths), _FILES_PER_BLOCK):
            yield from pool.map(load, paths[start : start + _FILES_PER_BLOCK])


def file_below(root: Path, name: str, source: str) -> Path:
    """The file that a path out of a feature file means, which must lie in its folder.

    Args:
        root: The folder.
        name: Path relative to it, from a file that anyone may have written.
        source: That file, for errors.

    Raises:
        ValueError: The path is absolute, leads out of the folder, or follows a link out of it.
    """
    parts = name.replace("\\", "/").split("/")
    inside = not name.startswith(("/", "\\")) and ".." not in parts and ":" not in parts[0]
    require(
        inside and "\0" not in name, source, "path", f"stay in {root}", repr(name),
        "Correct the file: paths are relative to the folder of the images.",
    )  # fmt: skip
    real = (root / name).resolve()
    require(
        real.is_relative_to(root.resolve()), source, "path", f"stay in {root}",
        f"{name!r}, a link to {real}", "Copy the image, or give the folder that holds it.",
    )  # fmt: skip
    return root / name


def require_size(what: str, size: tuple[int, int]) -> None:
    """Raise ValueError unless `size` is (height, width)."""
    fits = len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
    require(fits, what, "size", "be (height, width), both at least 1", size)


def _open_rgb(path: Path) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise ImageError(
                path, f"{image.width} x {image.height} pixels, more than the limit of {limit:,}"
            )
        return _to_rgb(image, path)


def _to_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    image.load()
    if image.mode in _DEEP_INTEGER_MODES:
        return _to_rgb8(np.asarray(image, dtype=np.float64), path, ranges=(65535.0,))
    if image.mode == "F":
        samples = np.asarray(image, dtype=np.float64)
        return _to_rgb8(samples, path, ranges=(1.0, 255.0, 65535.0))
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _pixels(image: Image.Image, size: tuple[int, int] | None, interpolation: str) -> np.ndarray:
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), INTERPOLATIONS[interpolation])
    return np.array(image, dtype=np.uint8)


def _to_rgb8(samples: np.ndarray, path: str | Path, ranges: tuple[float, ...]) -> Image.Image:
    if not np.isfinite(samples).all():
        raise ImageError(path, "samples that are NaN or infinite")
    low, high = float(samples.min()), float(samples.max())
    top = next((top for top in ranges if high <= top), None)
    if low < 0 or top is None:
        raise ImageError(path, f"samples {low:g}..{high:g} outside 0..{ranges[-1]:g}")
    grey = np.rint(samples * (255.0 / top)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if path.is_file() and path.stat().st_size == 0:
        return "an empty file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "a file that is no image in a known format"
    text = str(error) or type(error).__name__
    return f"a damaged or unsupported image ({text})"
