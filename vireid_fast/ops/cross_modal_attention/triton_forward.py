"""Triton kernels of the attention's forward pass; `triton.py` plans and launches them.

    out[i] = sum_j P[i, j] v[j],   P[i, j] = exp(scale q[i].k[j] - lse[i]),
    lse[i] = log sum_j exp(scale q[i].k[j])                    i, j in one sequence, one head

Position i of a sequence is entry `start + i` of a list of rows to load and of slots to store; no
list means the entry itself. Slots are unique, so every kernel stores and none needs atomics: the
results are deterministic. Rows beyond a sequence load as zeros and keys beyond it get P = 0, hence
a NaN stays in its sequence.

A short sequence's keys are CHUNKS, static powers of two that together hold all keys, so that a row
of P exists at once: (128, 16) holds the 129 tokens of a 16 x 8 grid and its class token with 10%
of padding, where one power of two would pad by half.
"""

import triton
import triton.language as tl

from vireid_fast.ops.cross_modal_attention.triton_rows import (
    LN_2,
    LOG2_E,
    _dot,
    _entry,
    _extent,
    _load,
    _program,
    _store,
)


@triton.jit
def _fwd_rows(
    query_ptr, key_ptr, value_ptr, out_ptr, lse_ptr, query_rows_ptr, query_slots_ptr, key_rows_ptr,
    query_start, query_length, key_start, key_length, first,
    stride_qn, stride_kn, stride_vn, stride_on, scale,
    ROWS: tl.constexpr, CHUNKS: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Output of query rows first .. first + ROWS of one sequence and head.

    Fewer than 64 rows take transposed tiles, [keys, rows], where the keys fill the 64 rows of a
    wgmma and the warps share the work; with [rows, keys] every warp would do all of it.
    """
    TRANSPOSED: tl.constexpr = ROWS < 64
    AXIS: tl.constexpr = 0 if TRANSPOSED else 1
    position = first + tl.arange(0, ROWS)
    inside = position < query_length
    row = _entry(query_rows_ptr, query_start, position, inside)
    q = _load(query_ptr, row, stride_qn, inside, HEAD, BLOCK_HEAD, UPCAST)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    scores = ()
    values = ()
    begin = 0
    for i in tl.static_range(len(CHUNKS)):
        key_position = begin + tl.arange(0, CHUNKS[i])
        known = key_position < key_length
        key_row = _entry(key_rows_ptr, key_start, key_position, known)
        k = _load(key_ptr, key_row, stride_kn, known, HEAD, BLOCK_HEAD, UPCAST)
        values += (_load(value_ptr, key_row, stride_vn, known, HEAD, BLOCK_HEAD, UPCAST),)
        s = _dot(k, tl.trans(q)) if TRANSPOSED else _dot(q, tl.trans(k))
        s = tl.where(tl.expand_dims(known, 1 - AXIS), s * (scale * LOG2_E), float("-inf"))
        top = tl.maximum(top, tl.max(s, AXIS))
        scores += (s,)
        begin += CHUNKS[i]
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([BLOCK_HEAD, ROWS] if TRANSPOSED else [ROWS, BLOCK_HEAD], tl.float32)
    for i in tl.static_range(len(CHUNKS)):
        p = tl.exp2(scores[i] - tl.expand_dims(top, AXIS))
        total += tl.sum(p, AXIS)
        p = p.to(values[i].dtype)
        out += _dot(tl.trans(values[i]), p) if TRANSPOSED else _dot(p, values[i])
    out = out / tl.expand_dims(total, AXIS)
    slot = _entry(query_slots_ptr, query_start, position, inside)
    out = tl.trans(out) if TRANSPOSED else out
    _store(out_ptr, slot, stride_on, inside, out, HEAD, BLOCK_HEAD)
    tl.store(lse_ptr + slot, (top + tl.log2(total)) * LN_2, mask=inside)


@triton.jit
def _attention_fwd_kernel(
    query_ptr, key_ptr, value_ptr, out_ptr, lse_ptr,
    query_rows_ptr, query_slots_ptr, query_start_ptr, query_length_ptr,
    key_rows_ptr, key_start_ptr, key_length_ptr,
    stride_qn, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh,
    num_blocks, num_heads, num_slots, scale,
    BLOCK_Q: tl.constexpr, TAIL_Q: tl.constexpr, CHUNKS: tl.constexpr,
    HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one sequence and head against all its keys at once.

    The last TAIL_Q or fewer queries of a sequence (the class token of a grid) take a small tile.
    """
    sequence, head, block = _program(num_blocks, num_heads)
    query_start, query_length = _extent(query_start_ptr, query_length_ptr, sequence)
    key_start, key_length = _extent(key_start_ptr, key_length_ptr, sequence)
    query_ptr += head * stride_qh
    key_ptr += head * stride_kh
    value_ptr += head * stride_vh
    out_ptr += head * HEAD
    lse_ptr += head * num_slots
    first = block * BLOCK_Q
    if first + TAIL_Q < query_length:
        _fwd_rows(
            query_ptr, key_ptr, value_ptr, out_ptr, lse_ptr,
            query_rows_ptr, query_slots_ptr, key_rows_ptr,
            query_start, query_length, key_start, key_length, first,
            stride_qn, stride_kn, stride_vn, num_heads * HEAD, scale,
            BLOCK_Q, CHUNKS, HEAD, BLOCK_HEAD, UPCAST,
        )  # fmt: skip
    elif first < query_length:  # noqa: SIM102
        # A compile-time condition of its own, or the tile would be made with no rows.
        if TAIL_Q > 0:
            _fwd_rows(
                query_ptr, key_ptr, value_ptr, out_ptr, lse_ptr,
                query_rows_ptr, query_slots_ptr, key_rows_ptr,
                query_start, query_length, key_start, key_length, first,
                stride_qn, stride_kn, stride_vn, num_heads * HEAD, scale,
                TAIL_Q, CHUNKS, HEAD, BLOCK_HEAD, UPCAST,
            )  # fmt: skip


@triton.jit
def _attention_fwd_long_kernel(
    query_ptr, key_ptr, value_ptr, out_ptr, lse_ptr,
    query_rows_ptr, query_slots_ptr, query_start_ptr, query_length_ptr,
    key_rows_ptr, key_start_ptr, key_length_ptr,
    stride_qn, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh,
    num_blocks, num_heads, num_slots, scale,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one sequence and head, keys in a loop (online softmax)."""
    sequence, head, block = _program(num_blocks, num_heads)
    query_start, query_length = _extent(query_start_ptr, query_length_ptr, sequence)
    key_start, key_length = _extent(key_start_ptr, key_length_ptr, sequence)
    if block * BLOCK_Q >= query_length:
        return
    position = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    inside = position < query_length
    row = _entry(query_rows_ptr, query_start, position, inside)
    q = _load(query_ptr + head * stride_qh, row, stride_qn, inside, HEAD, BLOCK_HEAD, UPCAST)
    key_ptr += head * stride_kh
    value_ptr += head * stride_vh
    top = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    out = tl.zeros([BLOCK_Q, BLOCK_HEAD], tl.float32)
    for begin in range(0, key_length, BLOCK_K):
        key_position = begin + tl.arange(0, BLOCK_K)
        known = key_position < key_length
        key_row = _entry(key_rows_ptr, key_start, key_position, known)
        k = _load(key_ptr, key_row, stride_kn, known, HEAD, BLOCK_HEAD, UPCAST)
        s = tl.where(known[None, :], _dot(q, tl.trans(k)) * (scale * LOG2_E), float("-inf"))
        # Never -inf: each block has a key inside the sequence.
        higher = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])  # [BLOCK_Q, BLOCK_K]
        shrink = tl.exp2(top - higher)
        v = _load(value_ptr, key_row, stride_vn, known, HEAD, BLOCK_HEAD, UPCAST)
        total = total * shrink + tl.sum(p, 1)
        out = out * shrink[:, None] + _dot(p.to(v.dtype), v)
        top = higher
    slot = _entry(query_slots_ptr, query_start, position, inside)
    out_ptr += head * HEAD
    _store(out_ptr, slot, num_heads * HEAD, inside, out / total[:, None], HEAD, BLOCK_HEAD)
    tl.store(lse_ptr + head * num_slots + slot, (top + tl.log2(total)) * LN_2, mask=inside)
