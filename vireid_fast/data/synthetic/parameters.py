"""What decides the content of a synthetic set, checked once for all layouts.

Each layout has a frozen dataclass of its own parameters. Fields of one name mean the same in all
of them and are checked by that name.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from vireid_fast._checks import require
from vireid_fast.data.synthetic.attributes import require_integer
from vireid_fast.data.synthetic.render import require_size

# Raised when the pictures of equal parameters change, so that old folders are drawn again.
GENERATOR_VERSION = 1
Shares = tuple[float, float, float]


class Parameters(Protocol):
    """A frozen dataclass of the parameters of one layout."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


P = TypeVar("P", bound=Parameters)


def checked(what: str, parameters: P) -> P:
    """The same parameters as plain Python values.

    Args:
        what: Name of the public function, for messages.
        parameters: Frozen dataclass; its fields among `identities`, `views`, `size`, `seed`,
            `splits`, `test_share`, `tracklets`, `tracklet_frames`, `quality` and `camera_dropout`
            are checked.

    Raises:
        TypeError, ValueError: One of them is unusable.
    """
    values = {field.name: getattr(parameters, field.name) for field in fields(parameters)}
    plain = {
        name: _CHECKS[name](what, name, value) for name, value in values.items() if name in _CHECKS
    }
    if "splits" in plain:
        train, _, _ = split_counts(plain["identities"], plain["splits"])
        require(
            train >= 0, what, "identities", "be enough for the splits", plain["identities"],
            "Ask for more identities or drop a split.",
        )  # fmt: skip
    return replace(parameters, **plain)


def split_counts(identities: int, splits: Shares) -> tuple[int, int, int]:
    """Numbers of train, validation and test identities; every non-zero share gets one or more."""
    validation = max(1, round(identities * splits[1])) if splits[1] > 0 else 0
    test = max(1, round(identities * splits[2])) if splits[2] > 0 else 0
    return identities - validation - test, validation, test


def split_identities(identities: int, splits: Shares, seed: int) -> dict[str, list[int]]:
    """Ascending identities 1..identities of "train", "val" and "test", drawn with `seed`."""
    edges = np.cumsum((0, *split_counts(identities, splits)))
    order = np.random.default_rng([seed, 0x1D5]).permutation(identities) + 1
    return {
        name: sorted(int(i) for i in order[edges[k] : edges[k + 1]])
        for k, name in enumerate(("train", "val", "test"))
    }


def _integer(minimum: int, maximum: int | None = None) -> Callable[[str, str, Any], int]:
    def check(what: str, name: str, value: Any) -> int:
        require_integer(what, name, value, minimum)
        require(maximum is None or value <= maximum, what, name, f"be at most {maximum}", value)
        return int(value)

    return check


def _size(what: str, name: str, value: Any) -> tuple[int, int]:
    require_size(what, value)
    return int(value[0]), int(value[1])


def _share(what: str, name: str, value: Any) -> float:
    require(_is_share(value), what, name, "lie in [0, 1]", value)
    return float(value)


def _shares(what: str, name: str, value: Any) -> Shares:
    is_triple = isinstance(value, tuple | list) and len(value) == 3
    is_valid = is_triple and all(map(_is_share, value)) and abs(sum(value) - 1.0) < 1e-6
    require(is_valid, what, name, "be three shares that sum to 1", value)
    train, validation, test = (float(share) for share in value)
    return train, validation, test


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0


_CHECKS: dict[str, Callable[[str, str, Any], Any]] = {
    "identities": _integer(3, 9999),
    "views": _integer(1),
    "size": _size,
    "seed": _integer(0),
    "splits": _shares,
    "tracklets": _integer(0),
    "tracklet_frames": _integer(1),
    "quality": _integer(1, 95),
    "camera_dropout": _share,
    "test_share": _share,
}
