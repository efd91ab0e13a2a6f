"""Joint positions of a walking person, in metres.

Body frame: x to the person's left, y up from the ground, z forward. A person who faces the camera
has x to the right of the image.
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from vireid_fast.data.synthetic.attributes import Attributes

Vector = NDArray[np.float64]

# Segment lengths over body height, after common anthropometric tables (rounded).
UPPER_ARM, FOREARM, HAND = 0.165, 0.150, 0.050
HEAD, NECK = 0.132, 0.045
THIGH_SHARE = 0.52


@dataclass(frozen=True)
class Limb:
    """Joints of one arm (shoulder, elbow, wrist) or leg (hip, knee, ankle), and the tip."""

    root: Vector
    middle: Vector
    end: Vector
    tip: Vector


@dataclass(frozen=True)
class Skeleton:
    """Joints of one posture. `arms` and `legs` are (left, right)."""

    crown: Vector
    chin: Vector
    neck: Vector
    chest: Vector
    pelvis: Vector
    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]


def moved(point: Vector, left: float, up: float, forward: float) -> Vector:
    """The point shifted by so many metres in the body frame."""
    return point + np.array((left, up, forward))


def walking_skeleton(person: Attributes, phase: float) -> Skeleton:
    """Posture at a gait phase.

    Args:
        person: Body proportions, gait style and carried object.
        phase: Position in the walking cycle in radians; 2 pi is two steps.

    Returns:
        Joints whose lower foot stands on the ground (y = 0).
    """
    height = person.height
    hips = [_leg_angles(person.stride, phase + side) for side in (0.0, pi)]
    leg_length = person.leg_ratio * height
    reach = max(_leg_drop(leg_length, *angles) for angles in hips)
    ankle_height = 0.045 * height
    pelvis = np.array([0.0, reach + ankle_height, 0.0])
    torso = height * (1.0 - HEAD - NECK) - leg_length - ankle_height
    up = np.array([0.02 * sin(phase), cos(person.lean), sin(person.lean)])
    neck = pelvis + up * torso
    chest = pelvis + up * torso * 0.835
    chin = neck + np.array([0.0, NECK * height, 0.012 * height])
    crown = chin + np.array([0.0, HEAD * height, 0.0])
    legs = (_leg(person, pelvis, 1.0, hips[0]), _leg(person, pelvis, -1.0, hips[1]))
    arms = (_arm(person, chest, 1.0, phase), _arm(person, chest, -1.0, phase))
    return Skeleton(crown, chin, neck, chest, pelvis, arms, legs)


def _leg_angles(stride: float, phase: float) -> tuple[float, float]:
    """Thigh angle (forward positive) and knee flexion; the knee bends while the leg swings."""
    thigh = stride * sin(phase) + 0.04
    knee = 0.07 + 0.85 * max(0.0, cos(phase + 0.25)) ** 1.6
    return thigh, knee


def _leg_drop(leg_length: float, thigh: float, knee: float) -> float:
    upper = leg_length * THIGH_SHARE
    return upper * cos(thigh) + (leg_length - upper) * cos(thigh - knee)


def _swing(angle: float, outward: float = 0.0) -> Vector:
    """Unit vector of a hanging segment swung forward by `angle` and sideways by `outward`."""
    return np.array([sin(outward), -cos(angle) * cos(outward), sin(angle) * cos(outward)])


def _leg(person: Attributes, pelvis: Vector, sign: float, angles: tuple[float, float]) -> Limb:
    thigh, knee = angles
    length = person.leg_ratio * person.height
    hip = pelvis + np.array([sign * 0.049 * person.height, 0.0, 0.0])
    middle = hip + _swing(thigh, -sign * 0.015) * length * THIGH_SHARE
    ankle = middle + _swing(thigh - knee, -sign * 0.02) * length * (1.0 - THIGH_SHARE)
    # The foot follows the shin, but a standing foot stays flat.
    pitch = (thigh - knee) * 0.75 if thigh < 0.0 else max(thigh - knee, 0.0) * 0.5
    forward = np.array([sign * 0.12, sin(pitch), cos(pitch)])
    return Limb(hip, middle, ankle, ankle + forward * 0.105 * person.height)


def _arm(person: Attributes, chest: Vector, sign: float, phase: float) -> Limb:
    height = person.height
    # The left arm swings against the left leg.
    shoulder_swing = -person.arm_swing * sin(phase) * sign
    elbow = 0.30 + 0.25 * max(0.0, shoulder_swing)
    outward = {"slim": 0.10, "average": 0.14, "broad": 0.20}[person.build]
    if person.carried == "box":
        shoulder_swing, elbow, outward = 0.12, 1.35, 0.10
    elif person.carried == "umbrella" and sign < 0:
        shoulder_swing, elbow = 0.55, 1.65
    elif person.carried == "suitcase" and sign < 0:
        shoulder_swing, elbow, outward = -0.30, 0.12, 0.22
    elif person.carried == "handbag" and sign > 0:
        shoulder_swing, elbow = shoulder_swing * 0.3, 0.12
    twist = 0.018 * height * sin(phase) * -sign
    shoulder = chest + np.array([sign * (person.shoulder_ratio * height - 0.022), 0.0, twist])
    middle = shoulder + _swing(shoulder_swing, sign * outward) * UPPER_ARM * height
    inward = -sign * (0.35 if person.carried == "box" else 0.02)
    direction = _swing(shoulder_swing + elbow, inward)
    wrist = middle + direction * FOREARM * height
    return Limb(shoulder, middle, wrist, wrist + direction * HAND * height)
