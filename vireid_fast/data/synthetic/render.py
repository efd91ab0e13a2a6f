"""From a person and a view to pixels: shading, shadows, occluders and the camera itself."""

from functools import lru_cache
from math import cos, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.ndimage import uniform_filter

from vireid_fast._checks import require
from vireid_fast.data.synthetic.attributes import Attributes, Material, require_integer
from vireid_fast.data.synthetic.cameras import CAMERAS, INFRARED, VISIBLE, Camera, camera_in
from vireid_fast.data.synthetic.figure import figure_parts
from vireid_fast.data.synthetic.raster import Canvas, Projection, draw_part
from vireid_fast.data.synthetic.scene import Picture, background, value_noise
from vireid_fast.data.synthetic.view import View, sample_view, walk

Image8 = NDArray[np.uint8]

# Streams of random numbers.
PICTURES, TRACKLETS = 0, 1
# Height of the feet in the image, from the top.
GROUND = 0.945
FABRIC_TILE = 128
# Texels of the fabric tile per metre, along and around a part.
FABRIC_DENSITY = (150.0, 95.0)
MINIMUM_SIDE, MAXIMUM_SIDE = 16, 2048
# How much folds bend the surface normal, per material.
FOLDS = np.zeros(len(Material), np.float32)
FOLDS[[Material.UPPER, Material.TRIM, Material.INNER]] = 0.17
FOLDS[[Material.LOWER, Material.LOWER_TRIM]] = 0.17
FOLDS[[Material.HAIR, Material.HEADWEAR]] = 0.18
FOLDS[[Material.CARRIED, Material.CARRIED_TRIM]] = 0.07
FOLDS[Material.SKIN] = 0.04


def render_person(
    attributes: Attributes, camera_id: int, view_seed: int, size: tuple[int, int] = (128, 64)
) -> Image8:
    """Picture of one person by one camera; equal arguments, equal picture.

    Args:
        attributes: The person.
        camera_id: 1, 2, 4, 5 (visible) or 3, 6 (infrared).
        view_seed: Non-negative; chooses facing direction, gait phase, place, light and occlusion.
        size: Height and width in pixels.

    Returns:
        RGB image; the three channels of an infrared one are equal. Shape (H, W, 3), uint8.

    Raises:
        TypeError: A seed or size is no integer. ValueError: A seed, camera or size is unusable.
    """
    what = "render_person"
    _check_arguments(what, attributes, camera_id, size)
    require_integer(what, "view_seed", view_seed, 0)
    rng = _stream(attributes, camera_id, view_seed, PICTURES)
    return _render(attributes, CAMERAS[camera_id], camera_id, sample_view(rng), size)


def faces_camera(attributes: Attributes, camera_id: int, view_seed: int) -> bool:
    """Whether `render_person` shows the person rather from the front than from the back."""
    view = sample_view(_stream(attributes, camera_id, view_seed, PICTURES))
    return cos(view.yaw) > 0


def render_tracklet(
    attributes: Attributes,
    camera_id: int,
    track_seed: int,
    frames: int,
    size: tuple[int, int] = (128, 64),
) -> Image8:
    """A person walking past one camera.

    Args:
        attributes: The person.
        camera_id: 1, 2, 4, 5 (visible) or 3, 6 (infrared).
        track_seed: Non-negative; one seed is one walk.
        frames: T, number of frames at 15 per gait cycle.
        size: Height and width in pixels.

    Returns:
        RGB frames; gait phase and position advance smoothly. Shape (T, H, W, 3), uint8.

    Raises:
        TypeError: A seed, count or size is no integer. ValueError: One of them is unusable.
    """
    views = _walk_views("render_tracklet", attributes, camera_id, track_seed, frames, size)
    return np.stack([_render(attributes, CAMERAS[camera_id], camera_id, v, size) for v in views])


def render_pair(
    attributes: Attributes,
    camera_id: int,
    track_seed: int,
    frames: int,
    size: tuple[int, int] = (128, 64),
) -> tuple[Image8, Image8]:
    """A walk recorded in both modalities at once, aligned pixel by pixel.

    Args:
        attributes, camera_id, track_seed, frames, size: As of `render_tracklet`, whose result is
            the half in the camera's own modality.

    Returns:
        Visible and infrared frames. Shape (T, H, W, 3) each, uint8.

    Raises:
        TypeError: A seed, count or size is no integer. ValueError: One of them is unusable.
    """
    views = _walk_views("render_pair", attributes, camera_id, track_seed, frames, size)
    cameras = [camera_in(camera_id, modality) for modality in (VISIBLE, INFRARED)]
    visible, infrared = (
        np.stack([_render(attributes, camera, camera_id, view, size) for view in views])
        for camera in cameras
    )
    return visible, infrared


def _walk_views(
    what: str,
    attributes: Attributes,
    camera_id: int,
    track_seed: int,
    frames: int,
    size: tuple[int, int],
) -> list[View]:
    """The views of a walk, of checked arguments."""
    _check_arguments(what, attributes, camera_id, size)
    require_integer(what, "track_seed", track_seed, 0)
    require_integer(what, "frames", frames, 1)
    first = sample_view(_stream(attributes, camera_id, track_seed, TRACKLETS))
    return [walk(first, frame, frames) for frame in range(frames)]


def _stream(
    person: Attributes, camera_id: int, view_seed: int, purpose: int
) -> np.random.Generator:
    """Random numbers of one view; pictures and tracklets of one seed differ."""
    return np.random.default_rng([person.seed, person.person_id, camera_id, view_seed, purpose])


def _check_arguments(what: str, person: object, camera_id: object, size: object) -> None:
    require(
        isinstance(person, Attributes), what, "attributes", "be Attributes", type(person).__name__,
        "Call sample_identity(seed, person_id).", TypeError,
    )  # fmt: skip
    require(camera_id in CAMERAS, what, "camera_id", f"be one of {list(CAMERAS)}", camera_id)
    require_size(what, size)


def require_size(what: str, size: Any) -> None:
    """Raise unless `size` is a usable (height, width)."""
    is_pair = isinstance(size, tuple | list) and len(size) == 2
    require(is_pair, what, "size", "be a pair (height, width)", size)
    for side in size:
        require_integer(what, "size", side, MINIMUM_SIDE)
        require(side <= MAXIMUM_SIDE, what, "size", f"be at most {MAXIMUM_SIDE}", side)
    height, width = size
    require(
        width <= height, what, "size", "be upright (width <= height)", tuple(size),
        "Pass (height, width).",
    )  # fmt: skip


def _render(
    person: Attributes, camera: Camera, camera_id: int, view: View, size: tuple[int, int]
) -> Image8:
    colour, alpha = _draw_figure(person, camera, view, size)
    surroundings = background(camera_id, camera.modality, view.variant, size[0])
    scene = _window(surroundings, view.window, size)
    scene = scene[..., : colour.shape[-1]] * (1.0 - _shadows(camera, view, alpha))[..., None]
    picture = scene * (1.0 - alpha)[..., None] + colour
    picture = _occlude(picture, camera, view)
    return _expose(picture, camera, view)


def _draw_figure(
    person: Attributes, camera: Camera, view: View, size: tuple[int, int]
) -> tuple[Picture, Picture]:
    """Lit figure, premultiplied, and its coverage; shapes (H, W, C) and (H, W)."""
    height, width = size
    factor = 4 if height < 96 else 2
    scale = height * factor * view.zoom / camera.field
    centre = width * factor * (0.5 + view.shift[0])
    ground = height * factor * (GROUND + view.shift[1])
    projection = Projection(view.yaw, camera.pitch, scale, (centre, ground))
    canvas = Canvas(height * factor, width * factor)
    for part in figure_parts(person, view.phase):
        draw_part(canvas, part, projection)
    colour, alpha = _shade(canvas, person, camera, scale)
    return _reduce(colour, factor), _reduce(alpha[..., None], factor)[..., 0]


def _shade(
    canvas: Canvas, person: Attributes, camera: Camera, scale: float
) -> tuple[Picture, Picture]:
    """Light on every covered pixel of the canvas."""
    covered = np.flatnonzero(canvas.material)
    material = canvas.material.ravel()[covered]
    x, y, z = (plane.ravel()[covered] for plane in canvas.normals)
    along, around = (plane.ravel()[covered] for plane in canvas.fabric)
    row = (along * FABRIC_DENSITY[0]).astype(np.intp) + 17 * material & (FABRIC_TILE - 1)
    column = (around * FABRIC_DENSITY[1]).astype(np.intp) & (FABRIC_TILE - 1)
    bend = _fabric()[:, row, column] * FOLDS[material]
    x, y = x + bend[0], y + bend[1]
    length = np.sqrt(x * x + y * y + z * z) + 1e-6
    light = np.asarray(camera.light, np.float32)
    light /= np.linalg.norm(light)
    lambert = np.maximum((x * light[0] + y * light[1] + z * light[2]) / length, 0.0)
    # The sky lights what faces up more than what faces down.
    sky = 0.86 - 0.22 * (y / length)
    shade = camera.ambient * sky + camera.direct * lambert
    shade *= 1.0 - _occlusion(canvas, scale).ravel()[covered]
    infrared = camera.modality == INFRARED
    table = np.asarray(person.reflectance if infrared else person.colours, np.float32)
    albedo = table.reshape(len(Material), -1)[material]
    colour = np.zeros((canvas.material.size, albedo.shape[1]), np.float32)
    colour[covered] = albedo * shade[:, None].astype(np.float32)
    alpha = (canvas.material > 0).astype(np.float32)
    return colour.reshape(*canvas.material.shape, -1), alpha


def _occlusion(canvas: Canvas, scale: float) -> Picture:
    """Darkening where a surface lies behind its neighbourhood, such as under an arm."""
    step = 2
    depth = canvas.depth[::step, ::step]
    covered = np.isfinite(depth)
    reach = max(3, int(0.11 * scale / step) | 1)
    weight = uniform_filter(covered.astype(np.float32), reach, mode="constant")
    total = uniform_filter(np.where(covered, depth, 0.0).astype(np.float32), reach, mode="constant")
    with np.errstate(invalid="ignore"):
        behind = (total / np.maximum(weight, 1e-3) - depth) / (0.10 * scale)
    shade = np.clip(behind - 0.05, 0.0, 1.0) * 0.55
    full = np.repeat(np.repeat(shade, step, axis=0), step, axis=1)
    return full[: canvas.height, : canvas.width].astype(np.float32)


@lru_cache(maxsize=1)
def _fabric() -> Picture:
    """Tileable slopes of cloth folds, shape (2, tile, tile): around and along a part."""
    rng = np.random.default_rng(0xFAB)
    folds = np.zeros((FABRIC_TILE, FABRIC_TILE), np.float64)
    y, x = np.mgrid[0:FABRIC_TILE, 0:FABRIC_TILE] * (2.0 * pi / FABRIC_TILE)
    for _ in range(40):
        waves_along, waves_around = int(rng.integers(1, 9)), int(rng.integers(-7, 8))
        phase = rng.uniform(0.0, 2.0 * pi)
        folds += np.sin(waves_along * y + waves_around * x + phase) / (1.0 + 0.25 * waves_along)
    # Sharpened ridges look like creases rather than waves.
    folds = np.sign(folds) * np.abs(folds) ** 0.8
    slopes = np.stack([np.gradient(folds, axis=1), np.gradient(folds, axis=0)])
    return (slopes / slopes.std()).astype(np.float32)


def _reduce(plane: Picture, factor: int) -> Picture:
    """Mean over factor x factor pixels; this is the anti-aliasing."""
    total = sum(plane[i::factor, j::factor] for i in range(factor) for j in range(factor))
    return np.asarray(total * np.float32(1.0 / factor**2))


def _window(scene: Picture, position: tuple[float, float], size: tuple[int, int]) -> Picture:
    """Part of a background behind the person."""
    height, width = size
    top = int((scene.shape[0] - height) * position[1])
    left = int(max(scene.shape[1] - width, 0) * position[0])
    return scene[top : top + height, left : left + width]


def _shadows(camera: Camera, view: View, alpha: Picture) -> Picture:
    """Cast shadow (the figure sheared onto the ground) and contact shadow; strength per pixel."""
    height, width = alpha.shape
    ground = height * (GROUND + view.shift[1])
    right, up, strength = camera.shadow
    mask = Image.fromarray((alpha * 255.0).astype(np.uint8))
    # Output pixel (X, Y) shows the figure at height (ground - Y) / up above the ground.
    matrix = (1.0, right / up, -ground * right / up, 0.0, 1.0 / up, ground - ground / up)
    cast = mask.transform((width, height), Image.Transform.AFFINE, matrix)
    cast = cast.filter(ImageFilter.GaussianBlur(0.010 * height))
    y = (np.arange(height, dtype=np.float32)[:, None] - ground + 0.004 * height) / (0.022 * height)
    centre = width * (0.5 + view.shift[0])
    x = (np.arange(width, dtype=np.float32) - centre) / (0.105 * height)
    contact = np.exp(-(y * y) - x * x)
    return np.maximum(np.asarray(cast, np.float32) * (strength / 255.0), 0.62 * contact)


def _occlude(picture: Picture, camera: Camera, view: View) -> Picture:
    """Something between camera and person: a pillar, a hedge or a rail."""
    if view.occluder == "none":
        return picture
    height, width, channels = picture.shape
    rng = np.random.default_rng(view.noise_seed // 1009)
    x = np.linspace(0.0, 1.0, width, dtype=np.float32)
    y = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    amount = abs(view.occlusion)
    tone = np.array([0.46, 0.45, 0.44])
    shade: Any
    if view.occluder == "pillar":
        edge = 0.34 * amount
        distance = x if view.occlusion < 0 else 1.0 - x
        cover = np.broadcast_to(np.clip((edge - distance) * width * 0.5, 0.0, 1.0), (height, width))
        shade = 0.55 + 0.45 * np.cos(np.clip(distance / edge * 2.4 - 1.0, -1.5, 1.5))
    elif view.occluder == "hedge":
        bumps = value_noise(rng, 2, width, width / 9)[:1] * 0.018
        cover = np.clip((y - (1.0 - 0.24 * amount) - bumps) * height * 0.4, 0.0, 1.0)
        shade = 0.85 + 0.16 * value_noise(rng, height, width, max(1.5, height / 64))
        shade = shade + 0.20 * value_noise(rng, height, width, height / 22)
        tone = np.array([0.23, 0.37, 0.17])
    else:
        top = 0.70 + 0.08 * amount
        bars = ((x * 5.0 + amount) % 1.0 < 0.10) & (y > top) & (y < 0.97)
        beam = (np.abs(y - top) < 0.013) | (np.abs(y - 0.93) < 0.009)
        cover, shade = (bars | beam).astype(np.float32), 1.0
        tone = np.array([0.25, 0.26, 0.28])
    if camera.modality == INFRARED:
        tone = tone[:1] * 0.9
    solid = np.broadcast_to(shade, (height, width))[..., None] * tone[:channels]
    return picture + (solid - picture) * cover[..., None]


@lru_cache(maxsize=32)
def _vignette(height: int, width: int, strength: float) -> Any:
    y = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None]
    x = np.linspace(-1.0, 1.0, width, dtype=np.float32)
    return (1.0 - strength * np.clip((x * x + y * y) / 2.0, 0.0, 1.0))[..., None]


def _expose(picture: Picture, camera: Camera, view: View) -> Image8:
    """Lens, white balance, tone curve and sensor noise."""
    height, width, channels = picture.shape
    gain = np.asarray(camera.tint, np.float32)[:channels] * view.light
    if channels == 3:
        gain = gain * np.array([1.0 + view.balance, 1.0, 1.0 - view.balance])
    picture = picture * _vignette(height, width, camera.vignette) * gain.astype(np.float32)
    picture = (picture - 0.5) * camera.contrast + 0.5
    if view.blur:
        pixels = _quantise(picture)
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        image = image.filter(ImageFilter.GaussianBlur(view.blur * height))
        picture = np.asarray(image, np.float32).reshape(height, width, channels) / 255.0
    rng = np.random.default_rng(view.noise_seed)
    noise = rng.standard_normal((height, width, channels), np.float32)
    pixels = _quantise(picture + noise * np.float32(camera.noise))
    return np.repeat(pixels, 3, axis=2) if channels == 1 else pixels


def _quantise(picture: Picture) -> Image8:
    return (np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
