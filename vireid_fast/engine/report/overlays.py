"""Heat maps over images."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from vireid_fast.engine.report.shelf import jpeg
from vireid_fast.report.content import Picture

HEIGHT = 192
LEGEND = "Dark violet is little, yellow the most of the picture."
_OPACITY = 0.55
_GAP = 4
_MARK = (255, 60, 60)


def plain(pixels: np.ndarray, text: str) -> Picture:
    """An image (H, W, 3), uint8, without a map."""
    return jpeg(_resized(pixels), text)


def marked(pixels: np.ndarray, place: tuple[int, int], grid: tuple[int, int], text: str) -> Picture:
    """An image with a frame around one patch.

    Args:
        pixels: Shape (H, W, 3), uint8.
        place: Row and column of the patch.
        grid: Rows and columns of patches.
        text: What it shows.
    """
    image = _resized(pixels)
    _frame(image, place, grid)
    return jpeg(image, text)


def overlay(pixels: np.ndarray, values: np.ndarray, text: str) -> Picture:
    """A grey image under a map from 0 to its maximum, interpolated between the patches.

    Args:
        pixels: Shape (H, W, 3), uint8.
        values: At least 0. Shape (rows, columns).
        text: What it shows.
    """
    return jpeg(_overlaid(pixels, values / max(float(values.max()), 1e-12)), text)


def strip(frames: Sequence[np.ndarray], values: np.ndarray, parts: int, text: str) -> Picture:
    """Frames side by side, each under its map; every stripe is scaled by its maximum.

    Args:
        frames: T images (H, W, 3), uint8.
        values: At least 0. Shape (T, rows, columns).
        parts: Stripes of rows that are scaled apart, with a line between them; divides the rows.
        text: What it shows.
    """
    by_part = values.reshape(len(values), parts, -1, values.shape[2])
    highest = by_part.max(axis=(0, 2, 3), keepdims=True)
    scaled = (by_part / np.maximum(highest, 1e-12)).reshape(values.shape)
    images = [_overlaid(pixels, own) for pixels, own in zip(frames, scaled, strict=True)]
    width = sum(image.width for image in images) + _GAP * (len(images) - 1)
    joined = Image.new("RGB", (width, HEIGHT), (255, 255, 255))
    left = 0
    for image in images:
        draw = ImageDraw.Draw(image)
        for part in range(1, parts):
            level = round(part * HEIGHT / parts)
            draw.line((0, level, image.width, level), fill=(255, 255, 255), width=1)
        joined.paste(image, (left, 0))
        left += image.width + _GAP
    return jpeg(joined, text)


def _resized(pixels: np.ndarray) -> Image.Image:
    height, width = pixels.shape[:2]
    size = max(1, round(width * HEIGHT / height)), HEIGHT
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _overlaid(pixels: np.ndarray, shares: np.ndarray) -> Image.Image:
    """A grey image under values in [0, 1]."""
    image = _resized(pixels).convert("L").convert("RGB")
    heat = Image.fromarray(shares.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    steps = np.clip(np.asarray(heat) * 255, 0, 255).astype(np.uint8)
    return Image.blend(image, Image.fromarray(_colours()[steps]), _OPACITY)


@cache
def _colours() -> np.ndarray:
    """The colours of matplotlib's viridis. Shape (256, 3), uint8."""
    from matplotlib import colormaps

    return (colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def _frame(image: Image.Image, place: tuple[int, int], grid: tuple[int, int]) -> None:
    high, wide = image.height / grid[0], image.width / grid[1]
    top, left = round(place[0] * high), round(place[1] * wide)
    box = left, top, round(left + wide) - 1, round(top + high) - 1
    ImageDraw.Draw(image).rectangle(box, outline=_MARK, width=2)
