"""Prompt assembly on the GPU: Triton kernels, launchers and their ahead-of-time budgets."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vireid_fast.ops._ahead_of_time import AheadOfTime


class Plan(NamedTuple):
    """Launch sizes: width of one program's block, programs along the width, warps."""

    block_width: int
    width_blocks: int
    num_warps: int


def _plan(width: int) -> Plan:
    block_width = min(1024, max(16, triton.next_power_of_2(width)))
    return Plan(block_width, triton.cdiv(width, block_width), max(1, min(4, block_width // 128)))


@triton.jit
def _prompt_injection_fwd_kernel(
    template_ptr, positions_ptr, context_ptr, labels_ptr, out_ptr,
    length, width, num_classes, context_length, start,
    BLOCK_WIDTH: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # One program writes one block of one token of one prompt.
    compute: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    row = tl.program_id(0).to(tl.int64)
    prompt = row // length
    token = row % length
    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)  # [BLOCK_WIDTH]
    inside = column < width
    slot = token - start
    learned = (slot >= 0) & (slot < context_length)
    label = tl.load(labels_ptr + prompt)
    known = (label >= 0) & (label < num_classes)
    fixed = tl.load(template_ptr + token * width + column, mask=inside & (learned == 0), other=0.0)
    # An unknown class shows as NaN: a kernel cannot raise.
    context = tl.load(
        context_ptr + (label * context_length + slot) * width + column,
        mask=inside & learned & known,
        other=float("nan"),
    )
    position = tl.load(positions_ptr + token * width + column, mask=inside, other=0.0)
    value = tl.where(learned, context, fixed).to(compute) + position.to(compute)
    tl.store(out_ptr + row * width + column, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _prompt_injection_bwd_kernel(
    grad_ptr, order_ptr, offsets_ptr, out_ptr,
    length, width, context_length, start,
    BLOCK_WIDTH: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # One program sums one block of one context token over the prompts of its class, in order.
    compute: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    row = tl.program_id(0).to(tl.int64)
    label = row // context_length
    token = start + row % context_length
    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)  # [BLOCK_WIDTH]
    inside = column < width
    first = tl.load(offsets_ptr + label)
    last = tl.load(offsets_ptr + label + 1)
    total = tl.zeros([BLOCK_WIDTH], dtype=compute)
    for i in range(first, last):
        prompt = tl.load(order_ptr + i)
        source = grad_ptr + (prompt * length + token) * width + column
        total += tl.load(source, mask=inside, other=0.0).to(compute)
    tl.store(out_ptr + row * width + column, total.to(out_ptr.dtype.element_ty), mask=inside)


def prompt_injection(
    template: Tensor, positions: Tensor, context: Tensor, labels: Tensor, start: int
) -> Tensor:
    """Launch the forward kernel; arguments as in `reference.prompt_injection`."""
    template, positions = template.contiguous(), positions.contiguous()
    context, labels = context.contiguous(), labels.contiguous()
    length, width = template.shape
    out = template.new_empty((labels.shape[0], length, width))
    if out.numel() == 0:
        return out
    plan = _plan(width)
    _prompt_injection_fwd_kernel[(labels.shape[0] * length, plan.width_blocks)](
        template, positions, context, labels, out,
        length, width, context.shape[0], context.shape[1], start,
        BLOCK_WIDTH=plan.block_width, DOUBLE=out.dtype == torch.float64, num_warps=plan.num_warps,
    )  # fmt: skip
    return out


def prompt_injection_bwd(
    grad: Tensor, labels: Tensor, num_classes: int, context_length: int, start: int
) -> Tensor:
    """Launch the backward kernel; arguments as in `reference.prompt_injection_bwd`."""
    grad = grad.contiguous()
    _, length, width = grad.shape
    out = grad.new_empty((num_classes, context_length, width))
    if out.numel() == 0:
        return out
    ordered, order = torch.sort(labels, stable=True)
    bounds = torch.arange(num_classes + 1, device=labels.device)
    offsets = torch.searchsorted(ordered, bounds)
    plan = _plan(width)
    _prompt_injection_bwd_kernel[(num_classes * context_length, plan.width_blocks)](
        grad, order, offsets, out,
        length, width, context_length, start,
        BLOCK_WIDTH=plan.block_width, DOUBLE=out.dtype == torch.float64, num_warps=plan.num_warps,
    )  # fmt: skip
    return out


def _ahead_of_time(dtype: str, registers: int) -> list[AheadOfTime]:
    sizes = {"length": "i32", "width": "i32"}
    constants = {"BLOCK_WIDTH": 512, "DOUBLE": dtype == "fp64"}
    pointer = f"*{dtype}"
    fwd = {"template_ptr": pointer, "positions_ptr": pointer, "context_ptr": pointer,
           "labels_ptr": "*i64", "out_ptr": pointer, **sizes, "num_classes": "i32",
           "context_length": "i32", "start": "i32"}  # fmt: skip
    bwd = {"grad_ptr": pointer, "order_ptr": "*i64", "offsets_ptr": "*i64", "out_ptr": pointer,
           **sizes, "context_length": "i32", "start": "i32"}  # fmt: skip
    return [
        AheadOfTime(_prompt_injection_fwd_kernel, fwd, constants, registers),
        AheadOfTime(_prompt_injection_bwd_kernel, bwd, constants, registers),
    ]


AHEAD_OF_TIME = [
    case for dtype in ("fp32", "fp64", "fp16", "bf16") for case in _ahead_of_time(dtype, 40)
]
"""Instances of these kernels that `make kernels-check` compiles, with their budgets."""
