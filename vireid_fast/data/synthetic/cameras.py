"""The six cameras of the synthetic set, numbered as in SYSU-MM01."""

from dataclasses import dataclass, replace

VISIBLE, INFRARED = 0, 1


@dataclass(frozen=True)
class Camera:
    """Place, optics and light of one camera.

    Attributes:
        modality: 0 visible, 1 infrared.
        place: Background name of `scene`.
        pitch: Downward tilt in radians.
        field: Height of the image in metres at the person.
        light: Direction towards the main light: image right, image down, towards the camera.
        ambient: Brightness of surfaces that face away from the main light.
        direct: Brightness that the main light adds.
        tint: White balance per channel.
        contrast: Gain around mid grey.
        noise: Standard deviation of the sensor noise, full scale 1.
        vignette: Darkening of the image corners.
        shadow: Skew (right, up) of the cast shadow per unit height, and its strength.
    """

    modality: int
    place: str
    pitch: float
    field: float
    light: tuple[float, float, float]
    ambient: float
    direct: float
    tint: tuple[float, float, float]
    contrast: float
    noise: float
    vignette: float
    shadow: tuple[float, float, float]


CAMERAS: dict[int, Camera] = {
    1: Camera(
        VISIBLE, "corridor", 0.20, 1.98, (-0.15, -0.85, 0.50), 0.55, 0.52,
        (0.97, 1.00, 1.05), 1.00, 0.012, 0.16, (0.10, 0.16, 0.45),
    ),
    2: Camera(
        VISIBLE, "lobby", 0.11, 2.04, (0.55, -0.55, 0.63), 0.46, 0.58,
        (1.08, 1.00, 0.88), 1.05, 0.016, 0.24, (-0.35, 0.20, 0.50),
    ),
    3: Camera(
        INFRARED, "lobby", 0.15, 2.00, (0.0, -0.12, 1.0), 0.16, 0.86,
        (1.0, 1.0, 1.0), 1.05, 0.020, 0.46, (0.04, 0.10, 0.35),
    ),
    4: Camera(
        VISIBLE, "street", 0.16, 2.02, (-0.65, -0.50, 0.57), 0.45, 0.68,
        (0.98, 1.00, 1.02), 1.08, 0.014, 0.14, (0.75, 0.30, 0.62),
    ),
    5: Camera(
        VISIBLE, "park", 0.08, 2.05, (0.70, -0.60, 0.38), 0.42, 0.78,
        (1.05, 1.01, 0.90), 1.10, 0.012, 0.10, (-0.70, 0.24, 0.60),
    ),
    6: Camera(
        INFRARED, "street", 0.22, 2.03, (-0.30, -0.30, 0.90), 0.12, 0.92,
        (1.0, 1.0, 1.0), 1.12, 0.026, 0.55, (0.10, 0.12, 0.30),
    ),
}  # fmt: skip

VISIBLE_CAMERAS = tuple(number for number, c in CAMERAS.items() if c.modality == VISIBLE)
INFRARED_CAMERAS = tuple(number for number, c in CAMERAS.items() if c.modality == INFRARED)


def camera_in(camera_id: int, modality: int) -> Camera:
    """What a camera would be in a modality: same place, tilt and field, other light and optics.

    These are taken from a camera of that modality, one at the same place if there is one.
    """
    own = CAMERAS[camera_id]
    if own.modality == modality:
        return own
    others = [camera for camera in CAMERAS.values() if camera.modality == modality]
    donor = next((camera for camera in others if camera.place == own.place), others[0])
    return replace(donor, place=own.place, pitch=own.pitch, field=own.field)
