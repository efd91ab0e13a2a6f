"""The sparse rows that the k-reciprocal encoding makes and the Jaccard distance reads."""

from typing import NamedTuple

import torch
from torch import Tensor

from vireid_fast import _checks


class SparseRows(NamedTuple):
    """A sparse (N, N) matrix in CSR form.

    Attributes:
        crow: Row offsets. Shape (N + 1,), int64.
        col: Column ids, ascending in each row. Shape (nnz,), int64.
        weight: Entries. Shape (nnz,), float32 or float64.
    """

    crow: Tensor
    col: Tensor
    weight: Tensor


def require_offsets(what: str, crow: Tensor, num_entries: int) -> None:
    """Raise unless `crow` rises from 0 to `num_entries`."""
    _checks.require_dtype(what, "crow", crow, (torch.int64,))
    _checks.require_shape(what, "crow", crow, ("N + 1",))
    rises = (
        crow.numel() > 0
        and int(crow[0]) == 0
        and int(crow[-1]) == num_entries
        and bool((crow.diff() >= 0).all())
    )
    _checks.require(
        rises, what, "crow", f"rise from 0 to the number of entries, {num_entries}",
        f"{int(crow[0])} to {int(crow[-1])}" if crow.numel() else "no offset",
    )  # fmt: skip


def require_indices(what: str, argument: str, indices: Tensor, size: int) -> None:
    """Raise unless `indices` is int64 and lies in [0, size)."""
    _checks.require_dtype(what, argument, indices, (torch.int64,))
    if indices.numel():
        low, high = (int(bound) for bound in indices.aminmax())
        _checks.require(
            low >= 0 and high < size, what, argument, f"lie in [0, {size})", f"{low} to {high}"
        )


def require_sparse_rows(what: str, crow: Tensor, col: Tensor, weight: Tensor) -> None:
    """Raise unless the three tensors are a `SparseRows` on one device without gradients."""
    _checks.require_dtype(what, "weight", weight, (torch.float32, torch.float64))
    _checks.require_shape(what, "weight", weight, ("nnz",))
    require_offsets(what, crow, weight.shape[0])
    require_indices(what, "col", col, crow.shape[0] - 1)
    _checks.require_shape(what, "col", col, (weight.shape[0],))
    _checks.require_same_device(what, crow=crow, col=col, weight=weight)
    _checks.require_no_grad(what, weight=weight)
