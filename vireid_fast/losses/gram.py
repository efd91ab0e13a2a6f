"""All pairs of one feature tensor, computed once and shared by the metric losses of a step."""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vireid_fast._checks import require, require_dtype, require_shape, sentence
from vireid_fast.losses.precision import common_precision
from vireid_fast.ops.pairwise_distance import pairwise_distance

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Panels of rows in which the symmetric matrix is filled: five eighths of the products remain.
_PANELS = 4
# Columns of the gradient per product, so that its float64 copy is small.
_COLUMNS = 256


class FeatureGram:
    """Gram matrix of the rows of one feature tensor, for all metric losses of a training step.

    It is held as squared distances s_ij = |x_i - x_j|^2 and squared lengths n_i = |x_i|^2, from
    which x_i . x_j = (n_i + n_j - s_ij) / 2. Both are accumulated in float64 and s from
    differences, so distances of near rows do not cancel and equal rows have distance exactly 0.

    A gram stands where a loss takes features, and slices of it where a loss takes some rows::

        gram = FeatureGram(features)                      # rows [visible; exchanged; infrared]
        weighted_regularized_triplet(gram, labels.repeat(3))
        modality_shared_enhancement(gram[:B], gram[2 * B :], labels, normalized=True)
        cross_modal_contrast(gram[: 2 * B], gram[2 * B :], labels.repeat(2), labels)

    All gradients that reach the gram enter the features by one matrix product. The gradient of a
    distance at 0 is 0. A zero row has the unit row 0.

    Args:
        features: Shape (N, D), float32, float64, float16 or bfloat16.

    Differentiable once. On the CPU the values do not depend on thread count. Memory: O(N^2) for
    the matrix, and one float64 copy of the features while the matrix is filled.

    Raises:
        ValueError: The shape does not fit. TypeError: The dtype does not fit.
    """

    def __init__(self, features: Tensor) -> None:
        require_dtype("FeatureGram", "features", features, _DTYPES)
        require_shape("FeatureGram", "features", features, ("N", "D"))
        self._dtype = torch.promote_types(features.dtype, torch.float32)
        # Rounding of a sum of D terms, several times its standard deviation.
        self._resolution = torch.finfo(torch.float64).eps * (16 + 4 * math.sqrt(features.shape[1]))
        self._squared, self._lengths = _AllPairs.apply(features)
        self._distances: Tensor | None = None

    def __getitem__(self, rows: slice) -> "GramRows":
        """Some rows, to be given to a loss in place of a slice of the features."""
        require(
            isinstance(rows, slice), "FeatureGram", "rows", "be a slice", type(rows).__name__,
            "Write gram[start:stop].", TypeError,
        )  # fmt: skip
        return GramRows(self, rows)

    def distances(self, rows: slice, columns: slice, *, normalized: bool = False) -> Tensor:
        """Euclidean distances of some rows to some others, of L2-normalised rows if asked.

        Args:
            rows: Rows of the features.
            columns: Rows of the features that become columns.
            normalized: Distances of x_i / |x_i| instead of x_i.

        Returns:
            Shape (rows, columns), float64 for float64 features, else float32.
        """
        if not normalized:
            return self._all_distances()[rows, columns]
        squared, (inverse, length) = self._squared[rows, columns], self._inverse_lengths()
        scaled = squared * inverse[rows, None] * inverse[columns]
        # |x_i/l_i - x_j/l_j|^2 = s_ij / (l_i l_j) - (l_i - l_j)^2 / (l_i l_j): both terms are
        # small for near rows, unlike those of 2 - 2 cos.
        squared = scaled + (inverse[rows, None] - inverse[columns]) * (
            length[rows, None] - length[columns]
        )
        # What rounding leaves of parallel rows is no distance and has no direction.
        size = scaled.detach()
        resolution = self._resolution * (size + size.sqrt())
        return _Root.apply(torch.where(squared <= resolution, 0.0, squared), self._dtype)

    def cosines(self, rows: slice, columns: slice) -> Tensor:
        """Cosines of some rows with some others; arguments and shape as of `distances`."""
        inverse, _ = self._inverse_lengths()
        lengths = self._lengths[rows, None] + self._lengths[columns]
        dots = 0.5 * (lengths - self._squared[rows, columns])
        return (dots * inverse[rows, None] * inverse[columns]).to(self._dtype)

    def _all_distances(self) -> Tensor:
        """One root for all losses, and one gradient that they share."""
        if self._distances is not None:
            return self._distances
        distances = _Root.apply(self._squared, self._dtype)
        # Made without a graph, it must not stand in where one is wanted later.
        if torch.is_grad_enabled():
            self._distances = distances
        return distances

    def _inverse_lengths(self) -> tuple[Tensor, Tensor]:
        length = _Root.apply(self._lengths, self._lengths.dtype)
        return 1 / torch.where(length == 0, 1.0, length), length


@dataclass(frozen=True)
class GramRows:
    """Consecutive rows of a gram, made by slicing it."""

    gram: FeatureGram
    rows: slice


Features = Tensor | FeatureGram | GramRows
"""Features of a metric loss: a tensor (N, D), or all or some rows of a gram."""


def euclidean_distances(first: Features, second: Features, *, normalized: bool = False) -> Tensor:
    """Euclidean distances between two sets of rows, looked up if they are rows of one gram.

    Args:
        first: A rows of width D.
        second: B rows of width D; of the same gram as `first`, or a tensor as it is.
        normalized: Distances of L2-normalised rows.

    Returns:
        Shape (A, B), float64 for float64 features, else float32.
    """
    shared = _shared_gram(first, second)
    if shared is not None:
        gram, rows, columns = shared
        return gram.distances(rows, columns, normalized=normalized)
    one, other = common_precision(cast(Tensor, first), cast(Tensor, second))
    if normalized:
        one, other = F.normalize(one), F.normalize(other)
    return pairwise_distance(one, other)


def cosine_similarities(first: Features, second: Features) -> Tensor:
    """Cosines between two sets of rows; arguments and shape as of `euclidean_distances`."""
    shared = _shared_gram(first, second)
    if shared is not None:
        gram, rows, columns = shared
        return gram.cosines(rows, columns)
    one, other = common_precision(cast(Tensor, first), cast(Tensor, second))
    return F.normalize(one) @ F.normalize(other).T


def _shared_gram(first: Features, second: Features) -> tuple[FeatureGram, slice, slice] | None:
    """The gram of both and their rows; None if both are tensors."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return None
    one, other = (
        GramRows(x, slice(None)) if isinstance(x, FeatureGram) else x for x in (first, second)
    )
    if not (isinstance(one, GramRows) and isinstance(other, GramRows)):
        names = f"{type(first).__name__} and {type(second).__name__}"
        raise TypeError(sentence(
            "metric loss", "features", "be tensors, or rows of one FeatureGram", names,
            "Slice the same gram for both."))  # fmt: skip
    require(
        one.gram is other.gram, "metric loss", "features", "be rows of one FeatureGram",
        "rows of two", "Slice the same gram for both.",
    )  # fmt: skip
    return one.gram, one.rows, other.rows


class _Root(torch.autograd.Function):
    """Square root in a wanted dtype; its gradient at 0 is 0."""

    @staticmethod
    def forward(ctx: Any, squared: Tensor, dtype: torch.dtype) -> Tensor:
        root = squared.sqrt().to(dtype)
        ctx.save_for_backward(root)
        ctx.dtype = squared.dtype
        return root

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (root,) = ctx.saved_tensors
        return torch.where(root == 0, 0.0, 0.5 * grad / root).to(ctx.dtype), None


class _AllPairs(torch.autograd.Function):
    """Squared distances (N, N) and squared lengths (N,) of the rows, float64."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(features)
        exact = features.double()
        return _squared_distances(exact), torch.linalg.vector_norm(exact, dim=1).square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_squared: Tensor, grad_lengths: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        # dx_i = 2 sum_j (g_ij + g_ji) (x_i - x_j) + 2 h_i x_i, as one matrix times the features.
        weight = grad_squared.add(grad_squared.T).mul_(-2)
        weight.diagonal().add_(2 * grad_lengths - weight.sum(1))
        grad = features.new_empty(features.shape)
        for start in range(0, features.shape[1], _COLUMNS):
            columns = slice(start, start + _COLUMNS)
            grad[:, columns] = weight @ features[:, columns].double()
        return grad


def _squared_distances(x: Tensor) -> Tensor:
    if not x.is_cpu:
        # One launch costs less there than the saved products.
        return pairwise_distance(x, x, metric="squared_euclidean")
    out = x.new_empty((x.shape[0], x.shape[0]))
    height = max(1, -(-x.shape[0] // _PANELS))
    for start in range(0, x.shape[0], height):
        stop = start + height
        panel = pairwise_distance(x[start:stop], x[start:], metric="squared_euclidean")
        out[start:stop, start:] = panel
        out[stop:, start:stop] = panel[:, height:].T
    return out
