"""A small software rasteriser for solids of revolution with a depth buffer.

Every piece of a figure is a `Part`: an axis in space and a radius profile along it. A part covers
an image region, and for each pixel there the surface depth and normal follow in closed form, so
arms pass before and behind the torso correctly and light falls on round shapes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import cos, hypot, sin

import numpy as np
from numpy.typing import NDArray

from vireid_fast.data.synthetic.attributes import Material
from vireid_fast.data.synthetic.pose import Vector

Plane = NDArray[np.float32]
Paint = Callable[[Plane, Plane, Plane], NDArray[np.uint8]]

# Samples along the axis of a part; the first and last are sentinels of zero radius.
PROFILE_SAMPLES = 96
# Width of the moving average over a profile, samples; odd.
SMOOTHING = 13
UNIT_STEPS = np.linspace(0.0, 1.0, PROFILE_SAMPLES)
SMOOTHING_WEIGHTS = np.full(SMOOTHING, 1.0 / SMOOTHING)


@dataclass(frozen=True)
class Part:
    """A solid around an axis.

    Attributes:
        start: Upper or inner end of the axis, body frame, metres. Shape (3,).
        end: Other end of the axis. Shape (3,).
        radii: Half widths across the body at equal steps from start to end, metres.
        depths: Half widths along the body's forward direction; None makes the part round.
        paint: A material, or a function (along, side, front) -> material numbers. `along` runs
            from 0 to 1; `side` and `front` are the components of the surface normal to the
            person's left and forward, both in the body frame. Material.NONE leaves a hole.
        caps: Length of the rounded ends in radii; 0 cuts the end off flat.
        boxiness: 0 is an elliptic cross-section; larger values flatten its faces.
        turn: Rotation of the part about the vertical against the body, radians.
    """

    start: Vector
    end: Vector
    radii: Sequence[float]
    paint: Material | Paint
    depths: Sequence[float] | None = None
    caps: tuple[float, float] = (1.0, 1.0)
    boxiness: float = 0.0
    turn: float = 0.0


@dataclass(frozen=True)
class Projection:
    """Orthographic camera that looks at the person.

    Attributes:
        yaw: Direction that the person faces: 0 to the camera, pi / 2 to the image's right.
        pitch: Downward tilt of the camera in radians.
        scale: Pixels per metre.
        origin: Pixel (x, y) of the ground point between the feet.
    """

    yaw: float
    pitch: float
    scale: float
    origin: tuple[float, float]

    def __call__(self, point: Vector) -> tuple[float, float, float]:
        """Image x, y (downwards) and depth (towards the camera), all in pixels."""
        x, y, z = (float(v) for v in point)
        across = x * cos(self.yaw) + z * sin(self.yaw)
        toward = z * cos(self.yaw) - x * sin(self.yaw)
        up = y * cos(self.pitch) - toward * sin(self.pitch)
        depth = toward * cos(self.pitch) + y * sin(self.pitch)
        return (
            self.origin[0] + across * self.scale,
            self.origin[1] - up * self.scale,
            depth * self.scale,
        )


@dataclass
class Canvas:
    """Per-pixel surface of the figure. Every plane has shape (height, width).

    Attributes:
        depth: Distance towards the camera in pixels, -inf where nothing is drawn.
        material: `Material` numbers, uint8.
        normals: Unnormalised surface normal: image right, image down, toward the camera.
        fabric: Surface coordinates for cloth texture (along and around the part), metres.
    """

    height: int
    width: int
    depth: Plane = field(init=False)
    material: NDArray[np.uint8] = field(init=False)
    normals: tuple[Plane, Plane, Plane] = field(init=False)
    fabric: tuple[Plane, Plane] = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.height, self.width)
        self.depth = np.full(shape, -np.inf, np.float32)
        self.material = np.zeros(shape, np.uint8)
        planes = np.zeros((5, *shape), np.float32)
        self.normals = (planes[0], planes[1], planes[2])
        self.fabric = (planes[3], planes[4])


@dataclass(frozen=True)
class _Profile:
    """Lookup tables along a projected part, PROFILE_SAMPLES float32 entries each."""

    offset: float
    per_pixel: float
    radius: Plane
    slope: Plane
    along: Plane
    depth: Plane
    bulge: Plane


def draw_part(canvas: Canvas, part: Part, projection: Projection) -> None:
    """Draw one part where it lies nearer than what the canvas already shows."""
    start, end = projection(part.start), projection(part.end)
    delta_x, delta_y, delta_z = (b - a for a, b in zip(start, end, strict=True))
    length = max(hypot(delta_x, delta_y), 1e-3)
    axis_x, axis_y = delta_x / length, delta_y / length
    tilt = delta_z / hypot(length, delta_z)
    yaw = projection.yaw + part.turn
    profile = _tabulate(part, projection.scale, yaw, length, start[2], delta_z)
    box = _bounding_box(canvas, start, end, float(profile.radius.max()))
    if box is None:
        return
    rows, columns = box
    x = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - start[0])
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.float32(0.5 - start[1])
    step = (x * axis_x + y * axis_y + profile.offset) * profile.per_pixel
    np.clip(step, 0, PROFILE_SAMPLES - 1, out=step)
    index = step.astype(np.intp)
    # `across` is the sine of the angle between the surface and the camera, `facing` its cosine.
    across = (x * axis_y - y * axis_x) / profile.radius[index]
    facing = 1.0 - across * across
    inside = facing > 0.0
    facing = np.sqrt(np.maximum(facing, 0.0, out=facing), out=facing)
    round_across, round_facing = across, facing
    if part.boxiness:
        across = np.clip(across, -1.0, 1.0)
        across *= np.abs(across) ** part.boxiness
        facing = np.sqrt(1.0 - across * across)
    depth = profile.depth[index] + profile.bulge[index] * facing
    nearer = inside & (depth > canvas.depth[rows, columns])
    along = profile.along[index]
    side = round_across * cos(yaw) - round_facing * sin(yaw)
    if callable(part.paint):
        front = round_facing * cos(yaw) + round_across * sin(yaw)
        material = part.paint(along, side, front)
        nearer &= material != Material.NONE
        np.copyto(canvas.material[rows, columns], material, where=nearer)
    else:
        np.copyto(canvas.material[rows, columns], np.uint8(part.paint), where=nearer)
    lengthwise = profile.slope[index] - facing * tilt
    metres = 1.0 / projection.scale
    for plane, values in (
        (canvas.depth, depth),
        (canvas.normals[0], across * axis_y + lengthwise * axis_x),
        (canvas.normals[1], lengthwise * axis_y - across * axis_x),
        (canvas.normals[2], facing),
        (canvas.fabric[0], along * (length * metres)),
        (canvas.fabric[1], side * (profile.radius[index] * metres)),
    ):
        np.copyto(plane[rows, columns], values, where=nearer)


def _tabulate(
    part: Part, scale: float, yaw: float, length: float, start_depth: float, delta_depth: float
) -> _Profile:
    """Radius, slope and depth at equal steps along the projected part, rounded ends included."""
    lateral = np.asarray(part.radii, np.float64) * scale
    sagittal = lateral if part.depths is None else np.asarray(part.depths, np.float64) * scale
    apparent = np.hypot(lateral * cos(yaw), sagittal * sin(yaw))
    bulge = np.hypot(lateral * sin(yaw), sagittal * cos(yaw))
    first, last = part.caps[0] * apparent[0], part.caps[1] * apparent[-1]
    total = first + length + last
    position = UNIT_STEPS * total - first
    along = np.minimum(np.maximum(position / length, 0.0), 1.0)
    knots = np.arange(len(apparent)) / (len(apparent) - 1.0)
    overshoot = np.maximum(-position / max(first, 1e-6), 0.0)
    overshoot += np.maximum((position - length) / max(last, 1e-6), 0.0)
    rounding = np.sqrt(np.maximum(1.0 - overshoot * overshoot, 0.0))
    radius = _smooth(np.interp(along, knots, apparent)) * rounding
    slope = np.zeros_like(radius)
    slope[1:-1] = (radius[:-2] - radius[2:]) * (0.5 * (PROFILE_SAMPLES - 1) / total)
    slope[0], slope[-1] = slope[1], slope[-2]
    radius[0] = radius[-1] = 0.0
    return _Profile(
        offset=first,
        per_pixel=PROFILE_SAMPLES / total,
        radius=np.maximum(radius, 1e-4).astype(np.float32),
        slope=np.minimum(np.maximum(slope, -2.0), 2.0).astype(np.float32),
        along=along.astype(np.float32),
        depth=(start_depth + delta_depth * along).astype(np.float32),
        bulge=(_smooth(np.interp(along, knots, bulge)) * rounding).astype(np.float32),
    )


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moving average that rounds the corners of a piecewise linear profile."""
    half = SMOOTHING // 2
    padded = np.empty(len(values) + 2 * half)
    padded[:half], padded[half:-half], padded[-half:] = values[0], values, values[-1]
    return np.convolve(padded, SMOOTHING_WEIGHTS, mode="valid")


def _bounding_box(
    canvas: Canvas,
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radius: float,
) -> tuple[slice, slice] | None:
    """Rows and columns that the part can touch; None where it lies outside the canvas.

    A cap may be longer than the radius (caps > 1), hence the factor.
    """
    reach = 1.3 * radius + 1.0
    left = max(int(min(start[0], end[0]) - reach), 0)
    right = min(int(max(start[0], end[0]) + reach) + 1, canvas.width)
    top = max(int(min(start[1], end[1]) - reach), 0)
    bottom = min(int(max(start[1], end[1]) + reach) + 1, canvas.height)
    if left >= right or top >= bottom:
        return None
    return slice(top, bottom), slice(left, right)
