"""Head, hair and headwear as parts."""

import numpy as np
from numpy.typing import NDArray

from vireid_fast.data.synthetic.attributes import Attributes, Material
from vireid_fast.data.synthetic.pose import Skeleton, Vector, moved
from vireid_fast.data.synthetic.raster import Paint, Part, Plane

Labels = NDArray[np.uint8]

# Half widths and depths of a head from crown to chin for a 1.70 m person, metres.
WIDTHS = np.array([0.060, 0.077, 0.081, 0.078, 0.068, 0.046])
DEPTHS = np.array([0.068, 0.094, 0.100, 0.098, 0.088, 0.062])


def head_parts(person: Attributes, skeleton: Skeleton) -> list[Part]:
    """Neck, head, and what grows on it or is worn on it."""
    unit = person.height / 1.70
    start = moved(skeleton.crown, 0.0, -0.038 * unit, 0.0)
    end = moved(skeleton.chin, 0.0, 0.026 * unit, 0.0)
    neck_radius = (0.054 if person.build != "broad" else 0.064) * unit
    parts = [
        Part(
            moved(skeleton.chin, 0.0, 0.05, -0.02), skeleton.neck, (neck_radius,) * 2, Material.SKIN
        ),
        _shell(start, end, unit, 1.0, _face),
    ]
    if person.hair == "hood":
        parts += _raised_hood(person, skeleton, start, end, unit)
    elif person.hair == "cap":
        parts += _cap(start, end, unit)
    elif person.hair != "bald":
        parts.append(_shell(start, end, unit, 1.09, _short_hair))
    if person.hair == "long":
        parts.append(_long_hair(skeleton, unit))
    elif person.hair == "ponytail":
        parts.append(_ponytail(skeleton, unit))
    parts += _neckwear(person, skeleton, unit)
    return parts


def _shell(start: Vector, end: Vector, unit: float, factor: float, paint: Paint) -> Part:
    return Part(
        start, end, tuple(WIDTHS * unit * factor), paint,
        depths=tuple(DEPTHS * unit * factor), caps=(0.62 * factor, 0.6),
    )  # fmt: skip


def _face(along: Plane, side: Plane, front: Plane) -> Labels:
    labels = np.full(along.shape, Material.SKIN, np.uint8)
    ahead = front > 0.0
    eyes = (np.abs(np.abs(side) - 0.40) < 0.13) & (along > 0.45) & (along < 0.56)
    mouth = (np.abs(side) < 0.24) & (along > 0.86) & (along < 0.92)
    labels[ahead & (eyes | mouth)] = Material.EYES
    return labels


def _short_hair(along: Plane, side: Plane, front: Plane) -> Labels:
    # The hair line falls from the forehead over the temples to the nape.
    line = np.where(front > 0.0, 0.20 + 0.16 * np.abs(side), 0.36 - 0.62 * front)
    return np.where(along < line, np.uint8(Material.HAIR), np.uint8(Material.NONE))


def _long_hair(skeleton: Skeleton, unit: float) -> Part:
    def paint(along: Plane, side: Plane, front: Plane) -> Labels:
        shown = (front < 0.58) | (along < 0.04)
        return np.where(shown, np.uint8(Material.HAIR), np.uint8(Material.NONE))

    top = skeleton.crown + np.array([0.0, -0.075, -0.012]) * unit
    return Part(
        top, skeleton.chin + np.array([0.0, -0.17, -0.055]) * unit,
        tuple(np.array([0.080, 0.096, 0.102, 0.106, 0.112, 0.098]) * unit), paint,
        depths=tuple(np.array([0.095, 0.100, 0.095, 0.085, 0.080, 0.070]) * unit),
        caps=(0.7, 0.35),
    )  # fmt: skip


def _ponytail(skeleton: Skeleton, unit: float) -> Part:
    root = skeleton.crown + np.array([0.0, -0.060, -0.105]) * unit
    return Part(
        root, root + np.array([0.02, -0.30, -0.055]) * unit,
        tuple(np.array([0.022, 0.040, 0.042, 0.034, 0.012]) * unit), Material.HAIR,
    )  # fmt: skip


def _cap(start: Vector, end: Vector, unit: float) -> list[Part]:
    def paint(along: Plane, side: Plane, front: Plane) -> Labels:
        labels = _short_hair(along, side, front)
        labels[along < 0.34] = Material.HEADWEAR
        return labels

    brim = start + (end - start) * 0.36 + np.array([0.0, 0.0, 0.115]) * unit
    thickness = np.array([0.0, 0.016, 0.0]) * unit
    disc = Part(
        brim, brim - thickness, (0.074 * unit,) * 2, Material.HEADWEAR,
        depths=(0.085 * unit,) * 2, caps=(0.1, 0.1),
    )  # fmt: skip
    return [_shell(start, end, unit, 1.11, paint), disc]


def _raised_hood(
    person: Attributes, skeleton: Skeleton, start: Vector, end: Vector, unit: float
) -> list[Part]:
    is_sleeveless = person.upper in ("t-shirt", "dress", "vest")
    cloth = Material.HEADWEAR if is_sleeveless else Material.UPPER

    def paint(along: Plane, side: Plane, front: Plane) -> Labels:
        opening = (front > 0.50) & (along > 0.16) & (along < 0.93)
        return np.where(opening, np.uint8(Material.NONE), np.uint8(cloth))

    shift = np.array([0.0, 0.014, -0.016]) * unit
    cape_radii = tuple(np.array([0.085, 0.105, 0.125]) * unit)
    cape_depths = tuple(np.array([0.085, 0.095, 0.10]) * unit)
    cape = Part(
        skeleton.chin, moved(skeleton.neck, 0.0, -0.03 * unit, 0.0), cape_radii, cloth,
        depths=cape_depths, caps=(0.3, 0.4),
    )  # fmt: skip
    hood = Part(
        start + shift, end + shift + [0.0, -0.05 * unit, 0.0],
        tuple(WIDTHS * unit * 1.27), paint, depths=tuple(DEPTHS * unit * 1.2), caps=(0.75, 0.3),
    )  # fmt: skip
    return [hood, cape]


def _neckwear(person: Attributes, skeleton: Skeleton, unit: float) -> list[Part]:
    """Lowered hood or standing collar."""
    if person.upper == "hoodie" and person.hair != "hood":
        centre = skeleton.neck + np.array([0.0, 0.045, -0.035]) * unit
        radii = tuple(np.array([0.090, 0.112, 0.105]) * unit)
        depths = tuple(np.array([0.085, 0.110, 0.100]) * unit)
        drop = np.array([0.0, -0.06, -0.02]) * unit
        return [Part(centre, centre + drop, radii, Material.UPPER, depths=depths, caps=(0.3, 0.4))]
    if person.upper in ("jacket", "coat", "vest", "sweater") and person.hair != "hood":
        material = Material.UPPER if person.upper in ("vest", "sweater") else Material.TRIM
        top = skeleton.neck + np.array([0.0, 0.048, -0.008]) * unit
        drop = np.array([0.0, -0.06, 0.0]) * unit
        radii = (0.066 * unit, 0.078 * unit)
        return [Part(top, top + drop, radii, material, caps=(0.12, 0.3))]
    return []
