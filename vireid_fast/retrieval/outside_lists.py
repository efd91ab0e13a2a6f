"""Neighbour lists that an index outside made for some items: what must hold for them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.retrieval.arrays import as_float_tensors, from_numpy
from vireid_fast.retrieval.reciprocal_encoding import EncodingParameters, item_name

_NAME = "neighbor_indices"
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


@dataclass(frozen=True)
class ListedItems:
    """Items that have lists, among all N = Q + G items, queries first.

    Attributes:
        what: Name of the caller, for its errors.
        numbers: The item of each list. Shape (n,), int64.
        num_items: N.
        num_query: Q.
    """

    what: str
    numbers: Tensor
    num_items: int
    num_query: int

    def integer_lists(self, values: Tensor | np.ndarray, **beside: Tensor) -> Tensor:
        """The lists (n, K) as int64, in range and without repetition, on the device of `beside`."""
        lists = values
        if isinstance(lists, np.ndarray):
            self._require(lists.dtype.kind in "iu", "be integers", lists.dtype, error=TypeError)
            lists = from_numpy(lists.astype(np.int64, copy=False))
        _checks.require_tensor(self.what, _NAME, lists)
        self._require(lists.dtype in _INTEGERS, "be integers", lists.dtype, error=TypeError)
        _checks.require_shape(self.what, _NAME, lists, (len(self.numbers), "K"))
        _checks.require_same_device(self.what, **beside, neighbor_indices=lists)
        lists = lists.long().contiguous()
        outside = (lists < 0) | (lists >= self.num_items)
        if bool(outside.any()):
            row, column = outside.nonzero()[0].tolist()
            self._require(
                False, f"lie in [0, {self.num_items})",
                f"{int(lists[row, column])} in the row of {self._of(row)}",
                "Number queries first; search with fewer neighbours where an index pads with -1.",
            )  # fmt: skip
        ordered = lists.sort(1).values
        repeated = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if bool(repeated.any()):
            row = int(repeated.nonzero()[0])
            again = ordered[row, 1:][ordered[row, 1:] == ordered[row, :-1]]
            self._require(
                False, "hold no item twice in a row",
                f"{int(again[0])} twice in the row of {self._of(row)}",
            )  # fmt: skip
        return lists

    def have_self(self, lists: Tensor) -> Tensor:
        """Which lists hold their own item. Shape (n,), bool."""
        return (lists == self.numbers[:, None]).any(1)

    def with_self(self, lists: Tensor, includes_self: bool) -> Tensor:
        """The lists; with each item put in front of its own if they are without."""
        if includes_self:
            return lists
        has_self = self.have_self(lists)
        if bool(has_self.any()):
            row = int(has_self.nonzero()[0])
            self._require(
                False, "not hold the item itself with includes_self=False",
                f"it in the row of {self._of(row)}",
            )  # fmt: skip
        return torch.cat([self.numbers[:, None], lists], 1)

    def require_length(self, lists: Tensor, parameters: EncodingParameters) -> None:
        """Raise where the lists are shorter than what the encoding reads."""
        length = parameters.list_length(self.num_items)
        self._require(
            lists.shape[1] >= length,
            f"have at least {length} columns for k1 = {parameters.k1} and k2 = {parameters.k2}, "
            "the item itself counted", lists.shape[1], "Search for more neighbours.",
        )  # fmt: skip

    def require_self(self, lists: Tensor, known: Tensor) -> None:
        """Raise where a list lacks its own item though not all of the listed coincide with it."""
        missing = ~self.have_self(lists) & (known.amax(1) > 0)
        if bool(missing.any()):
            row = int(missing.nonzero()[0])
            self._require(
                False, "hold each item in its own list, or none of them",
                f"a list without it for {self._of(row)}",
                "Search for one more neighbour, or take the items out of all lists.",
            )  # fmt: skip

    def require_sorted(self, known: Tensor, slack: Tensor) -> None:
        """Raise where a distance along a list falls by more than the slack."""
        fall = known[:, :-1] - known[:, 1:]
        unsorted = fall > torch.maximum(slack[:, :-1], slack[:, 1:])
        if bool(unsorted.any()):
            row, column = unsorted.nonzero()[0].tolist()
            self._require(
                False, "be sorted, nearest first",
                f"squared distance {known[row, column + 1].item():.6g} behind "
                f"{known[row, column].item():.6g} at column {column + 1} in the row of "
                f"{self._of(row)}",
                "Sort each list by exact distance, or raise tolerance for an index that rounds.",
            )  # fmt: skip

    def largest(
        self,
        farthest: Tensor | np.ndarray,
        known: Tensor,
        slack: Tensor,
        factors: tuple[float, ...],
    ) -> Tensor:
        """The largest squared distances that a caller gives, checked. Shape (n,)."""
        what, name = self.what, "farthest"
        (given,) = as_float_tensors(what, farthest=farthest)
        _checks.require_shape(what, name, given, (len(self.numbers),))
        _checks.require_finite(what, name, given)
        given = given.to(known)
        for factor in factors:
            given = given * factor * factor
        listed = known.amax(1)
        below = given + slack.amax(1) < listed
        if bool(below.any()):
            row = int(below.nonzero()[0])
            _checks.require(
                False, what, name, "be at least the largest listed squared distance",
                f"{given[row].item():.6g} and a listed {listed[row].item():.6g} in the row of "
                f"{self._of(row)}",
                "Give squared Euclidean distances, not roots or similarities.",
            )  # fmt: skip
        return torch.maximum(given, listed)

    def _of(self, row: int) -> str:
        return item_name(int(self.numbers[row]), self.num_query)

    def _require(
        self,
        condition: bool,
        requirement: str,
        got: object,
        remedy: str = "",
        error: type[Exception] = ValueError,
    ) -> None:
        _checks.require(condition, self.what, _NAME, requirement, got, remedy, error)


def list_slack(own: Tensor, listed: Tensor, width: int, tolerance: float | None) -> Tensor:
    """What the distances of an index may be off by, at most, for each listed item.

    Summing D products one after the other in float32 leaves an error of up to D eps / 2 times the
    sum of their magnitudes, so that |x|^2 + |y|^2 - 2 x . y is off by up to
    (D + 2) eps / 2 (|x| + |y|)^2. Of two distances both may be off.

    Args:
        own: |x| of the items. Shape (n,).
        listed: |y| of the listed items. Shape (n, K).
        width: D.
        tolerance: In units of (|x| + |y|)^2; None: (D + 2) eps.

    Returns:
        Shape (n, K).
    """
    if tolerance is None:
        tolerance = (width + 2) * torch.finfo(torch.float32).eps
    return tolerance * (own[:, None] + listed).square()
