"""Triton kernels of the attention's backward pass; `triton.py` plans and launches them.

    dv[j] = sum_i P[i, j] g[i]
    dS    = P o (dP - delta),   dP[i, j] = g[i].v[j],   delta[i] = sum_j P[i, j] dP[i, j]
    dq[i] = scale sum_j dS[i, j] k[j],   dk[j] = scale sum_i dS[i, j] q[i]

with P recomputed from lse. Layout as in `triton_forward.py`; the output itself is not read. Key
gradients have slots of their own, so nothing needs atomics.
"""

import triton
import triton.language as tl

from vireid_fast.ops.cross_modal_attention.triton_rows import (
    LOG2_E,
    _dot,
    _entry,
    _extent,
    _load,
    _program,
    _store,
)


@triton.jit
def _bwd_load_rows(
    grad_ptr, lse_ptr, query_ptr, query_rows_ptr, query_slots_ptr,
    query_start, query_length, first, stride_qn, stride_on,
    ROWS: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Query rows first .. first + ROWS: inside, slot, q, gradient, lse in units of log 2."""
    position = first + tl.arange(0, ROWS)
    inside = position < query_length
    row = _entry(query_rows_ptr, query_start, position, inside)
    slot = _entry(query_slots_ptr, query_start, position, inside)
    q = _load(query_ptr, row, stride_qn, inside, HEAD, BLOCK_HEAD, UPCAST)
    g = _load(grad_ptr, slot, stride_on, inside, HEAD, BLOCK_HEAD, UPCAST)
    lse = tl.load(lse_ptr + slot, mask=inside, other=0.0) * LOG2_E
    return inside, slot, q, g, lse


@triton.jit
def _bwd_rows(
    grad_ptr, lse_ptr, delta_ptr, query_ptr, dq_ptr, query_rows_ptr, query_slots_ptr,
    query_start, query_length, first, stride_qn, stride_on, scale,
    keys, values, key_length, dk, dv,
    ROWS: tl.constexpr, CHUNKS: tl.constexpr, RESIDENT: tl.constexpr,
    HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Store dq of query rows first .. first + ROWS; RESIDENT: add to dk, dv, else store delta.

    Tiles of 64 or more keys are [keys, rows]: the keys fill the 64 rows of a wgmma, so that few
    query rows at a time waste none of it, and P and dS are left operands as they are. Tiles of
    fewer keys are [rows, keys].
    """
    inside, slot, q, g, lse = _bwd_load_rows(
        grad_ptr, lse_ptr, query_ptr, query_rows_ptr, query_slots_ptr, query_start, query_length,
        first, stride_qn, stride_on, ROWS, HEAD, BLOCK_HEAD, UPCAST,
    )  # fmt: skip
    delta = tl.zeros([ROWS], tl.float32)
    probabilities = ()
    slopes = ()
    new_dv = ()
    begin = 0
    for i in tl.static_range(len(CHUNKS)):
        known = begin + tl.arange(0, CHUNKS[i]) < key_length
        if CHUNKS[i] >= 64:
            s = _dot(keys[i], tl.trans(q)) * (scale * LOG2_E)
            p = tl.where(known[:, None], tl.exp2(s - lse[None, :]), 0.0)
            slope = _dot(values[i], tl.trans(g))
            delta += tl.sum(p * slope, 0)
            if RESIDENT:
                new_dv += (dv[i] + _dot(p.to(g.dtype), g),)
        else:
            s = _dot(q, tl.trans(keys[i])) * (scale * LOG2_E)
            p = tl.where(known[None, :], tl.exp2(s - lse[:, None]), 0.0)
            slope = _dot(g, tl.trans(values[i]))
            delta += tl.sum(p * slope, 1)
            if RESIDENT:
                new_dv += (dv[i] + _dot(tl.trans(p.to(g.dtype)), g),)
        probabilities += (p,)
        slopes += (slope,)
        begin += CHUNKS[i]
    new_dk = ()
    dq = tl.zeros([BLOCK_HEAD, ROWS], tl.float32)
    for i in tl.static_range(len(CHUNKS)):
        if CHUNKS[i] >= 64:
            ds = (probabilities[i] * (slopes[i] - delta[None, :])).to(q.dtype)
        else:
            ds = tl.trans((probabilities[i] * (slopes[i] - delta[:, None])).to(q.dtype))
        if RESIDENT:
            new_dk += (dk[i] + _dot(ds, q),)
        dq += _dot(tl.trans(keys[i]), ds)
    _store(dq_ptr, slot, stride_on, inside, tl.trans(dq) * scale, HEAD, BLOCK_HEAD)
    if not RESIDENT:
        tl.store(delta_ptr + slot, delta, mask=inside)
    return new_dk, new_dv


@triton.jit
def _bwd_keys(
    grad_ptr, lse_ptr, delta_ptr, query_ptr, query_rows_ptr, query_slots_ptr,
    query_start, query_length, stride_qn, stride_on, scale, k, v, known,
    ROWS: tl.constexpr, KEYS: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """dk and dv of KEYS keys, the queries in a loop, delta given; tiles are [KEYS, ROWS]."""
    dk = tl.full([KEYS, BLOCK_HEAD], 0.0, tl.float32)
    dv = tl.full([KEYS, BLOCK_HEAD], 0.0, tl.float32)
    for first in range(0, query_length, ROWS):
        inside, slot, q, g, lse = _bwd_load_rows(
            grad_ptr, lse_ptr, query_ptr, query_rows_ptr, query_slots_ptr, query_start,
            query_length, first, stride_qn, stride_on, ROWS, HEAD, BLOCK_HEAD, UPCAST,
        )  # fmt: skip
        delta = tl.load(delta_ptr + slot, mask=inside, other=0.0)
        s = _dot(k, tl.trans(q)) * (scale * LOG2_E)
        p = tl.where(known[:, None], tl.exp2(s - lse[None, :]), 0.0)
        dv += _dot(p.to(g.dtype), g)
        ds = (p * (_dot(v, tl.trans(g)) - delta[None, :])).to(q.dtype)
        dk += _dot(ds, q)
    return dk * scale, dv


@triton.jit
def _attention_bwd_kernel(
    grad_ptr, lse_ptr, delta_ptr, query_ptr, key_ptr, value_ptr, dq_ptr, dk_ptr, dv_ptr,
    query_rows_ptr, query_slots_ptr, query_start_ptr, query_length_ptr,
    key_rows_ptr, key_slots_ptr, key_start_ptr, key_length_ptr,
    stride_qn, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh,
    num_heads, num_slots, scale,
    BLOCK_Q: tl.constexpr, CHUNKS: tl.constexpr, RESIDENT: tl.constexpr,
    HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: dq, dk and dv of one sequence and head.

    RESIDENT: dk and dv of all keys stay in registers, so that each tile is computed once.
    Otherwise the queries pass first (dq, delta), then each chunk of keys (dk, dv).
    """
    sequence, head, _ = _program(1, num_heads)
    query_start, query_length = _extent(query_start_ptr, query_length_ptr, sequence)
    key_start, key_length = _extent(key_start_ptr, key_length_ptr, sequence)
    grad_ptr += head * HEAD
    lse_ptr += head * num_slots
    query_ptr += head * stride_qh
    dq_ptr += head * HEAD
    dk_ptr += head * HEAD
    dv_ptr += head * HEAD
    if not RESIDENT:
        delta_ptr += head * num_slots
    stride_on = num_heads * HEAD
    keys = ()
    values = ()
    dk = ()
    dv = ()
    begin = 0
    for i in tl.static_range(len(CHUNKS)):
        key_position = begin + tl.arange(0, CHUNKS[i])
        known = key_position < key_length
        key_row = _entry(key_rows_ptr, key_start, key_position, known)
        keys += (_load(key_ptr + head * stride_kh, key_row, stride_kn, known,
                       HEAD, BLOCK_HEAD, UPCAST),)  # fmt: skip
        values += (_load(value_ptr + head * stride_vh, key_row, stride_vn, known,
                         HEAD, BLOCK_HEAD, UPCAST),)  # fmt: skip
        if RESIDENT:
            dk += (tl.full([CHUNKS[i], BLOCK_HEAD], 0.0, tl.float32),)
            dv += (tl.full([CHUNKS[i], BLOCK_HEAD], 0.0, tl.float32),)
        begin += CHUNKS[i]
    for first in range(0, query_length, BLOCK_Q):
        dk, dv = _bwd_rows(
            grad_ptr, lse_ptr, delta_ptr, query_ptr, dq_ptr, query_rows_ptr, query_slots_ptr,
            query_start, query_length, first, stride_qn, stride_on, scale,
            keys, values, key_length, dk, dv,
            BLOCK_Q, CHUNKS, RESIDENT, HEAD, BLOCK_HEAD, UPCAST,
        )  # fmt: skip
    if not RESIDENT:
        # The program's own writes of delta must be seen by all its threads.
        tl.debug_barrier()
    begin = 0
    for i in tl.static_range(len(CHUNKS)):
        key_position = begin + tl.arange(0, CHUNKS[i])
        known = key_position < key_length
        if RESIDENT:
            chunk_dk = dk[i] * scale
            chunk_dv = dv[i]
        else:
            chunk_dk, chunk_dv = _bwd_keys(
                grad_ptr, lse_ptr, delta_ptr, query_ptr, query_rows_ptr, query_slots_ptr,
                query_start, query_length, stride_qn, stride_on, scale, keys[i], values[i], known,
                BLOCK_Q, CHUNKS[i], HEAD, BLOCK_HEAD, UPCAST,
            )  # fmt: skip
        key_slot = _entry(key_slots_ptr, key_start, key_position, known)
        _store(dk_ptr, key_slot, stride_on, known, chunk_dk, HEAD, BLOCK_HEAD)
        _store(dv_ptr, key_slot, stride_on, known, chunk_dv, HEAD, BLOCK_HEAD)
        begin += CHUNKS[i]


@triton.jit
def _attention_bwd_query_kernel(
    grad_ptr, lse_ptr, delta_ptr, query_ptr, key_ptr, value_ptr, dq_ptr,
    query_rows_ptr, query_slots_ptr, query_start_ptr, query_length_ptr,
    key_rows_ptr, key_start_ptr, key_length_ptr,
    stride_qn, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh,
    num_blocks, num_heads, num_slots, scale,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: delta, then dq, of BLOCK_Q queries; the keys pass twice."""
    sequence, head, block = _program(num_blocks, num_heads)
    query_start, query_length = _extent(query_start_ptr, query_length_ptr, sequence)
    key_start, key_length = _extent(key_start_ptr, key_length_ptr, sequence)
    first = block * BLOCK_Q
    if first >= query_length:
        return
    stride_on = num_heads * HEAD
    inside, slot, q, g, lse = _bwd_load_rows(
        grad_ptr + head * HEAD, lse_ptr + head * num_slots, query_ptr + head * stride_qh,
        query_rows_ptr, query_slots_ptr, query_start, query_length, first, stride_qn, stride_on,
        BLOCK_Q, HEAD, BLOCK_HEAD, UPCAST,
    )  # fmt: skip
    key_ptr += head * stride_kh
    value_ptr += head * stride_vh
    delta = tl.zeros([BLOCK_Q], tl.float32)
    dq = tl.zeros([BLOCK_Q, BLOCK_HEAD], tl.float32)
    for last_pass in tl.static_range(2):
        for begin in range(0, key_length, BLOCK_K):
            key_position = begin + tl.arange(0, BLOCK_K)
            known = key_position < key_length
            key_row = _entry(key_rows_ptr, key_start, key_position, known)
            k = _load(key_ptr, key_row, stride_kn, known, HEAD, BLOCK_HEAD, UPCAST)
            v = _load(value_ptr, key_row, stride_vn, known, HEAD, BLOCK_HEAD, UPCAST)
            s = _dot(q, tl.trans(k)) * (scale * LOG2_E)
            p = tl.where(known[None, :], tl.exp2(s - lse[:, None]), 0.0)  # [BLOCK_Q, BLOCK_K]
            slope = _dot(g, tl.trans(v))
            if last_pass:
                dq += _dot((p * (slope - delta[:, None])).to(k.dtype), k)
            else:
                delta += tl.sum(p * slope, 1)
    _store(dq_ptr + head * HEAD, slot, stride_on, inside, dq * scale, HEAD, BLOCK_HEAD)
    tl.store(delta_ptr + head * num_slots + slot, delta, mask=inside)


@triton.jit
def _attention_bwd_key_kernel(
    grad_ptr, lse_ptr, delta_ptr, query_ptr, key_ptr, value_ptr, dk_ptr, dv_ptr,
    query_rows_ptr, query_slots_ptr, query_start_ptr, query_length_ptr,
    key_rows_ptr, key_slots_ptr, key_start_ptr, key_length_ptr,
    stride_qn, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh,
    num_blocks, num_heads, num_slots, scale,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: dk and dv of BLOCK_K keys, after delta."""
    sequence, head, block = _program(num_blocks, num_heads)
    query_start, query_length = _extent(query_start_ptr, query_length_ptr, sequence)
    key_start, key_length = _extent(key_start_ptr, key_length_ptr, sequence)
    begin = block * BLOCK_K
    if begin >= key_length:
        return
    key_position = begin + tl.arange(0, BLOCK_K)
    known = key_position < key_length
    key_row = _entry(key_rows_ptr, key_start, key_position, known)
    k = _load(key_ptr + head * stride_kh, key_row, stride_kn, known, HEAD, BLOCK_HEAD, UPCAST)
    v = _load(value_ptr + head * stride_vh, key_row, stride_vn, known, HEAD, BLOCK_HEAD, UPCAST)
    stride_on = num_heads * HEAD
    dk, dv = _bwd_keys(
        grad_ptr + head * HEAD, lse_ptr + head * num_slots, delta_ptr + head * num_slots,
        query_ptr + head * stride_qh, query_rows_ptr, query_slots_ptr,
        query_start, query_length, stride_qn, stride_on, scale, k, v, known,
        BLOCK_Q, BLOCK_K, HEAD, BLOCK_HEAD, UPCAST,
    )  # fmt: skip
    key_slot = _entry(key_slots_ptr, key_start, key_position, known)
    _store(dk_ptr + head * HEAD, key_slot, stride_on, known, dk, HEAD, BLOCK_HEAD)
    _store(dv_ptr + head * HEAD, key_slot, stride_on, known, dv, HEAD, BLOCK_HEAD)
