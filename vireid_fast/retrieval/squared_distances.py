"""Squared distances between all N = Q + G items, as far as re-ranking asks for them."""

import math
from typing import Protocol

import torch
from torch import Tensor

from vireid_fast import _checks
from vireid_fast.ops import (
    KNN,
    centred_distance,
    entry_distance,
    knn,
    pairwise_distance,
    smallest_k,
)
from vireid_fast.retrieval.workspace import Workspace

# Squares of values within these powers of two, and their sums, neither overflow nor lose what
# tells neighbours apart.
_SAFE_EXPONENTS = {torch.float32: (-20, 40), torch.float64: (-200, 400)}
# Bytes of a block of distances if the caller names no workspace, and the rows that it has at least:
# with fewer, fetching the gallery takes longer than the products.
_BLOCK_BYTES = 1 << 26
_BLOCK_ROWS = 64
# Queries whose centred copies are held at once while their distances go where they are wanted.
_FILLED_ROWS = 512


class SquaredDistances(Protocol):
    """Squared distances between all items, queries first.

    Row i holds the distances that item i ranks by. What is ranked and weighted has bitwise the same
    value in every method; `to_gallery` may differ from it by rounding.
    """

    num_query: int
    num_items: int
    workspace: Workspace
    """In which blocks of `rows` are asked for."""
    dtype: torch.dtype
    device: torch.device

    @property
    def filled(self) -> int:
        """Rows of `to_gallery` that are asked for at once."""

    def nearest(self, k: int) -> KNN:
        """The k nearest items of each item, and its largest distance."""

    def rows(self, items: Tensor) -> Tensor:
        """Distances of ascending items to all. Shape (len(items), N)."""

    def entries(self, crow: Tensor, col: Tensor, lists: KNN) -> Tensor:
        """Distances of the entries of sparse rows; `lists` hold some that are known."""

    def to_gallery(self, begin: int, end: int, out: Tensor) -> None:
        """Write the distances of the queries begin to end - 1 to all gallery items."""


class FeatureDistances:
    """Distances of features, computed whenever needed.

    Args:
        query: Shape (Q, D), float32 or float64, as `features_in_range` gives it.
        gallery: Shape (G, D), likewise.
        block: Rows of distances that are held at once.
        factors: What the caller's features were multiplied by.
        what: Name of the caller.
    """

    def __init__(
        self,
        query: Tensor,
        gallery: Tensor,
        block: int,
        factors: tuple[float, ...] = (),
        *,
        what: str = "rerank",
    ):
        self.query, self.gallery = query.contiguous(), gallery.contiguous()
        self.num_query = query.shape[0]
        self.num_items = query.shape[0] + gallery.shape[0]
        self.factors = factors
        row_bytes = (self.num_items + query.shape[1]) * query.dtype.itemsize
        self.workspace = Workspace(block, row_bytes, what)
        self.dtype, self.device = query.dtype, query.device

    @property
    def filled(self) -> int:
        """Rows of `to_gallery` at once: these need room for features, not for distances."""
        rows = self.workspace.rows
        return max(rows, min(_FILLED_ROWS, rows * self.num_items // self.query.shape[1]))

    def nearest(self, k: int) -> KNN:
        """The k nearest items of each item, and its largest distance."""
        features = torch.cat([self.query, self.gallery])
        return knn(features, features, k)

    def rows(self, items: Tensor) -> Tensor:
        """Distances of ascending items to all. Shape (len(items), N)."""
        chosen = self.take(items)
        parts = [
            pairwise_distance(chosen, part, metric="squared_euclidean")
            for part in (self.query, self.gallery)
        ]
        return torch.cat(parts, 1)

    def take(self, items: Tensor) -> Tensor:
        """Features of ascending items. Shape (len(items), D)."""
        queries = items[items < self.num_query]
        return torch.cat(
            [self.query[queries], self.gallery[items[len(queries) :] - self.num_query]]
        )

    def entries(self, crow: Tensor, col: Tensor, lists: KNN) -> Tensor:
        """Distances of the entries of sparse rows."""
        return entry_distance(self.query, self.gallery, crow, col, lists.distances, lists.indices)

    def to_gallery(self, begin: int, end: int, out: Tensor) -> None:
        """Write the distances of the queries begin to end - 1 to all gallery items.

        An item of the set is the centre, as the error bound of `centred_distance` wants it.
        """
        centred_distance(self.query[begin:end], self.gallery, self.query[0], out=out)


class MatrixDistances:
    """Distances read from the caller's Euclidean matrices, squared and rounded to float32.

    The published code divides each column by its maximum and transposes, so that item i ranks by
    column i of the whole matrix. Squares that would leave the range of float32 are avoided as for
    features.

    Args:
        what: Name of the caller, for its errors.
        query_gallery: Shape (Q, G), for both triangles.
        query_query: Shape (Q, Q).
        gallery_gallery: Shape (G, G).

    Raises:
        ValueError: A shape does not fit, or a distance is NaN, infinite or negative.
    """

    dtype = torch.float32

    def __init__(
        self, what: str, query_gallery: Tensor, query_query: Tensor, gallery_gallery: Tensor
    ):
        _checks.require_shape(what, "query_gallery", query_gallery, ("Q", "G"))
        num_query, num_gallery = query_gallery.shape
        _checks.require_shape(what, "query_query", query_query, (num_query, num_query))
        _checks.require_shape(what, "gallery_gallery", gallery_gallery, (num_gallery, num_gallery))
        parts = {
            "query_gallery": query_gallery,
            "query_query": query_query,
            "gallery_gallery": gallery_gallery,
        }
        largest = max(largest_magnitude(what, name, part) for name, part in parts.items())
        for name, part in parts.items():
            smallest = float(part.min())
            _checks.require(
                smallest >= 0, what, name, "hold no negative distance", smallest,
                "Pass Euclidean distances, not similarities.",
            )  # fmt: skip
        self._factors = scaling_factors(largest, torch.float32)
        self.query_gallery = query_gallery
        self.query_query = query_query
        self.gallery_gallery = gallery_gallery
        self.num_query = num_query
        self.num_items = num_query + num_gallery
        self.device = query_gallery.device
        self.workspace = Workspace(fitting_rows(self.num_items), 4 * self.num_items, what)

    @property
    def filled(self) -> int:
        """Rows of `to_gallery` at once."""
        return self.workspace.rows

    def nearest(self, k: int) -> KNN:
        """The k nearest items of each item, and its largest distance."""
        return nearest_by_rows(self, k)

    def rows(self, items: Tensor) -> Tensor:
        """Distances of ascending items to all. Shape (len(items), N)."""
        queries = items[items < self.num_query]
        others = items[items >= self.num_query] - self.num_query
        query_rows = torch.cat([self.query_query[:, queries].T, self.query_gallery[queries]], 1)
        gallery_rows = torch.cat(
            [self.query_gallery[:, others].T, self.gallery_gallery[:, others].T], 1
        )
        return self._square(torch.cat([query_rows, gallery_rows]))

    def entries(self, crow: Tensor, col: Tensor, lists: KNN) -> Tensor:
        """Distances of the entries of sparse rows."""
        return self.pairs(torch.repeat_interleave(crow.diff()), col)

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        """Distances that the items `row` rank the items `column` by. Shape (P,)."""
        values = self.query_gallery.new_empty(row.shape)
        from_query, to_query = row < self.num_query, column < self.num_query
        for matrix, chosen, first, second in (
            (self.query_query, from_query & to_query, column, row),
            (self.query_gallery, from_query & ~to_query, row, column - self.num_query),
            (self.query_gallery, ~from_query & to_query, column, row - self.num_query),
            (
                self.gallery_gallery,
                ~from_query & ~to_query,
                column - self.num_query,
                row - self.num_query,
            ),
        ):
            values[chosen] = matrix[first[chosen], second[chosen]]
        return self._square(values)

    def to_gallery(self, begin: int, end: int, out: Tensor) -> None:
        """Write the distances of the queries begin to end - 1 to all gallery items."""
        out.copy_(self._square(self.query_gallery[begin:end]))

    def _square(self, distances: Tensor) -> Tensor:
        for factor in self._factors:
            distances = distances * factor
        return distances.square().float()


def nearest_by_rows(distances: SquaredDistances, k: int) -> KNN:
    """The k nearest items of each item, and its largest distance, from blocks of `rows`."""
    items = torch.arange(distances.num_items, device=distances.device)
    lists = distances.workspace.over(
        0, distances.num_items,
        lambda first, last: smallest_k(distances.rows(items[first:last]), k),
    )  # fmt: skip
    return KNN(*(torch.cat(parts) for parts in zip(*lists, strict=True)))


def features_in_range(what: str, **features: Tensor) -> tuple[list[Tensor], tuple[float, ...]]:
    """The features, checked, and scaled where their squares would leave the range of the dtype.

    The factors are powers of two and the same for all, which changes no bit of a normalised
    distance. Returns the features and the factors.

    Args:
        what: Name of the caller, for its errors.
        features: (rows, D) by argument name, float32 or float64, of one dtype.

    Raises:
        ValueError: A shape does not fit, or a feature is NaN or infinite (names the row).
    """
    width: int | str = "D"
    for name, part in features.items():
        letter = "Q" if name.startswith("query") else "G"
        _checks.require_shape(what, name, part, (letter, width))
        width = part.shape[1]
    largest = max(largest_magnitude(what, name, part) for name, part in features.items())
    scaled = list(features.values())
    factors = scaling_factors(largest, scaled[0].dtype)
    for factor in factors:
        scaled = [part * factor for part in scaled]
    return scaled, factors


def scaling_factors(largest: float, dtype: torch.dtype) -> tuple[float, ...]:
    """Powers of two that bring `largest` to about 1, one after the other; none if not needed."""
    low, high = _SAFE_EXPONENTS[dtype]
    exponent = math.frexp(largest)[1]
    if largest == 0 or low <= exponent <= high:
        return ()
    # In two steps: a single power may lie outside the range itself.
    half = -exponent // 2
    return 2.0**half, 2.0 ** (-exponent - half)


def largest_magnitude(what: str, name: str, values: Tensor) -> float:
    """The largest magnitude; raises unless there are values and all are finite."""
    _checks.require(
        values.numel() > 0, what, name, "have at least one row and one column", tuple(values.shape)
    )
    largest = max(abs(float(bound)) for bound in torch.aminmax(values))
    if not math.isfinite(largest):
        _checks.require_finite(what, name, values)
    return largest


def fitting_rows(num_items: int) -> int:
    """Rows of N float32 distances that fit a block if the caller names no workspace."""
    return max(_BLOCK_ROWS, _BLOCK_BYTES // (4 * num_items))


def workspace_rows(
    what: str, workspace: int | None, num_items: int, width: int, dtype: torch.dtype
) -> int:
    """Rows of N distances and D features that fit `workspace` bytes.

    Raises:
        ValueError: Not even one does (says how much it needs). TypeError: It is no integer.
    """
    needed = (num_items + width) * dtype.itemsize
    if workspace is None:
        return max(_BLOCK_ROWS, _BLOCK_BYTES // needed)
    workspace = _checks.positive_int(what, "workspace", workspace)
    _checks.require(
        workspace >= needed, what, "workspace",
        f"be at least {needed} bytes, one row of {num_items} distances and {width} features",
        workspace, "Pass more, or None.",
    )  # fmt: skip
    return workspace // needed
