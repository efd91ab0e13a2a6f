"""Who a synthetic person is: body, clothing and belongings, drawn at random per identity.

Everything that tells two people apart in infrared is here in words and numbers; colour is too, but
is used by visible cameras only. Colours and infrared reflectances are drawn independently.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np

from vireid_fast._checks import require

BUILDS = ("slim", "average", "broad")
HAIRS = ("bald", "short", "long", "ponytail", "cap", "hood")
UPPERS = ("t-shirt", "sweater", "jacket", "hoodie", "vest", "coat", "dress")
PATTERNS = ("plain", "striped", "banded", "printed")
LOWERS = ("trousers", "wide trousers", "shorts", "skirt")
SHOES = ("sneakers", "boots")
CARRIED = ("nothing", "backpack", "shoulder bag", "handbag", "suitcase", "umbrella", "box")

RGB = tuple[float, float, float]

COLOURS: dict[str, RGB] = {
    "black": (0.07, 0.07, 0.08),
    "white": (0.90, 0.90, 0.88),
    "grey": (0.45, 0.46, 0.48),
    "red": (0.72, 0.12, 0.13),
    "orange": (0.88, 0.45, 0.12),
    "yellow": (0.88, 0.76, 0.22),
    "green": (0.18, 0.45, 0.23),
    "blue": (0.15, 0.29, 0.62),
    "purple": (0.41, 0.21, 0.52),
    "pink": (0.87, 0.50, 0.62),
    "brown": (0.38, 0.24, 0.15),
    "beige": (0.76, 0.67, 0.52),
}
HAIR_COLOURS: dict[str, RGB] = {
    "black": (0.07, 0.06, 0.06),
    "brown": (0.25, 0.15, 0.09),
    "blond": (0.68, 0.52, 0.28),
    "grey": (0.52, 0.52, 0.52),
}
SKIN_TONES: tuple[RGB, ...] = (
    (0.88, 0.68, 0.56),
    (0.80, 0.59, 0.45),
    (0.63, 0.43, 0.31),
    (0.44, 0.29, 0.21),
)


class Material(IntEnum):
    """Surface numbers of the figure; rows of a person's colour and reflectance tables."""

    NONE = 0
    SKIN = 1
    HAIR = 2
    EYES = 3
    UPPER = 4
    TRIM = 5
    INNER = 6
    LOWER = 7
    LOWER_TRIM = 8
    BELT = 9
    SHOES = 10
    SOLE = 11
    HEADWEAR = 12
    CARRIED = 13
    CARRIED_TRIM = 14
    METAL = 15


@dataclass(frozen=True)
class Attributes:
    """One synthetic identity.

    Attributes:
        seed: Seed of the set that the person belongs to.
        person_id: 1-based identity number.
        height: Body height in metres.
        build: One of `BUILDS`.
        leg_ratio: Leg length over body height.
        shoulder_ratio: Half shoulder width over body height.
        stride: Amplitude of the thigh swing in radians.
        arm_swing: Amplitude of the arm swing in radians.
        lean: Forward lean of the torso in radians.
        hair: One of `HAIRS`.
        upper: One of `UPPERS`.
        is_open: The jacket, vest or coat is worn open.
        pattern: One of `PATTERNS`.
        has_belt: A belt contrasts with the upper and lower clothing.
        lower: One of `LOWERS`; "none" under a dress.
        side_stripe: The trousers carry a contrasting stripe along the outer seam.
        shoes: One of `SHOES`.
        carried: One of `CARRIED`.
        colour_names: Names of the (hair, upper, lower, shoes, carried) colours.
        colours: RGB in [0, 1] per `Material`; used by visible cameras only.
        reflectance: Infrared reflectance in [0, 1] per `Material`, independent of the colours.
    """

    seed: int
    person_id: int
    height: float
    build: str
    leg_ratio: float
    shoulder_ratio: float
    stride: float
    arm_swing: float
    lean: float
    hair: str
    upper: str
    is_open: bool
    pattern: str
    has_belt: bool
    lower: str
    side_stripe: bool
    shoes: str
    carried: str
    colour_names: tuple[str, str, str, str, str]
    colours: tuple[RGB, ...]
    reflectance: tuple[float, ...]


def sample_identity(seed: int, person_id: int) -> Attributes:
    """Draw the person number `person_id` of the set with `seed`; equal arguments, equal person.

    Args:
        seed: Non-negative seed of the set.
        person_id: 1-based identity number.

    Returns:
        The person's attributes.

    Raises:
        TypeError: An argument is no integer. ValueError: An argument is out of range.
    """
    require_integer("sample_identity", "seed", seed, 0)
    require_integer("sample_identity", "person_id", person_id, 1)
    rng = np.random.default_rng([seed, person_id, 0x1D])
    upper = _pick(rng, UPPERS, (0.18, 0.13, 0.20, 0.15, 0.10, 0.14, 0.10))
    hair = _pick(rng, HAIRS, (0.10, 0.30, 0.20, 0.15, 0.13, 0.12))
    lower = _pick(rng, LOWERS, (0.42, 0.20, 0.20, 0.18))
    if upper == "dress":
        lower = "none"
    elif upper == "coat" and lower in ("wide trousers", "skirt"):
        # A long coat hides them.
        lower = "trousers"
    can_open = upper in ("jacket", "vest", "coat")
    pattern = _pick(rng, PATTERNS, (0.42, 0.22, 0.18, 0.18))
    names, colours = _sample_colours(rng)
    return Attributes(
        seed=seed,
        person_id=person_id,
        height=float(np.clip(rng.normal(1.70, 0.105), 1.47, 1.92)),
        build=_pick(rng, BUILDS, (0.33, 0.36, 0.31)),
        leg_ratio=float(rng.uniform(0.455, 0.525)),
        shoulder_ratio=float(rng.uniform(0.102, 0.130)),
        stride=float(rng.uniform(0.32, 0.52)),
        arm_swing=float(rng.uniform(0.25, 0.60)),
        lean=float(rng.uniform(0.0, 0.10)),
        hair=hair,
        upper=upper,
        is_open=bool(can_open and rng.random() < 0.5),
        pattern=pattern,
        has_belt=bool(upper in ("t-shirt", "coat", "dress") and rng.random() < 0.5),
        lower=lower,
        side_stripe=bool(lower in LOWERS[:3] and rng.random() < 0.22),
        shoes=_pick(rng, SHOES, (0.6, 0.4)),
        carried=_pick(rng, CARRIED, (0.24, 0.20, 0.15, 0.13, 0.10, 0.09, 0.09)),
        colour_names=names,
        colours=colours,
        reflectance=_sample_reflectance(rng),
    )


def require_integer(what: str, argument: str, value: Any, minimum: int) -> None:
    """Raise TypeError or ValueError unless `value` is an integer of at least `minimum`."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    require(
        is_integer, what, argument, "be an integer", type(value).__name__,
        f"Pass int({argument}).", TypeError,
    )  # fmt: skip
    require(value >= minimum, what, argument, f"be at least {minimum}", value)


T = TypeVar("T")


def _pick(rng: np.random.Generator, options: tuple[T, ...], weights: tuple[float, ...]) -> T:
    return options[int(rng.choice(len(options), p=weights))]


def _luma(rgb: RGB) -> float:
    return 0.30 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]


def _colour(
    rng: np.random.Generator, table: dict[str, RGB], avoid: RGB | None = None
) -> tuple[str, RGB]:
    """A named colour with jitter; with `avoid`, one whose brightness clearly differs from it."""
    names = list(table)
    if avoid is not None:
        names = [n for n in names if abs(_luma(table[n]) - _luma(avoid)) > 0.25]
    name = names[int(rng.integers(len(names)))]
    jitter = rng.normal(0.0, 0.012, 3) + rng.normal(0.0, 0.03)
    rgb = np.clip(np.asarray(table[name]) + jitter, 0.03, 0.95)
    return name, (float(rgb[0]), float(rgb[1]), float(rgb[2]))


def _sample_colours(
    rng: np.random.Generator,
) -> tuple[tuple[str, str, str, str, str], tuple[RGB, ...]]:
    skin = SKIN_TONES[int(rng.integers(len(SKIN_TONES)))]
    hair_name, hair = _colour(rng, HAIR_COLOURS)
    upper_name, upper = _colour(rng, COLOURS)
    lower_name, lower = _colour(rng, COLOURS)
    shoes_name, shoes = _colour(rng, COLOURS)
    carried_name, carried = _colour(rng, COLOURS)
    rows: dict[Material, RGB] = {
        Material.NONE: (0.0, 0.0, 0.0),
        Material.SKIN: skin,
        Material.HAIR: hair,
        Material.EYES: (0.10, 0.07, 0.06),
        Material.UPPER: upper,
        Material.TRIM: _colour(rng, COLOURS, avoid=upper)[1],
        Material.INNER: _colour(rng, COLOURS, avoid=upper)[1],
        Material.LOWER: lower,
        Material.LOWER_TRIM: _colour(rng, COLOURS, avoid=lower)[1],
        Material.BELT: _colour(rng, COLOURS, avoid=upper)[1],
        Material.SHOES: shoes,
        Material.SOLE: (0.85, 0.84, 0.80) if rng.random() < 0.6 else (0.10, 0.10, 0.10),
        Material.HEADWEAR: _colour(rng, COLOURS)[1],
        Material.CARRIED: carried,
        Material.CARRIED_TRIM: _colour(rng, COLOURS, avoid=carried)[1],
        Material.METAL: (0.30, 0.30, 0.32),
    }
    names = (hair_name, upper_name, lower_name, shoes_name, carried_name)
    return names, tuple(rows[m] for m in Material)


def _contrasting(rng: np.random.Generator, base: float) -> float:
    """A reflectance at least 0.28 away from `base`."""
    low, high = base - 0.28, base + 0.28
    room = max(low - 0.12, 0.0), max(0.92 - high, 0.0)
    position = rng.uniform(0.0, sum(room))
    return float(0.12 + position if position < room[0] else high + position - room[0])


def _sample_reflectance(rng: np.random.Generator) -> tuple[float, ...]:
    upper, lower, shoes, carried, headwear = (float(v) for v in rng.uniform(0.15, 0.85, 5))
    rows: dict[Material, float] = {
        Material.NONE: 0.0,
        Material.SKIN: float(rng.uniform(0.80, 0.90)),
        Material.HAIR: float(rng.uniform(0.12, 0.42)),
        Material.EYES: 0.50,
        Material.UPPER: upper,
        Material.TRIM: _contrasting(rng, upper),
        Material.INNER: _contrasting(rng, upper),
        Material.LOWER: lower,
        Material.LOWER_TRIM: _contrasting(rng, lower),
        Material.BELT: _contrasting(rng, upper),
        Material.SHOES: shoes,
        Material.SOLE: _contrasting(rng, shoes),
        Material.HEADWEAR: headwear,
        Material.CARRIED: carried,
        Material.CARRIED_TRIM: _contrasting(rng, carried),
        Material.METAL: 0.55,
    }
    return tuple(rows[m] for m in Material)
