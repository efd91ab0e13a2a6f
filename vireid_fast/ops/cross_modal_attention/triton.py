"""Cross-modal attention on the GPU: launch plans and launchers of the Triton kernels."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from vireid_fast.ops._ahead_of_time import AheadOfTime
from vireid_fast.ops.cross_modal_attention import triton_backward, triton_forward
from vireid_fast.ops.cross_modal_attention.triton_budgets import BUDGETS, Budget

SHORT_KEYS = 288
"""Up to here the forward pass holds a row of all scores at once: joint V + R of 129 tokens each."""
RESIDENT_SIZE = 144 * 64
"""Keys x head size up to which dk and dv stay in registers."""
ONE_PROGRAM_SIZE = 288 * 64
"""Keys x head size up to which one program per sequence and head computes all gradients."""
HOPPER_SHARED_BYTES = 227 * 1024


class Launch(NamedTuple):
    """One kernel, its programs per sequence and head, and its compile-time constants."""

    kernel: triton.JITFunction
    blocks: int
    constants: Mapping[str, object]
    num_warps: int
    num_stages: int = 1


def _chunks(length: int) -> tuple[int, ...]:
    """Powers of two from 16 to 128 that hold `length` keys, the tail in at most two.

    129 -> (128, 16), 163 -> (128, 32, 16), 258 -> (128, 128, 16), 77 -> (64, 16).
    """
    full, tail = divmod(-(-length // 16) * 16, 128)
    if tail == 112:
        full, tail = full + 1, 0
    return (128,) * full + tuple(size for size in (64, 32, 16) if tail & size)


def _tail(max_query: int, block: int) -> int:
    """Rows of the small tile for queries beyond the full blocks; 0 where it would save nothing."""
    rest = max_query % block
    tail = 16 if rest <= 16 else 32
    return tail if 0 < rest <= 32 and block >= 64 else 0


def _head(head: int) -> dict[str, int]:
    return {"HEAD": head, "BLOCK_HEAD": max(32, triton.next_power_of_2(head))}


def _plan_fwd(max_query: int, max_key: int, head: int, element_size: int) -> Launch:
    """How to launch the forward pass for the longest sequences of these lengths."""
    wide = head > 64
    if element_size == 4:
        # No tensor cores in IEEE float32: small tiles, or the operands do not fit the registers.
        rows, keys, warps, stages = (16, 16, 8, 1) if wide else (16, 32, 4, 1)
    else:
        rows, keys, warps, stages = 64, 64, 8 if wide else 4, 2
    if element_size == 4 or max_key > SHORT_KEYS:
        constants = {"BLOCK_Q": rows, "BLOCK_K": keys, **_head(head)}
        blocks = triton.cdiv(max_query, rows)
        return Launch(triton_forward._attention_fwd_long_kernel, blocks, constants, warps, stages)
    rows = min(rows, max(16, triton.next_power_of_2(max_query)))
    chunks = _chunks(max_key)
    if max(rows, *chunks) == 16:
        warps = 1
    tail = _tail(max_query, rows)
    constants = {"BLOCK_Q": rows, "TAIL_Q": tail, "CHUNKS": chunks, **_head(head)}
    blocks = triton.cdiv(max_query, rows)
    return Launch(triton_forward._attention_fwd_kernel, blocks, constants, warps)


def _plan_bwd(
    max_query: int,
    max_key: int,
    head: int,
    element_size: int,
    shared_bytes: int = HOPPER_SHARED_BYTES,
) -> tuple[Launch, ...]:
    """How to launch the backward pass: one kernel, or one for dq and one for dk and dv.

    Args:
        max_query: Longest query sequence.
        max_key: Longest key sequence.
        head: Head size.
        element_size: Bytes of an element.
        shared_bytes: Shared memory that a program of the device may have.
    """
    constants = _head(head)
    wide = head > 64
    chunks = _chunks(max_key)
    size = sum(chunks) * constants["BLOCK_HEAD"]
    # Keys and values take 4 bytes of shared memory per size, tiles and conversions up to 4 more.
    if element_size == 2 and size <= ONE_PROGRAM_SIZE and 8 * size <= shared_bytes:
        resident = size <= RESIDENT_SIZE
        rows = 16 if max_query <= 16 or (wide and not resident) else 32
        constants |= {"BLOCK_Q": rows, "CHUNKS": chunks, "RESIDENT": resident}
        warps = 4 if sum(chunks) <= 64 else 8
        return (Launch(triton_backward._attention_bwd_kernel, 1, constants, warps),)
    warps = 8 if wide else 4
    if element_size == 2:
        by_query = by_key = {"BLOCK_Q": 64, "BLOCK_K": 64}
    elif wide:
        by_query = by_key = {"BLOCK_Q": 16, "BLOCK_K": 16}
    else:
        by_query, by_key = {"BLOCK_Q": 32, "BLOCK_K": 16}, {"BLOCK_Q": 16, "BLOCK_K": 32}
    query_blocks = triton.cdiv(max_query, by_query["BLOCK_Q"])
    key_blocks = triton.cdiv(max_key, by_key["BLOCK_K"])
    query_kernel = triton_backward._attention_bwd_query_kernel
    key_kernel = triton_backward._attention_bwd_key_kernel
    stages = 2 if element_size == 2 else 1
    return (
        Launch(query_kernel, query_blocks, {**by_query, **constants}, warps, stages),
        Launch(key_kernel, key_blocks, {**by_key, **constants}, warps),
    )


def _run(launch: Launch, arguments: Mapping[str, object], dtype: torch.dtype) -> None:
    """Launch a kernel with those of the arguments that it takes."""
    sequences = arguments["query_start_ptr"].shape[0]
    grid = (sequences * arguments["num_heads"] * launch.blocks,)
    arguments = {**arguments, "num_blocks": launch.blocks}
    taken = {name: arguments[name] for name in launch.kernel.arg_names if name in arguments}
    # The interpreter multiplies the raw bits of bfloat16 operands.
    upcast = triton.knobs.runtime.interpret and dtype == torch.bfloat16
    launch.kernel[grid](
        **taken, **launch.constants, UPCAST=upcast,
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def _allocator(x: Tensor, entries: Tensor | None, num_slots: int) -> Callable[..., Tensor]:
    """`new_empty` where the list entries, each with a slot of its own, fill all slots."""
    written = x.shape[0] if entries is None else entries.shape[0]
    return x.new_empty if written == num_slots else x.new_zeros


def _strides(query: Tensor, key: Tensor, value: Tensor) -> dict[str, int]:
    named = {"q": query, "k": key, "v": value}
    return {
        f"stride_{name}{axis}": tensor.stride(i)
        for name, tensor in named.items()
        for i, axis in enumerate("nh")
    }


def _unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


def _shared_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return HOPPER_SHARED_BYTES
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def cross_modal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_rows: Tensor | None,
    query_slots: Tensor | None,
    query_start: Tensor,
    query_length: Tensor,
    key_rows: Tensor | None,
    key_start: Tensor,
    key_length: Tensor,
    num_slots: int,
    max_query: int,
    max_key: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Launch the forward kernel; arguments as in `reference.cross_modal_attention`.

    Every list entry must belong to a sequence: where there are as many entries as slots, the
    outputs are not zeroed first.
    """
    query, key, value = (_unit_stride(x) for x in (query, key, value))
    _, heads, head = query.shape
    slots = query_rows if query_slots is None else query_slots
    new = _allocator(query, slots, num_slots)
    out = new((num_slots, heads, head))
    lse = new((heads, num_slots), dtype=torch.float32)
    if out.numel() == 0:
        return out, lse
    arguments = {
        "query_ptr": query, "key_ptr": key, "value_ptr": value, "out_ptr": out, "lse_ptr": lse,
        "query_rows_ptr": query_rows, "query_slots_ptr": slots,
        "query_start_ptr": query_start, "query_length_ptr": query_length,
        "key_rows_ptr": key_rows, "key_start_ptr": key_start, "key_length_ptr": key_length,
        **_strides(query, key, value), "num_heads": heads, "num_slots": num_slots, "scale": scale,
    }  # fmt: skip
    _run(_plan_fwd(max_query, max_key, head, query.element_size()), arguments, query.dtype)
    return out, lse


def cross_modal_attention_bwd(
    grad: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_rows: Tensor | None,
    query_slots: Tensor | None,
    query_start: Tensor,
    query_length: Tensor,
    key_rows: Tensor | None,
    key_slots: Tensor | None,
    key_start: Tensor,
    key_length: Tensor,
    num_query_slots: int,
    num_key_slots: int,
    max_query: int,
    max_key: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the backward kernels; arguments as in `reference.cross_modal_attention_bwd`."""
    query, key, value = (_unit_stride(x) for x in (query, key, value))
    _, heads, head = query.shape
    query_slots = query_rows if query_slots is None else query_slots
    key_slots = key_rows if key_slots is None else key_slots
    new_keys = _allocator(key, key_slots, num_key_slots)
    dq = _allocator(query, query_slots, num_query_slots)((num_query_slots, heads, head))
    dk = new_keys((num_key_slots, heads, head))
    dv = new_keys((num_key_slots, heads, head))
    if dq.numel() == 0 or dk.numel() == 0:
        return dq, dk, dv
    launches = _plan_bwd(
        max_query, max_key, head, query.element_size(), _shared_bytes(query.device)
    )
    arguments = {
        "grad_ptr": grad.contiguous(), "lse_ptr": lse,
        "delta_ptr": query.new_empty(lse.shape, dtype=torch.float32),
        "query_ptr": query, "key_ptr": key, "value_ptr": value,
        "dq_ptr": dq, "dk_ptr": dk, "dv_ptr": dv,
        "query_rows_ptr": query_rows, "query_slots_ptr": query_slots,
        "query_start_ptr": query_start, "query_length_ptr": query_length,
        "key_rows_ptr": key_rows, "key_slots_ptr": key_slots,
        "key_start_ptr": key_start, "key_length_ptr": key_length,
        **_strides(query, key, value), "num_heads": heads, "num_slots": num_query_slots,
        "scale": scale,
    }  # fmt: skip
    for launch in launches:
        _run(launch, arguments, query.dtype)
    return dq, dk, dv


def _ahead_of_time(budget: Budget) -> AheadOfTime:
    """The instance that the launchers run at a budget's size, gather lists included."""
    size = {"fp32": 4, "fp16": 2, "bf16": 2}[budget.dtype]
    plans = {
        launch.kernel.__name__: launch
        for launch in (
            _plan_fwd(budget.tokens, budget.tokens, budget.head, size),
            *_plan_bwd(budget.tokens, budget.tokens, budget.head, size),
        )
    }
    launch = plans[f"_attention_{budget.kernel}_kernel"]
    constants = {**launch.constants, "UPCAST": False}
    return AheadOfTime(
        launch.kernel, {
            name: _argument_type(name, budget.dtype)
            for name in launch.kernel.arg_names if name not in constants
        },
        constants, budget.registers, launch.num_warps, budget.spill_bytes, budget.shared_bytes,
        tensor_core=budget.tensor_core, num_stages=launch.num_stages, targets=(budget.target,),
        label=f"{budget.tokens} tokens x {budget.head}",
    )  # fmt: skip


def _argument_type(name: str, dtype: str) -> str:
    if name in ("lse_ptr", "delta_ptr"):
        return "*fp32"
    if name.endswith(("rows_ptr", "slots_ptr", "start_ptr", "length_ptr")):
        return "*i64"
    if name.endswith("_ptr"):
        return f"*{dtype}"
    return "fp32" if name == "scale" else "i32"


AHEAD_OF_TIME = [_ahead_of_time(budget) for budget in BUDGETS]
"""Instances of these kernels that `make kernels-check` compiles, with their budgets."""
