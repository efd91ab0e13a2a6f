"""Token injection on the GPU: launchers of the Triton kernels and their ahead-of-time budgets."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from vireid_fast.ops._ahead_of_time import AheadOfTime
from vireid_fast.ops.prompt_injection.codes import INSERT, NOTHING, SAME_DTYPE
from vireid_fast.ops.prompt_injection.sources import MAX_SOURCES
from vireid_fast.ops.prompt_injection.triton_kernels import (
    _injection_fwd_kernel,
    _norm_bwd_kernel,
    _sum_items_kernel,
)

_ROWS_PER_PARTIAL = 32
_NO_MODE = -1
_SHARED, _PER_ITEM, _LABELLED = range(3)
_MAX_NORM_WIDTH = 16384


class Plan(NamedTuple):
    """Launch sizes: width of one program's block, programs along the width, warps."""

    block_width: int
    width_blocks: int
    num_warps: int


class _Later(NamedTuple):
    """Sources that move or replace a token after it is there, padded to four."""

    starts: list[int]
    slots: list[int]
    modes: list[int]


def _plan(width: int) -> Plan:
    block_width = min(1024, max(16, triton.next_power_of_2(width)))
    return Plan(block_width, triton.cdiv(width, block_width), max(1, min(4, block_width // 128)))


def _norm_plan(width: int) -> Plan:
    """A program that normalises holds a whole row."""
    if width > _MAX_NORM_WIDTH:
        raise NotImplementedError(
            f"prompt_injection: norm must have at most {_MAX_NORM_WIDTH} channels on a GPU, "
            f'got {width}. Pass backend="reference".'
        )
    block_width = max(16, triton.next_power_of_2(width))
    return Plan(block_width, 1, max(1, min(16, block_width // 256)))


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _membership(labels: Tensor | None, classes: int) -> int:
    if labels is not None:
        return _LABELLED
    return _SHARED if classes == 1 else _PER_ITEM


def _pad(values: Sequence[object], fill: object) -> list[object]:
    return [*values, *([fill] * (MAX_SOURCES - len(values)))]


def prompt_injection(
    stream: Tensor,
    tokens: Sequence[Tensor],
    labels: Sequence[Tensor | None],
    starts: Sequence[int],
    modes: Sequence[int],
    positions: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    batch: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the forward kernel; arguments as in `reference.prompt_injection`."""
    stream = stream.contiguous()
    tokens = [t.contiguous() for t in tokens]
    labels = [t if t is None else t.contiguous() for t in labels]
    positions, weight, bias = (
        t if t is None else t.contiguous() for t in (positions, weight, bias)
    )
    width = stream.shape[-1]
    slots = [t.shape[1] for t in tokens]
    length = stream.shape[-2]
    length += sum(m for m, mode in zip(slots, modes, strict=True) if mode == INSERT)
    out = stream.new_empty((batch, length, width), dtype=dtype)
    normed = weight is not None
    normalized = stream.new_empty(out.shape if normed else (0,), dtype=dtype)
    statistics = stream.new_empty((2, batch, length) if normed else (0,), dtype=_sum_dtype(dtype))
    if out.numel() == 0:
        return out, normalized, statistics
    plan = _norm_plan(width) if normed else _plan(width)
    members = [_membership(label, t.shape[0]) for label, t in zip(labels, tokens, strict=True)]
    _injection_fwd_kernel[(batch * length, plan.width_blocks)](
        stream, positions, weight, bias, out, normalized, statistics,
        *_pad(tokens, stream), *_pad([stream if t is None else t for t in labels], stream),
        *_pad(starts, 0), *_pad(slots, 0), *_pad([t.shape[0] for t in tokens], 0),
        stream.shape[-2] if stream.dim() == 3 else 0, length, width, batch * length,
        *_pad(modes, _NO_MODE), *_pad(members, _SHARED),
        HAS_POSITIONS=positions is not None, HAS_NORM=normed, EPS=eps,
        BLOCK_WIDTH=plan.block_width, DOUBLE=dtype == torch.float64, num_warps=plan.num_warps,
    )  # fmt: skip
    return out, normalized, statistics


def prompt_injection_bwd(
    grad: Tensor | None,
    grad_normalized: Tensor | None,
    out: Tensor | None,
    statistics: Tensor | None,
    weight: Tensor | None,
    labels: Sequence[Tensor | None],
    starts: Sequence[int],
    modes: Sequence[int],
    classes: Sequence[int],
    lengths: Sequence[int],
    stream_shared: bool,
    stream_length: int,
    wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Launch the backward kernels; arguments as in `reference.prompt_injection_bwd`."""
    given = grad_normalized if grad is None else grad
    batch, _, width = given.shape
    grad_weight, grad_bias = given.new_empty(0), given.new_empty(0)
    if grad_normalized is None:
        total = grad.contiguous()
    else:
        total, partials = _through_norm(grad, grad_normalized, out, statistics, weight)
        if wanted[2] != NOTHING:
            summed = _gradient(given, wanted[2], 2, width)
            _sum_items(partials, summed, None, 1, 0, _later((), (), (), 0))
            # Two outputs of one op must not share memory.
            grad_weight, grad_bias = summed[0].clone(), summed[1].clone()

    def reduce(kind: int, label: Tensor | None, count: int, slots: int, source: int) -> Tensor:
        result = _gradient(given, kind, count, slots, width)
        if kind != NOTHING:
            first = starts[source] if source >= 0 else 0
            later = _later(starts, lengths, modes, source + 1)
            _sum_items(total, result, label, count, first, later)
        return result

    grad_stream = reduce(wanted[0], None, 1 if stream_shared else batch, stream_length, -1)
    if stream_shared and wanted[0] != NOTHING:
        grad_stream = grad_stream.squeeze(0)
    grad_positions = _gradient(given, wanted[1], given.shape[1], width)
    if wanted[1] != NOTHING:
        _sum_items(total, grad_positions, None, 1, 0, _later((), (), (), 0))
    grad_tokens = [
        reduce(wanted[k + 3], labels[k], classes[k], lengths[k], k) for k in range(len(labels))
    ]
    return grad_stream, grad_positions, grad_weight, grad_bias, grad_tokens


def _gradient(given: Tensor, kind: int, *shape: int) -> Tensor:
    if kind == NOTHING:
        return given.new_empty(0)
    return given.new_empty(shape, dtype=given.dtype if kind == SAME_DTYPE else torch.float32)


def _later(starts: Sequence[int], slots: Sequence[int], modes: Sequence[int], first: int) -> _Later:
    return _Later(_pad(starts[first:], 0), _pad(slots[first:], 0), _pad(modes[first:], _NO_MODE))


def _through_norm(
    grad: Tensor | None,
    grad_normalized: Tensor,
    out: Tensor,
    statistics: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradient of the tokens before the norm, and partial sums of those of weight and bias."""
    batch, length, width = grad_normalized.shape
    rows = batch * length
    wide = _sum_dtype(out.dtype)
    parts = triton.cdiv(rows, _ROWS_PER_PARTIAL)
    total = out.new_empty((batch, length, width), dtype=wide)
    partials = out.new_empty((parts, 2, width), dtype=wide)
    if total.numel() == 0:
        return total, partials
    plan = _norm_plan(width)
    _norm_bwd_kernel[(parts,)](
        grad if grad is None else grad.contiguous(), grad_normalized.contiguous(), out,
        statistics, weight.contiguous(), total, partials, rows, width,
        HAS_GRAD=grad is not None, PART=_ROWS_PER_PARTIAL, BLOCK_WIDTH=plan.block_width,
        DOUBLE=wide == torch.float64, num_warps=plan.num_warps,
    )  # fmt: skip
    return total, partials


def _sum_items(
    total: Tensor, out: Tensor, labels: Tensor | None, classes: int, first: int, later: _Later
) -> None:
    """Write into `out`, rows of `classes` x slots, the sums over the items of each class."""
    items, length, width = total.shape
    if out.numel() == 0:
        return
    slots = out.numel() // (classes * width)
    member = _PER_ITEM if labels is None and classes == items else _membership(labels, classes)
    order = offsets = total
    if member == _LABELLED:
        ordered, order = torch.sort(labels, stable=True)
        bounds = torch.arange(classes + 1, device=labels.device)
        offsets = torch.searchsorted(ordered, bounds)
    split = member == _SHARED and items > _ROWS_PER_PARTIAL
    parts = triton.cdiv(items, _ROWS_PER_PARTIAL) if split else 1
    wide = _sum_dtype(total.dtype)
    target = total.new_empty((parts, slots, width), dtype=wide) if split else out
    plan = _plan(width)
    _sum_items_kernel[(classes * slots, plan.width_blocks, parts)](
        total, order, offsets, target, items, length, width, slots, first,
        *later.starts, *later.slots, *later.modes,
        MEMBER=member, PART=_ROWS_PER_PARTIAL, BLOCK_WIDTH=plan.block_width,
        DOUBLE=wide == torch.float64, num_warps=plan.num_warps,
    )  # fmt: skip
    if split:
        _sum_items(target, out, None, 1, 0, _later((), (), (), 0))


def _ahead_of_time(dtype: str, source: str) -> list[AheadOfTime]:
    pointer, wide = f"*{dtype}", "*fp64" if dtype == "fp64" else "*fp32"
    double = {"BLOCK_WIDTH": 512, "DOUBLE": dtype == "fp64"}
    four = range(MAX_SOURCES)
    scalars = dict.fromkeys([*(f"start{k}" for k in four), *(f"slots{k}" for k in four)], "i32")
    fwd = {
        "stream_ptr": pointer, "positions_ptr": f"*{source}", "weight_ptr": f"*{source}",
        "bias_ptr": f"*{source}", "out_ptr": pointer, "normalized_ptr": pointer,
        "statistics_ptr": wide, **{f"tokens{k}_ptr": f"*{source}" for k in four},
        **{f"labels{k}_ptr": "*i64" for k in four}, **scalars,
        **{f"classes{k}": "i32" for k in four}, "stream_items": "i32", "length": "i32",
        "width": "i32", "rows": "i32",
    }  # fmt: skip
    norm = {"grad_ptr": pointer, "grad_normalized_ptr": pointer, "out_ptr": pointer,
            "statistics_ptr": wide, "weight_ptr": f"*{source}", "total_ptr": wide,
            "partials_ptr": wide, "rows": "i32", "width": "i32"}  # fmt: skip
    sums = {"total_ptr": pointer, "order_ptr": "*i64", "offsets_ptr": "*i64",
            "out_ptr": f"*{source}", "items": "i32", "length": "i32", "width": "i32",
            "slots": "i32", "first": "i32", **scalars}  # fmt: skip
    modes = {"MODE0": 0, "MODE1": 1, "MODE2": 2, "MODE3": _NO_MODE}
    members = {"MEMBER0": _LABELLED, "MEMBER1": _PER_ITEM, "MEMBER2": 0, "MEMBER3": 0}
    fwd_constants = {**modes, **members, "HAS_POSITIONS": True, "EPS": 1e-5, **double}
    # Rows pass through shared memory between the reductions of the norm.
    row_bytes = 512 * (8 if dtype == "fp64" else 4)
    norm_registers = 128 if dtype == "fp64" else 72
    return [
        AheadOfTime(_injection_fwd_kernel, fwd, {**fwd_constants, "HAS_NORM": False}, 48),
        AheadOfTime(_injection_fwd_kernel, fwd, {**fwd_constants, "HAS_NORM": True}, 64,
                    shared_bytes=row_bytes),
        AheadOfTime(_norm_bwd_kernel, norm, {"HAS_GRAD": True, "PART": 32, **double},
                    norm_registers, shared_bytes=row_bytes),
        *(
            AheadOfTime(_sum_items_kernel, sums, {**modes, "MEMBER": member, "PART": 32, **double},
                        64)
            for member in (_SHARED, _LABELLED)
        ),
    ]  # fmt: skip


AHEAD_OF_TIME = [
    case
    for dtype, source in (
        ("fp32", "fp32"), ("fp64", "fp64"), ("fp16", "fp16"), ("bf16", "bf16"), ("fp16", "fp32"),
    )
    for case in _ahead_of_time(dtype, source)
]  # fmt: skip
"""Instances of these kernels that `make kernels-check` compiles, with their budgets."""
