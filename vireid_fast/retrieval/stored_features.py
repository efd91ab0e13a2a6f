"""Rows of features wherever they lie: in a tensor, an array, or a file that exceeds the memory."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vireid_fast import _checks

_TENSOR_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_ARRAY_DTYPES = ("float16", "float32", "float64")


class StoredFeatures:
    """Features that are read a block of rows at a time.

    Args:
        what: Name of the caller, for its errors.
        name: Name of the argument.
        values: Shape (n, D), n may be 0: a tensor, or a numpy array of any strides and byte order,
            which may be a memory-mapped file (`numpy.load(path, mmap_mode="r")`). float32, float64,
            or 16-bit, which is widened to float32.

    Attributes:
        width: D.
        dtype: float32 or float64, in which rows are read unless `as_dtype` says another.
        stored: The dtype as it is stored, in words.
        device: Device of the tensor; the CPU for an array.
        factors: What rows are multiplied by when they are read, one after the other.

    Raises:
        ValueError: The shape does not fit. TypeError: The type or dtype does not fit.
        RuntimeError: The tensor requires a gradient.
    """

    def __init__(self, what: str, name: str, values: Tensor | np.ndarray) -> None:
        if isinstance(values, np.ndarray):
            stored = values.dtype.newbyteorder("=").name
            _checks.require(
                stored in _ARRAY_DTYPES, what, name, f"be {' or '.join(_ARRAY_DTYPES)}",
                values.dtype, "Convert with .astype(numpy.float32).", TypeError,
            )  # fmt: skip
        else:
            _checks.require_dtype(what, name, values, _TENSOR_DTYPES)
            _checks.require_no_grad(what, **{name: values})
            stored = str(values.dtype).removeprefix("torch.")
        shape = tuple(values.shape)
        _checks.require(
            len(shape) == 2 and shape[1] > 0, what, name,
            "have shape (rows, D) with at least one column", shape,
        )  # fmt: skip
        self._what, self._name, self._values = what, name, values
        self.width = shape[1]
        self.stored = stored
        self.dtype = torch.float64 if stored == "float64" else torch.float32
        self.device = values.device if isinstance(values, Tensor) else torch.device("cpu")
        self.factors: tuple[float, ...] = ()

    def __len__(self) -> int:
        return self._values.shape[0]

    def to(
        self, device: torch.device, dtype: torch.dtype, factors: tuple[float, ...] = ()
    ) -> "StoredFeatures":
        """The same rows, read to another device, in another dtype and multiplied by factors."""
        moved = StoredFeatures(self._what, self._name, self._values)
        moved.device, moved.dtype, moved.factors = device, dtype, factors
        return moved

    def rows(self, begin: int, end: int) -> Tensor:
        """The rows begin to end - 1. Shape (end - begin, D), contiguous; do not write to it."""
        return self._read(self._values[begin:end])

    def take(self, positions: Tensor) -> Tensor:
        """The rows at `positions` (int64). Shape (number of positions, D), contiguous."""
        if isinstance(self._values, Tensor):
            return self._read(self._values[positions.to(self._values.device)])
        return self._read(self._values[positions.cpu().numpy()])

    def blocks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """(first position, rows) of blocks of at most `size` rows, ascending."""
        for begin in range(0, len(self), size):
            yield begin, self.rows(begin, min(begin + size, len(self)))

    def largest(self, size: int) -> float:
        """The largest magnitude, 0 of no rows; everything is read once, `size` rows at a time.

        Raises:
            ValueError: A value is NaN or infinite; names its row.
        """
        largest = 0.0
        for begin, rows in self.blocks(size):
            bounds = [abs(float(bound)) for bound in torch.aminmax(rows)]
            largest = max(largest, *bounds)
            if not all(map(math.isfinite, bounds)):
                finite = torch.isfinite(rows).all(1)
                row = int(torch.nonzero(~finite)[0])
                value = rows[row][~torch.isfinite(rows[row])][0].item()
                _checks.require(
                    False, self._what, self._name, "be finite", f"{value} at row {begin + row}",
                    "Remove or repair that row.",
                )  # fmt: skip
        return largest

    def _read(self, values: Tensor | np.ndarray) -> Tensor:
        if isinstance(values, np.ndarray):
            # A copy: what is mapped to a file must not stay referenced, and torch cannot hold
            # read-only memory.
            values = torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("=")))
        values = values.to(self.device, self.dtype).contiguous()
        for factor in self.factors:
            values = values * factor
        return values
