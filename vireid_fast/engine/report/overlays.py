"""Heat maps over images."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from vireid_fast.engine.report.shelf import jpeg
from vireid_fast.report.content import Picture

HEIGHT = 192
LEGEND = (
    "Dark violet is the least of a picture, yellow the most; its description says how many times "
    "the mean that is."
)
_OPACITY = 0.55
_GAP = 4
_MARK = (255, 60, 60)
# Of matplotlib's viridis (CC0): even steps in lightness, for colour-blind readers too.
_ANCHORS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def plain(pixels: np.ndarray, text: str) -> Picture:
    """An image (H, W, 3), uint8, without a map."""
    return jpeg(_resized(pixels), text)


def marked(
    pixels: np.ndarray, places: Sequence[tuple[int, int]], grid: tuple[int, int], text: str
) -> Picture:
    """An image with a frame around some patches.

    Args:
        pixels: Shape (H, W, 3), uint8.
        places: Row and column of each patch.
        grid: Rows and columns of patches.
        text: What it shows.
    """
    image = _resized(pixels)
    for place in places:
        _frame(image, place, grid)
    return jpeg(image, text)


def overlay(pixels: np.ndarray, values: np.ndarray, text: str) -> Picture:
    """A grey image under a map from its least to its largest value, smooth between the patches.

    Args:
        pixels: Shape (H, W, 3), uint8.
        values: At least 0. Shape (rows, columns).
        text: What it shows.
    """
    return jpeg(_overlaid(pixels, _scaled(values)), f"{text} ({_peaks([values])})")


def strip(frames: Sequence[np.ndarray], values: np.ndarray, parts: int, text: str) -> Picture:
    """Frames side by side, each under its map; every stripe has its own scale in all frames.

    Args:
        frames: T images (H, W, 3), uint8.
        values: At least 0. Shape (T, rows, columns).
        parts: Stripes of rows, with a line between them; divides the rows.
        text: What it shows.
    """
    stripes = np.split(values, parts, axis=1)
    scaled = np.concatenate([_scaled(stripe) for stripe in stripes], axis=1)
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
    return jpeg(joined, f"{text} ({_peaks(stripes)})")


def _scaled(values: np.ndarray) -> np.ndarray:
    """From the least value, 0, to the largest one, 1; zeros where all are equal."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _peaks(parts: Sequence[np.ndarray]) -> str:
    """The largest value of each part as a multiple of its mean, in words."""
    means = [float(part.mean()) for part in parts]
    peaks = [
        f"{float(part.max()) / mean if mean > 0 else 1.0:.1f}"
        for part, mean in zip(parts, means, strict=True)
    ]
    *others, last = peaks
    listed = f"{', '.join(others)} and {last}" if others else last
    return f"up to {listed} times the mean"


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
    """256 colours from violet to yellow. Shape (256, 3), uint8."""
    anchors = np.array(_ANCHORS, dtype=np.float64)
    places = np.linspace(0, len(anchors) - 1, 256)
    columns = [np.interp(places, np.arange(len(anchors)), column) for column in anchors.T]
    return np.stack(columns, axis=1).round().astype(np.uint8)


def _frame(image: Image.Image, place: tuple[int, int], grid: tuple[int, int]) -> None:
    high, wide = image.height / grid[0], image.width / grid[1]
    top, left = round(place[0] * high), round(place[1] * wide)
    box = left, top, round(left + wide) - 1, round(top + high) - 1
    ImageDraw.Draw(image).rectangle(box, outline=_MARK, width=2)
