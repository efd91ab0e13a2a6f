"""The dressed body as a list of parts; widths are metres, patterns are paint functions."""

import numpy as np
from numpy.typing import NDArray

from vireid_fast.data.synthetic.attributes import Attributes, Material
from vireid_fast.data.synthetic.carried import carried_parts, strap_mask
from vireid_fast.data.synthetic.head import head_parts
from vireid_fast.data.synthetic.pose import Limb, Skeleton, moved, walking_skeleton
from vireid_fast.data.synthetic.raster import Paint, Part, Plane

Labels = NDArray[np.uint8]

# (width, depth, limb) factors of the torso and the limbs.
BUILD_FACTORS = {"slim": (0.86, 0.84, 0.84), "average": (1.0, 1.0, 1.0), "broad": (1.20, 1.34, 1.2)}
# How far a garment stands off the body, metres.
GARMENT_THICKNESS = {
    "t-shirt": 0.002, "sweater": 0.008, "jacket": 0.016, "hoodie": 0.013,
    "vest": 0.022, "coat": 0.016, "dress": 0.0,
}  # fmt: skip
SHORT_SLEEVED = ("t-shirt", "dress")
ZIPPED = ("jacket", "vest", "coat", "hoodie")


def figure_parts(person: Attributes, phase: float) -> list[Part]:
    """All parts of a person at a gait phase, in no particular order.

    Args:
        person: Identity to draw.
        phase: Position in the walking cycle, radians.

    Returns:
        Parts in the body frame of `pose`, metres.
    """
    skeleton = walking_skeleton(person, phase)
    parts = [_torso(person, skeleton), *_legs(person, skeleton), *_arms(person, skeleton)]
    parts += _skirts(person, skeleton)
    parts += head_parts(person, skeleton)
    parts += carried_parts(person, skeleton)
    return parts


def _torso(person: Attributes, skeleton: Skeleton) -> Part:
    wide, deep, _ = BUILD_FACTORS[person.build]
    shoulder = person.shoulder_ratio * person.height
    unit = person.height / 1.70
    thick = GARMENT_THICKNESS[person.upper]
    widths = np.array([0.076, 0.80 * shoulder, 0.97 * shoulder, 0.97 * shoulder])
    trunk = np.array([0.168, 0.154, 0.147, 0.153, 0.166, 0.150]) * unit * wide
    depths = np.array([0.060, 0.085, 0.108, 0.120, 0.122, 0.116, 0.112, 0.114, 0.118, 0.110])
    if person.upper in ("jacket", "hoodie", "coat"):
        trunk[2:5] += 0.012
    lateral = np.concatenate([widths, trunk]) + thick
    return Part(
        start=skeleton.neck,
        end=moved(skeleton.pelvis, 0.0, -0.035 * unit, 0.0),
        radii=tuple(lateral),
        depths=tuple(depths * unit * deep + thick),
        paint=_torso_paint(person),
        caps=(0.5, 0.6),
        boxiness=0.35,
    )


def _torso_paint(person: Attributes) -> Paint:
    """Cut and pattern of the upper garment, waistband, belt and straps."""
    strap = strap_mask(person.carried)

    def paint(along: Plane, side: Plane, front: Plane) -> Labels:
        labels = _pattern(person, along, side, front)
        ahead = front > 0.0
        centre = np.abs(side)
        if person.is_open:
            labels[ahead & (centre < 0.24 + 0.16 * along)] = Material.INNER
        elif person.upper in ZIPPED:
            labels[ahead & (centre < 0.055)] = Material.TRIM
        if person.upper in ("jacket", "coat"):
            labels[(along < 0.075) & ~(ahead & (centre < 0.3))] = Material.TRIM
        if person.upper in SHORT_SLEEVED:
            labels[ahead & (centre < 0.55 - 6.0 * along)] = Material.SKIN
        if person.upper in ("hoodie", "sweater", "vest", "jacket"):
            labels[along > 0.84] = Material.TRIM
        if person.upper not in ("coat", "dress"):
            labels[along > 0.89] = Material.LOWER
        if person.has_belt:
            labels[(along > 0.80) & (along < 0.875)] = Material.BELT
        if strap is not None:
            labels[strap(along, side, front)] = Material.CARRIED
        return labels

    return paint


def _pattern(person: Attributes, along: Plane, side: Plane, front: Plane) -> Labels:
    """The cloth of the upper garment before its cut: plain, striped, banded or printed."""
    labels = np.full(along.shape, Material.UPPER, np.uint8)
    if person.pattern == "striped":
        labels[(along * 6.5) % 1.0 > 0.55] = Material.TRIM
    elif person.pattern == "banded":
        labels[(along > 0.30) & (along < 0.52)] = Material.TRIM
    elif person.pattern == "printed":
        emblem = (side / 0.50) ** 2 + ((along - 0.36) / 0.15) ** 2 < 1.0
        labels[emblem & (np.abs(front) > 0.3)] = Material.TRIM
    elif person.upper == "vest":
        labels[(along * 6.0) % 1.0 < 0.14] = Material.TRIM
    return labels


def _sleeve_paint(person: Attributes, upper_half: bool) -> Paint | Material:
    if person.upper == "vest":
        return Material.INNER
    if person.upper in SHORT_SLEEVED and not upper_half:
        return Material.SKIN

    def paint(along: Plane, side: Plane, front: Plane) -> Labels:
        labels = np.full(along.shape, Material.UPPER, np.uint8)
        if person.pattern == "striped":
            labels[(along * 3.4) % 1.0 > 0.55] = Material.TRIM
        elif person.pattern == "banded" and upper_half:
            labels[(along > 0.55) & (along < 0.95)] = Material.TRIM
        if person.upper in SHORT_SLEEVED:
            labels[along > 0.62] = Material.SKIN
        elif not upper_half:
            labels[along > 0.90] = Material.TRIM
        return labels

    return paint


def _arms(person: Attributes, skeleton: Skeleton) -> list[Part]:
    limb = BUILD_FACTORS[person.build][2] * person.height / 1.70
    thick = 0.006 if person.upper == "vest" else GARMENT_THICKNESS[person.upper]
    bare = person.upper in SHORT_SLEEVED
    upper = np.array([0.052, 0.053, 0.048, 0.043]) * limb + thick
    if bare:
        upper += [0.002, 0.008, -0.003, -0.003]
    lower = np.array([0.042, 0.041, 0.036, 0.030]) * limb + thick * (0.3 if bare else 1.0)
    parts = []
    for arm in skeleton.arms:
        parts.append(Part(arm.root, arm.middle, tuple(upper), _sleeve_paint(person, True)))
        parts.append(
            Part(arm.middle, arm.end, tuple(lower), _sleeve_paint(person, False), caps=(1.0, 0.5))
        )
        hand = (0.027 * limb, 0.036 * limb, 0.028 * limb)
        parts.append(Part(arm.end, arm.tip, hand, Material.SKIN))
    return parts


def _leg_radii(person: Attributes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    limb = BUILD_FACTORS[person.build][2] * person.height / 1.70
    thigh = np.array([0.084, 0.082, 0.071, 0.058]) * limb
    shin = np.array([0.056, 0.058, 0.046, 0.036]) * limb
    if person.lower == "trousers":
        thigh, shin = thigh + 0.006, shin + np.array([0.008, 0.008, 0.014, 0.020])
    elif person.lower == "wide trousers":
        thigh = thigh + np.array([0.008, 0.014, 0.024, 0.034])
        shin = shin + np.array([0.034, 0.040, 0.062, 0.082])
    elif person.lower == "shorts":
        thigh = thigh + np.array([0.008, 0.012, 0.020, 0.026])
    if person.upper in ("coat", "dress") or person.lower == "skirt":
        # Under a skirt, so that the thighs do not show through it.
        thigh = np.minimum(thigh, np.array([0.066, 0.066, 0.066, 0.064]) * limb)
    if person.shoes == "boots" and person.lower != "wide trousers":
        shin = np.maximum(shin, np.array([0.0, 0.060, 0.056, 0.052]) * limb)
    return thigh, shin


def _leg_paint(person: Attributes, is_thigh: bool, sign: float) -> Paint:
    has_cloth = person.lower in ("trousers", "wide trousers") or (
        person.lower == "shorts" and is_thigh
    )
    cloth = Material.LOWER if has_cloth else Material.SKIN
    boot = person.shoes == "boots" and not is_thigh and person.lower != "wide trousers"

    def paint(along: Plane, side: Plane, front: Plane) -> Labels:
        labels = np.full(along.shape, cloth, np.uint8)
        if person.side_stripe and has_cloth:
            labels[side * sign > 0.88] = Material.LOWER_TRIM
        if boot:
            labels[along > 0.38] = Material.SHOES
        return labels

    return paint


def _legs(person: Attributes, skeleton: Skeleton) -> list[Part]:
    thigh, shin = _leg_radii(person)
    parts = []
    for leg, sign in zip(skeleton.legs, (1.0, -1.0), strict=True):
        end_cap = 0.15 if person.lower == "shorts" else 1.0
        paint = _leg_paint(person, True, sign)
        parts.append(Part(leg.root, leg.middle, tuple(thigh), paint, caps=(1.0, end_cap)))
        paint = _leg_paint(person, False, sign)
        parts.append(Part(leg.middle, leg.end, tuple(shin), paint, caps=(1.0, 0.3)))
        parts += _shoe(person, leg)
    return parts


def _shoe(person: Attributes, leg: Limb) -> list[Part]:
    unit = person.height / 1.70
    forward = leg.tip - leg.end
    drop = np.array([0.0, -0.036 * unit, 0.0])
    heel, toe = leg.end + drop - forward * 0.18, leg.end + drop + forward * 0.82
    radii = tuple(np.array([0.040, 0.048, 0.046, 0.036]) * unit)
    sole_drop = np.array([0.0, -0.016 * unit, 0.0])
    sole = tuple(np.array([0.036, 0.036, 0.038, 0.032]) * unit)
    return [
        Part(heel, toe, radii, Material.SHOES, caps=(0.7, 0.9)),
        Part(heel + sole_drop, toe + sole_drop, sole, Material.SOLE, caps=(0.9, 1.25)),
    ]


def _skirts(person: Attributes, skeleton: Skeleton) -> list[Part]:
    """The cloth below the waist of coats, dresses and skirts: a cone wide enough for the step."""
    if person.upper == "coat":
        return [_cone(person, skeleton, 0.56, 0.030, Material.UPPER)]
    if person.upper == "dress":
        return [_cone(person, skeleton, 0.92, 0.075, Material.UPPER)]
    if person.lower == "skirt":
        return [_cone(person, skeleton, 0.82, 0.050, Material.LOWER)]
    return []


def _cone(
    person: Attributes, skeleton: Skeleton, bottom: float, flare: float, material: Material
) -> Part:
    """One skirt; `bottom` is the height of the hem over the knee's height above the ground."""
    wide, deep, _ = BUILD_FACTORS[person.build]
    unit = person.height / 1.70
    thick = GARMENT_THICKNESS[person.upper] if material is Material.UPPER else 0.004
    start = moved(skeleton.pelvis, 0.0, 0.11 * unit, 0.0)
    knee_height = float(np.mean([leg.middle[1] for leg in skeleton.legs]))
    knee_share = (start[1] - knee_height) / (start[1] - knee_height * bottom)
    at_knee = [float(leg.middle[2]) for leg in skeleton.legs]
    at_hem = [
        float(leg.middle[2] + (leg.end[2] - leg.middle[2]) * (1.0 - bottom))
        for leg in skeleton.legs
    ]
    centre = (max(at_knee + at_hem) + min(at_knee + at_hem)) / 2.0
    hip, hip_depth = 0.172 * unit * wide + thick, 0.126 * unit * deep + thick
    hem = max(hip + flare, 0.19 * unit)
    # The cone is straight from hip to hem and must clear the legs at the knees and at the hem.
    hem_depth = hip_depth + flare
    for share, reaches in ((knee_share, at_knee), (1.0, at_hem)):
        room = max(abs(z - share * centre) for z in reaches) + 0.095 * unit
        hem_depth = max(hem_depth, hip_depth + (room - hip_depth) / share)
    is_coat = material is Material.UPPER and person.upper == "coat"

    def paint(along: Plane, side: Plane, front: Plane) -> Labels:
        labels = np.full(along.shape, material, np.uint8)
        trim = Material.LOWER_TRIM if material is Material.LOWER else Material.TRIM
        if material is Material.UPPER and person.pattern == "striped":
            labels[(along * 5.0) % 1.0 > 0.55] = trim
        elif person.pattern == "banded" and material is Material.UPPER:
            labels[(along > 0.72) & (along < 0.88)] = trim
        elif material is Material.LOWER:
            labels[(along > 0.88) & (along < 0.95)] = trim
        if is_coat:
            gap = 0.30 + 0.25 * along if person.is_open else 0.055
            opening = Material.NONE if person.is_open else Material.TRIM
            labels[(front > 0.0) & (np.abs(side) < gap)] = opening
        # A slightly wavy hem reads as cloth.
        labels[along > 0.975 + 0.02 * np.sin(9.0 * side)] = Material.NONE
        return labels

    return Part(
        start=start,
        end=np.array([0.0, knee_height * bottom, centre]),
        radii=(hip * 0.9, hip, hip + 0.4 * (hem - hip), hip + 0.75 * (hem - hip), hem),
        depths=(
            hip_depth * 0.95, hip_depth * 1.02, hip_depth + 0.45 * (hem_depth - hip_depth),
            hip_depth + 0.78 * (hem_depth - hip_depth), hem_depth,
        ),
        paint=paint,
        caps=(0.2, 0.0),
        boxiness=0.7,
    )  # fmt: skip
