"""One side of an attention index: which rows the sequences read, and where they write.

A row that occurs several times needs a place for each occurrence, or two sequences would add to
one address. The first occurrence keeps the row's own slot; the others get slots beyond the last
row, ordered so that `fold_slots` needs slices only: the repeated rows stand by falling count, and
layer j holds the (j + 2)-th occurrences of the first `layers[j]` of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vireid_fast.ops.cross_modal_attention.blocks import Run, run_lengths


@dataclass(frozen=True)
class SequenceRows:
    """Rows of the query sequences, or of the key sequences.

    Attributes:
        start: First list entry of each sequence. Shape (S,), int64.
        length: Number of list entries of each sequence. Shape (S,), int64.
        rows: Row of each list entry, shape (P,), int64; None if entry p is row p.
        slots: Where each entry is stored, shape (P,), int64; None if that is its row.
        repeated: Rows that occur more than once, by falling count. Shape (R,), int64, or None.
        counts: Occurrences of the repeated rows. Shape (R, 1, 1), float64, or None.
        layers: Number of rows with at least 2, 3, ... occurrences.
        num_rows: N, rows of the tensors that are read.
        longest: Largest length.
    """

    start: Tensor
    length: Tensor
    num_rows: int
    longest: int
    rows: Tensor | None = None
    slots: Tensor | None = None
    repeated: Tensor | None = None
    counts: Tensor | None = None
    layers: tuple[int, ...] = ()

    @property
    def num_slots(self) -> int:
        """Rows of the tensors that are written."""
        return self.num_rows + sum(self.layers)

    def to(self, device: torch.device | str) -> "SequenceRows":
        """The same rows with all tensors on `device`."""
        names = ("start", "length", "rows", "slots", "repeated", "counts")
        tensors = {name: getattr(self, name) for name in names}
        moved = {name: t.to(device) for name, t in tensors.items() if t is not None}
        return replace(self, **moved)


def contiguous_rows(runs: Sequence[Run], device: torch.device) -> SequenceRows:
    """Sequences that lie one after the other; made on the device, without a copy from the host."""
    length = torch.cat([torch.full((n,), size, device=device) for n, size in runs])
    total = sum(n * size for n, size in runs)
    longest = max(size for _, size in runs)
    return SequenceRows(length.cumsum(0) - length, length, total, longest)


def listed_rows(
    rows: Tensor, lengths: Sequence[int], num_rows: int, device: torch.device
) -> SequenceRows:
    """Sequences given by lists of rows, repeats allowed.

    Args:
        rows: The lists, one after the other. Shape (P,), int64, in [0, num_rows), on the CPU.
        lengths: Length of each list.
        num_rows: N, rows of the tensors that are read.
        device: Where the tensors go.
    """
    side = contiguous_rows(run_lengths(lengths), torch.device("cpu"))
    side = replace(side, num_rows=num_rows)
    if rows.shape[0] == num_rows and torch.equal(rows, torch.arange(num_rows)):
        return side.to(device)
    counts = torch.bincount(rows, minlength=num_rows)
    if int(counts.max()) == 1:
        return replace(side, rows=rows).to(device)
    repeated = torch.argsort(counts, descending=True, stable=True)
    repeated = repeated[: int((counts > 1).sum())]
    layers = tuple(int((counts > times).sum()) for times in range(1, int(counts.max())))
    return replace(
        side, rows=rows, slots=_slots(rows, counts, repeated, layers), repeated=repeated,
        counts=counts[repeated, None, None].double(), layers=layers,
    ).to(device)  # fmt: skip


def _slots(rows: Tensor, counts: Tensor, repeated: Tensor, layers: tuple[int, ...]) -> Tensor:
    """Slot of each list entry: its row at the first occurrence, beyond the rows at later ones."""
    order = torch.argsort(rows, stable=True)
    first = counts.cumsum(0) - counts
    occurrence = torch.empty_like(rows)
    occurrence[order] = torch.arange(rows.shape[0]) - first[rows[order]]
    place = torch.zeros_like(counts)
    place[repeated] = torch.arange(repeated.shape[0])
    sizes = torch.tensor(layers)
    layer_start = counts.shape[0] + sizes.cumsum(0) - sizes
    beyond = layer_start[(occurrence - 1).clamp(min=0)] + place[rows]
    return torch.where(occurrence == 0, rows, beyond)


def fold_slots(values: Tensor, side: SequenceRows, *, mean: bool) -> Tensor:
    """Bring what was stored for the occurrences of a row together; differentiable.

    Args:
        values: Shape (num_slots, H, D).
        side: The rows behind the slots.
        mean: Average the occurrences; their sum otherwise.

    Returns:
        Shape (num_rows, H, D). The order of addition is fixed, in at least float32.
    """
    if side.repeated is None:
        return values
    own = values[: side.num_rows]
    total = own.index_select(0, side.repeated).to(torch.promote_types(own.dtype, torch.float32))
    first = side.num_rows
    for number in side.layers:
        total[:number] += values[first : first + number]
        first += number
    if mean:
        assert side.counts is not None  # as `repeated`
        total = total / side.counts.to(total.dtype)
    return own.index_copy(0, side.repeated, total.to(own.dtype))


def spread_rows(values: Tensor, side: SequenceRows) -> Tensor:
    """Give every slot its row, the adjoint of `fold_slots` for sums; differentiable.

    Args:
        values: Shape (num_rows, H, D).
        side: The rows behind the slots.

    Returns:
        Shape (num_slots, H, D).
    """
    if side.repeated is None:
        return values
    # Repeats as slices, not as gathers: the gradient of a gather adds in no fixed order on a GPU.
    again = values.index_select(0, side.repeated)
    return torch.cat([values, *(again[:number] for number in side.layers)])


def load_entries(values: Tensor, side: SequenceRows) -> Tensor:
    """Rows in the order of the list entries, (P, H, D); a deterministic gradient."""
    if side.rows is None:
        return values
    slots = side.rows if side.slots is None else side.slots
    return spread_rows(values, side).index_select(0, slots)


def store_entries(values: Tensor, side: SequenceRows) -> Tensor:
    """The mean over each row's list entries, (num_rows, H, D); 0 for a row without entries."""
    if side.rows is None:
        return values
    slots = side.rows if side.slots is None else side.slots
    out = values.new_zeros((side.num_slots, *values.shape[1:])).index_copy(0, slots, values)
    return fold_slots(out, side, mean=True)
