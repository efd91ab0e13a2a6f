"""Backgrounds: a corridor, a lobby, a street and a park, each in several variants.

Coordinates are in image heights: x to the right, y down, the person's feet near y = 1.
"""

from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from vireid_fast.data.synthetic.cameras import CAMERAS, INFRARED

Picture = NDArray[np.float32]
Point = tuple[float, float]

VARIANTS = 4
# Size of a background over the image height; a view shows a window of it.
HEIGHT, WIDTH = 1.12, 1.25
# The windows start this far above the canvas top on average.
MARGIN = (HEIGHT - 1.0) / 2.0
SUPERSAMPLING = 2

# Surface -> (visible red, green, blue, infrared reflectance). Leaves are bright in infrared.
TONES: dict[str, tuple[float, float, float, float]] = {
    "plaster": (0.74, 0.74, 0.70, 0.55),
    "skirting": (0.42, 0.46, 0.50, 0.30),
    "door": (0.47, 0.34, 0.24, 0.42),
    "frame": (0.34, 0.36, 0.38, 0.25),
    "tile": (0.60, 0.61, 0.62, 0.50),
    "joint": (0.46, 0.47, 0.48, 0.36),
    "brick": (0.56, 0.36, 0.29, 0.44),
    "mortar": (0.66, 0.60, 0.54, 0.54),
    "wood": (0.55, 0.40, 0.27, 0.50),
    "plank": (0.40, 0.28, 0.18, 0.38),
    "poster": (0.80, 0.78, 0.70, 0.70),
    "picture": (0.27, 0.44, 0.55, 0.36),
    "pot": (0.62, 0.60, 0.57, 0.40),
    "facade": (0.66, 0.60, 0.52, 0.40),
    "glass": (0.27, 0.34, 0.42, 0.12),
    "sill": (0.80, 0.78, 0.74, 0.52),
    "pavement": (0.60, 0.59, 0.57, 0.44),
    "slab": (0.50, 0.49, 0.48, 0.34),
    "kerb": (0.72, 0.71, 0.69, 0.55),
    "asphalt": (0.34, 0.35, 0.37, 0.26),
    "marking": (0.86, 0.86, 0.83, 0.78),
    "car": (0.52, 0.14, 0.14, 0.50),
    "tyre": (0.10, 0.10, 0.11, 0.10),
    "sky": (0.70, 0.82, 0.94, 0.05),
    "haze": (0.88, 0.92, 0.95, 0.08),
    "leaf": (0.24, 0.38, 0.17, 0.72),
    "shade": (0.14, 0.25, 0.12, 0.52),
    "sunlit": (0.43, 0.55, 0.24, 0.84),
    "trunk": (0.30, 0.22, 0.15, 0.34),
    "grass": (0.42, 0.53, 0.25, 0.70),
    "path": (0.74, 0.67, 0.55, 0.56),
}


class _Brush:
    """Draws flat shapes in scene coordinates with the tones of one modality."""

    def __init__(self, size: int, infrared: bool, rng: np.random.Generator) -> None:
        self.unit = size * SUPERSAMPLING
        self.infrared = infrared
        self.rng = rng
        shape = (ceil(WIDTH * self.unit), ceil(HEIGHT * self.unit))
        self.image = Image.new("RGB", shape)
        self.pen = ImageDraw.Draw(self.image)

    def tone(self, name: str, gain: float = 1.0) -> tuple[int, int, int]:
        red, green, blue, reflectance = TONES[name]
        values = (reflectance,) * 3 if self.infrared else (red, green, blue)
        levels = [int(min(max(v * gain, 0.0), 1.0) * 255) for v in values]
        return levels[0], levels[1], levels[2]

    def polygon(self, points: list[Point], name: str, gain: float = 1.0) -> None:
        scaled = [(x * self.unit, (y + MARGIN) * self.unit) for x, y in points]
        self.pen.polygon(scaled, fill=self.tone(name, gain))

    def box(self, x0: float, y0: float, x1: float, y1: float, name: str, gain: float = 1.0) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], name, gain)

    def blob(self, x: float, y: float, rx: float, ry: float, name: str, gain: float = 1.0) -> None:
        corners = (x - rx, y - ry + MARGIN, x + rx, y + ry + MARGIN)
        self.pen.ellipse([c * self.unit for c in corners], fill=self.tone(name, gain))

    def gradient(self, y0: float, y1: float, top: str, bottom: str, gains: Point = (1, 1)) -> None:
        """Horizontal bands from one tone to another."""
        first, last = np.array(self.tone(top, gains[0])), np.array(self.tone(bottom, gains[1]))
        edges = np.linspace(y0, y1, 25)
        for t, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            colour = first + (last - first) * t / 23
            box = (0, (low + MARGIN) * self.unit, self.image.width, (high + MARGIN) * self.unit)
            self.pen.rectangle(box, fill=tuple(int(c) for c in colour))

    def converging(self, y0: float, vanishing: Point, spacing: float, name: str) -> None:
        """Floor lines towards a vanishing point, and cross lines that grow denser with distance."""
        x_far, y_far = vanishing
        for k in range(-14, 15):
            x = x_far + k * spacing
            near = x_far + (x - x_far) * (1.3 - y_far) / (1.0 - y_far)
            edge = x_far + (x - x_far) * (y0 - y_far) / (1.0 - y_far)
            self.line([(edge, y0), (near, 1.3)], name)
        for k in range(1, 12):
            y = y_far + (1.12 - y_far) / (0.55 + 0.28 * k) * 0.85
            if y > y0:
                self.line([(0.0, y), (WIDTH, y)], name)

    def line(self, points: list[Point], name: str, width: float = 0.006) -> None:
        scaled = [(x * self.unit, (y + MARGIN) * self.unit) for x, y in points]
        self.pen.line(scaled, fill=self.tone(name), width=max(1, round(width * self.unit)))

    def foliage(self, x: float, y: float, radius: float, count: int) -> None:
        """A crown of leaves: many small blobs, sunlit above and dark below."""
        angle = self.rng.uniform(0.0, 2.0 * np.pi, count)
        distance = radius * np.sqrt(self.rng.uniform(0.0, 1.0, count))
        size = radius * self.rng.uniform(0.10, 0.30, count)
        for a, d, s in zip(angle, distance, size, strict=True):
            height = np.sin(a) * d / radius
            name = "sunlit" if height < -0.35 else "leaf" if height < 0.35 else "shade"
            gain = float(self.rng.uniform(0.82, 1.12))
            self.blob(x + np.cos(a) * d, y + np.sin(a) * d * 0.85, s, s * 0.8, name, gain)

    def car(self, x: float, y: float, size: float) -> None:
        self.blob(x + 0.5 * size, y, 0.55 * size, 0.035 * size, "tyre", 0.8)
        self.box(x, y - 0.30 * size, x + size, y - 0.08 * size, "car", 0.9)
        roof = [(0.16, -0.30), (0.28, -0.47), (0.70, -0.47), (0.86, -0.30)]
        self.polygon([(x + a * size, y + b * size) for a, b in roof], "car", 1.1)
        glass = [(0.21, -0.30), (0.30, -0.44), (0.68, -0.44), (0.79, -0.30)]
        self.polygon([(x + a * size, y + b * size) for a, b in glass], "glass")
        for wheel in (0.22, 0.78):
            self.blob(x + wheel * size, y - 0.08 * size, 0.09 * size, 0.09 * size, "tyre")
            self.blob(x + wheel * size, y - 0.08 * size, 0.045 * size, 0.045 * size, "pot")


def _corridor(brush: _Brush) -> None:
    rng, floor = brush.rng, 0.66
    brush.gradient(-0.2, floor, "plaster", "plaster", (1.12, 0.88))
    brush.box(0.0, 0.40, WIDTH, floor, "skirting", 1.35)
    brush.line([(0.0, 0.40), (WIDTH, 0.40)], "frame", 0.012)
    start = rng.uniform(-0.2, 0.1)
    for k in range(3):
        x = start + 0.52 * k
        brush.box(x, 0.00, x + 0.27, floor, "frame", 1.2)
        brush.box(x + 0.018, 0.02, x + 0.252, floor, "door", rng.uniform(0.85, 1.15))
        brush.box(x + 0.07, 0.07, x + 0.13, 0.27, "glass", 1.3)
        brush.blob(x + 0.225, 0.34, 0.008, 0.012, "marking")
    brush.gradient(floor, 1.3, "tile", "tile", (0.82, 1.12))
    brush.converging(floor, (rng.uniform(0.3, 0.9), 0.12), 0.20, "joint")
    brush.box(0.0, floor - 0.03, WIDTH, floor, "frame")


def _lobby(brush: _Brush) -> None:
    rng, floor = brush.rng, 0.74
    brush.gradient(-0.2, floor, "mortar", "mortar", (1.0, 0.85))
    height, length = 0.042, 0.115
    for row in range(int((floor + 0.2) / height) + 1):
        for column in range(-1, int(WIDTH / length) + 1):
            x, y = (column + 0.5 * (row % 2)) * length, -0.2 + row * height
            gain = float(rng.uniform(0.84, 1.10)) * (1.08 - 0.25 * (y + 0.2))
            bottom = min(y + height - 0.006, floor)
            brush.box(x, y, x + length - 0.007, bottom, "brick", gain)
    x = rng.uniform(0.1, 0.8)
    brush.box(x, 0.08, x + 0.30, 0.48, "frame", 0.9)
    brush.box(x + 0.015, 0.095, x + 0.285, 0.465, "poster")
    brush.box(x + 0.04, 0.13, x + 0.26, 0.32, "picture", rng.uniform(0.8, 1.3))
    for k in range(3):
        brush.box(
            x + 0.05, 0.355 + 0.033 * k, x + rng.uniform(0.15, 0.25), 0.368 + 0.033 * k, "pot"
        )
    brush.gradient(floor, 1.3, "wood", "wood", (0.80, 1.10))
    brush.converging(floor, (0.6, -0.1), 0.11, "plank")
    brush.box(0.0, floor - 0.035, WIDTH, floor, "plank", 0.9)
    pot = (x + 0.55) % WIDTH
    brush.blob(pot, floor + 0.055, 0.09, 0.018, "plank", 0.7)
    brush.foliage(pot, floor - 0.20, 0.14, 70)
    shape = [(-0.055, -0.08), (0.055, -0.08), (0.04, 0.055), (-0.04, 0.055)]
    brush.polygon([(pot + a, floor + b) for a, b in shape], "pot")


def _street(brush: _Brush) -> None:
    rng, floor = brush.rng, 0.58
    brush.gradient(-0.2, floor, "facade", "facade", (1.08, 0.86))
    start, gain = rng.uniform(-0.25, 0.0), rng.uniform(0.8, 1.1)
    for k in range(5):
        x = start + 0.33 * k
        brush.box(x - 0.012, 0.02, x + 0.192, 0.34, "sill")
        brush.box(x, 0.032, x + 0.18, 0.32, "glass", gain)
        brush.polygon([(x, 0.25), (x + 0.12, 0.032), (x + 0.17, 0.032), (x, 0.32)], "glass", 1.5)
        brush.line([(x + 0.09, 0.032), (x + 0.09, 0.32)], "sill", 0.008)
        brush.box(x - 0.025, 0.335, x + 0.205, 0.352, "sill", 0.85)
    brush.box(0.0, 0.47, WIDTH, floor, "slab", 0.9)
    brush.gradient(floor, 0.70, "pavement", "pavement", (0.85, 0.95))
    if rng.random() < 0.75:
        brush.car(rng.uniform(-0.1, 0.6), 0.745, rng.uniform(0.55, 0.68))
    brush.gradient(0.745, 0.80, "asphalt", "asphalt", (0.95, 1.0))
    brush.gradient(0.80, 1.3, "pavement", "pavement", (0.95, 1.12))
    brush.converging(0.80, (rng.uniform(0.3, 0.9), 0.0), 0.24, "slab")
    brush.box(0.0, 0.785, WIDTH, 0.815, "kerb")
    brush.line([(0.0, 0.815), (WIDTH, 0.815)], "asphalt", 0.008)


def _park(brush: _Brush) -> None:
    rng, floor = brush.rng, 0.64
    brush.gradient(-0.2, 0.45, "sky", "haze")
    for x in np.arange(-0.05, WIDTH + 0.1, 0.13):
        brush.foliage(float(x), rng.uniform(0.36, 0.44), rng.uniform(0.10, 0.17), 34)
    brush.box(0.0, 0.48, WIDTH, floor, "shade", 1.1)
    for x in np.arange(0.0, WIDTH, 0.09):
        brush.foliage(float(x), 0.53, 0.085, 20)
    for x in rng.uniform(0.0, WIDTH, 2):
        trunk = [(-0.022, 0.2), (0.022, 0.2), (0.032, floor + 0.03), (-0.036, floor + 0.03)]
        brush.polygon([(float(x) + a, b) for a, b in trunk], "trunk", rng.uniform(0.8, 1.2))
        brush.foliage(float(x), 0.08, 0.24, 130)
    brush.gradient(floor, 1.3, "grass", "grass", (0.80, 1.08))
    middle, lean = rng.uniform(0.4, 0.8), rng.uniform(-0.2, 0.2)
    path = [(middle - 0.05, floor), (middle + 0.05, floor)]
    path += [(middle + lean + 0.52, 1.3), (middle + lean - 0.52, 1.3)]
    brush.polygon(path, "path")


_PLACES = {"corridor": _corridor, "lobby": _lobby, "street": _street, "park": _park}
_BLUR = {"corridor": 0.005, "lobby": 0.005, "street": 0.007, "park": 0.008}


def value_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> Picture:
    """Smooth random field with mean 0 and standard deviation 1, shape (height, width).

    Args:
        rng: Source of randomness.
        height: Rows.
        width: Columns.
        cell: Size of one bump in pixels.
    """
    shape = (max(2, round(height / cell)), max(2, round(width / cell)))
    grid = Image.fromarray(rng.standard_normal(shape).astype(np.float32))
    field = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return ((field - field.mean()) / (field.std() + 1e-6)).astype(np.float32)


@lru_cache(maxsize=64)
def background(camera_id: int, modality: int, variant: int, size: int) -> Picture:
    """The surroundings of one camera; equal arguments, equal picture.

    Args:
        camera_id: Key of `CAMERAS`.
        modality: 0 visible, 1 infrared; changes tones, but no shape.
        variant: Which part of the place, 0 to VARIANTS - 1.
        size: Image height H that 1 scene unit stands for, pixels.

    Returns:
        RGB in [0, 1], float32, read-only. Shape (ceil(HEIGHT H), ceil(WIDTH H), 3).
    """
    place = CAMERAS[camera_id].place
    rng = np.random.default_rng([camera_id, variant, 0xBAC])
    brush = _Brush(size, modality == INFRARED, rng)
    _PLACES[place](brush)
    height, width = ceil(HEIGHT * size), ceil(WIDTH * size)
    image = brush.image.resize((width, height), Image.Resampling.BOX)
    image = image.filter(ImageFilter.GaussianBlur(_BLUR[place] * size))
    picture = np.asarray(image, np.float32) / 255.0
    grain = 0.018 * value_noise(rng, height, width, max(1.0, size / 100))
    grain += 0.045 * value_noise(rng, height, width, size / 7)
    picture = picture * (1.0 + grain[..., None])
    if modality == INFRARED:
        picture *= _lamp(rng, height, width)[..., None]
    picture.flags.writeable = False
    return picture


def _lamp(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Light of an infrared lamp beside the camera: a pool on the ground, darkness beyond."""
    y = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    x = np.linspace(0.0, 1.0, width, dtype=np.float32)
    centre = rng.uniform(0.35, 0.65)
    pool = np.exp(-(((x - centre) / 0.55) ** 2) - ((y - 0.78) / 0.42) ** 2)
    return (0.17 + 0.58 * pool).astype(np.float32)
