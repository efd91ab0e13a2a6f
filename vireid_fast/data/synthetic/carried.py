"""Belongings that a person carries, as parts, and the straps that they leave on the torso."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vireid_fast.data.synthetic.attributes import Attributes, Material
from vireid_fast.data.synthetic.pose import Skeleton, moved
from vireid_fast.data.synthetic.raster import Part, Plane

Labels = NDArray[np.uint8]
Mask = Callable[[Plane, Plane, Plane], NDArray[np.bool_]]


def strap_mask(carried: str) -> Mask | None:
    """Where straps cross the torso, as a function (along, side, front); None without straps."""
    if carried == "backpack":
        return lambda along, side, front: (
            (front > 0.0) & (np.abs(np.abs(side) - 0.56) < 0.11) & (along < 0.60)
        )
    if carried == "shoulder bag":
        return lambda along, side, front: (
            (np.abs(side - (1.9 * along - 0.72)) < 0.13) & (along < 0.90)
        )
    return None


def carried_parts(person: Attributes, skeleton: Skeleton) -> list[Part]:
    """Parts of the carried object; empty for "nothing"."""
    builders = {
        "backpack": _backpack,
        "shoulder bag": _shoulder_bag,
        "handbag": _handbag,
        "suitcase": _suitcase,
        "umbrella": _umbrella,
        "box": _box,
    }
    builder = builders.get(person.carried)
    return builder(person, skeleton) if builder else []


def _panel(low: float, high: float) -> Callable[[Plane, Plane, Plane], Labels]:
    """Paint with one contrasting panel between `low` and `high` along the object."""

    def paint(along: Plane, side: Plane, front: Plane) -> Labels:
        inside = (along > low) & (along < high)
        return np.where(inside, np.uint8(Material.CARRIED_TRIM), np.uint8(Material.CARRIED))

    return paint


def _backpack(person: Attributes, skeleton: Skeleton) -> list[Part]:
    depth = {"slim": 0.175, "average": 0.195, "broad": 0.235}[person.build]
    top = moved(skeleton.chest, 0.0, -0.01, -depth)
    return [
        Part(
            top, moved(top, 0.0, -0.36, -0.005), (0.105, 0.150, 0.160, 0.165, 0.155),
            _panel(0.52, 0.95), depths=(0.06, 0.095, 0.11, 0.115, 0.105), caps=(0.4, 0.3),
            boxiness=1.0,
        ),
    ]  # fmt: skip


def _shoulder_bag(person: Attributes, skeleton: Skeleton) -> list[Part]:
    out = {"slim": 0.20, "average": 0.225, "broad": 0.265}[person.build]
    top = moved(skeleton.pelvis, out, 0.10, 0.03)
    return [
        Part(
            top, moved(top, 0.015, -0.24, 0.0), (0.055, 0.07, 0.075, 0.07), _panel(0.0, 0.34),
            depths=(0.135, 0.15, 0.155, 0.15), caps=(0.25, 0.25), boxiness=1.5,
        )
    ]  # fmt: skip


def _handbag(person: Attributes, skeleton: Skeleton) -> list[Part]:
    hand = skeleton.arms[0].tip
    top = moved(hand, 0.0, -0.13, 0.0)
    handles = [
        Part(hand, moved(top, 0.0, 0.0, offset), (0.009, 0.009), Material.CARRIED_TRIM)
        for offset in (-0.085, 0.085)
    ]
    bag = Part(
        top, moved(top, 0.0, -0.21, 0.0), (0.050, 0.065, 0.070), _panel(0.05, 0.22),
        depths=(0.12, 0.16, 0.175), caps=(0.15, 0.2), boxiness=1.5,
    )  # fmt: skip
    return [bag, *handles]


def _suitcase(person: Attributes, skeleton: Skeleton) -> list[Part]:
    hand = skeleton.arms[1].tip

    def ribs(along: Plane, side: Plane, front: Plane) -> Labels:
        rib = (along * 4.0) % 1.0 < 0.22
        return np.where(rib, np.uint8(Material.CARRIED_TRIM), np.uint8(Material.CARRIED))

    base = np.array([hand[0] - 0.05, 0.07, hand[2] - 0.16])
    case = Part(
        moved(base, 0.0, 0.52, 0.0), base, (0.17, 0.18, 0.18, 0.17), ribs,
        depths=(0.11, 0.12, 0.12, 0.11), caps=(0.2, 0.2), boxiness=2.0,
    )  # fmt: skip
    poles = [
        Part(
            moved(hand, offset, 0.0, 0.0),
            moved(base, offset, 0.52, 0.0),
            (0.010, 0.010),
            Material.METAL,
        )
        for offset in (-0.055, 0.055)
    ]
    wheels = [
        Part(
            moved(base, offset, -0.03, 0.0),
            moved(base, offset, -0.045, 0.0),
            (0.026,) * 2,
            Material.SOLE,
        )
        for offset in (-0.11, 0.11)
    ]
    return [case, *poles, *wheels]


def _umbrella(person: Attributes, skeleton: Skeleton) -> list[Part]:
    hand = skeleton.arms[1].tip
    rim_height = skeleton.crown[1] - 0.035
    apex = np.array([hand[0] + 0.10, rim_height + 0.20, hand[2] - 0.10])

    def gores(along: Plane, side: Plane, front: Plane) -> Labels:
        odd = (side * front > 0.0) ^ (np.abs(side) > np.abs(front))
        rim = along > 0.90
        cloth = np.where(odd | rim, np.uint8(Material.CARRIED_TRIM), np.uint8(Material.CARRIED))
        # The rim is scalloped between the ribs.
        scallop = along > 0.97 + 0.03 * np.cos(8.0 * np.arctan2(side, front))
        cloth[scallop] = Material.NONE
        return cloth

    canopy = Part(
        apex, moved(apex, 0.0, -0.20, 0.0), (0.05, 0.20, 0.30, 0.365, 0.41, 0.435), gores,
        caps=(0.35, 0.0),
    )  # fmt: skip
    pole = Part(
        moved(apex, 0.0, 0.06, 0.0), moved(hand, 0.0, -0.05, 0.0), (0.011, 0.011), Material.METAL
    )
    return [canopy, pole]


def _box(person: Attributes, skeleton: Skeleton) -> list[Part]:
    hands = (skeleton.arms[0].tip + skeleton.arms[1].tip) / 2.0
    top = moved(hands, 0.0, 0.12, 0.015)

    def tape(along: Plane, side: Plane, front: Plane) -> Labels:
        strip = (np.abs(side) < 0.12) | ((along > 0.55) & (along < 0.80) & (side > 0.3))
        return np.where(strip, np.uint8(Material.CARRIED_TRIM), np.uint8(Material.CARRIED))

    return [
        Part(
            top, moved(top, 0.0, -0.27, 0.0), (0.195,) * 3, tape, depths=(0.14,) * 3,
            caps=(0.04, 0.04), boxiness=4.0,
        )
    ]  # fmt: skip
