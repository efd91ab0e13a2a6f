"""How one picture is taken: where the person walks, which part of the place is behind, light."""

from dataclasses import dataclass, replace
from math import pi

import numpy as np

from vireid_fast.data.synthetic.scene import VARIANTS

# Walking advances by this much per frame: about 15 frames a cycle, as at 15 frames a second.
PHASE_STEP = 2.0 * pi / 15.0
OCCLUDERS = ("none", "pillar", "hedge", "rail")


@dataclass(frozen=True)
class View:
    """One moment before one camera.

    Attributes:
        yaw: Direction that the person faces; 0 to the camera, pi / 2 to the image's right.
        phase: Position in the walking cycle, radians.
        shift: Position of the person (right, down) off the centre, in image widths and heights.
        zoom: Scale against the camera's usual one.
        variant: Background variant.
        window: Position (x, y) of the background window in its free range, 0 to 1.
        light: Brightness factor.
        balance: Colour shift of red against blue.
        blur: Standard deviation of the blur in image heights.
        occluder: One of `OCCLUDERS`.
        occlusion: Signed size: which side and how much of the image is hidden.
        noise_seed: Seed of the sensor noise.
    """

    yaw: float
    phase: float
    shift: tuple[float, float]
    zoom: float
    variant: int
    window: tuple[float, float]
    light: float
    balance: float
    blur: float
    occluder: str
    occlusion: float
    noise_seed: int


def sample_view(rng: np.random.Generator) -> View:
    """Draw a view: any of front, back and the two sides with jitter; one in nine is occluded."""
    facing = rng.choice([0.0, pi, pi / 2.0, -pi / 2.0])
    has_occluder = rng.random() < 0.11
    return View(
        yaw=float(facing + np.clip(rng.normal(0.0, 0.30), -0.75, 0.75)),
        phase=float(rng.uniform(0.0, 2.0 * pi)),
        shift=(float(np.clip(rng.normal(0.0, 0.045), -0.1, 0.1)), float(rng.normal(0.0, 0.009))),
        zoom=float(np.clip(rng.normal(1.0, 0.035), 0.93, 1.04)),
        variant=int(rng.integers(VARIANTS)),
        window=(float(rng.random()), float(rng.random())),
        light=float(np.clip(rng.normal(1.0, 0.10), 0.75, 1.25)),
        balance=float(rng.normal(0.0, 0.025)),
        blur=float(rng.choice([0.0, 0.0018, 0.0038], p=[0.45, 0.35, 0.20])),
        occluder=str(rng.choice(OCCLUDERS[1:])) if has_occluder else "none",
        occlusion=float(rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.0)),
        noise_seed=int(rng.integers(2**31)),
    )


def walk(view: View, frame: int, frames: int) -> View:
    """The view of frame number `frame` of a tracklet that `view` begins.

    The person advances by one phase step a frame and crosses the image slowly; the background
    slides the other way, and only the sensor noise is new in each frame.
    """
    progress = frame / max(frames - 1, 1) - 0.5
    sideways, toward = float(np.sin(view.yaw)), float(np.cos(view.yaw))
    slide = float(np.clip(view.window[0], 0.2, 0.8)) + 0.35 * sideways * progress
    return replace(
        view,
        phase=view.phase + PHASE_STEP * frame,
        shift=(view.shift[0] * 0.5 + 0.08 * sideways * progress, view.shift[1]),
        zoom=view.zoom * (1.0 + 0.05 * toward * progress),
        window=(slide, view.window[1]),
        noise_seed=view.noise_seed + frame,
    )
