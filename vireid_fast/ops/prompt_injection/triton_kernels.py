"""Token injection on the GPU: the Triton kernels. Modes: 0 replace, 1 insert, 2 add, -1 none."""

import triton
import triton.language as tl


@triton.jit
def _locate(target, alive, start, slots, MODE: tl.constexpr):
    # One step back in the order of the sources: is the token of this source, and which token of
    # the stream before it was it?
    slot = target - start
    inside = alive & (slot >= 0) & (slot < slots) & (MODE >= 0)
    if MODE == 0:
        alive = alive & (inside == 0)
    if MODE == 1:
        alive = alive & (inside == 0)
        target = tl.where(slot >= slots, target - slots, target)
    return inside, slot, target, alive


@triton.jit
def _inject(
    value, tokens_ptr, labels_ptr, item, slot, present, classes, slots, width, column, inside,
    MODE: tl.constexpr, MEMBER: tl.constexpr,
):  # fmt: skip
    # `value` with one source in place of it or added to it, where the token is of that source.
    if MODE >= 0:
        label = item * 0
        if MEMBER == 1:
            label = item
        if MEMBER == 2:
            label = tl.load(labels_ptr + item)
        known = (label >= 0) & (label < classes)
        # An unknown class shows as NaN: a kernel cannot raise.
        token = tl.load(
            tokens_ptr + (label * slots + slot) * width + column,
            mask=inside & present & known,
            other=float("nan"),
        ).to(value.dtype)
        if MODE == 2:
            token += value
        value = tl.where(present, token, value)
    return value


@triton.jit
def _injection_fwd_kernel(
    stream_ptr, positions_ptr, weight_ptr, bias_ptr, out_ptr, normalized_ptr, statistics_ptr,
    tokens0_ptr, tokens1_ptr, tokens2_ptr, tokens3_ptr,
    labels0_ptr, labels1_ptr, labels2_ptr, labels3_ptr,
    start0, start1, start2, start3, slots0, slots1, slots2, slots3,
    classes0, classes1, classes2, classes3, stream_items, length, width, rows,
    MODE0: tl.constexpr, MODE1: tl.constexpr, MODE2: tl.constexpr, MODE3: tl.constexpr,
    MEMBER0: tl.constexpr, MEMBER1: tl.constexpr, MEMBER2: tl.constexpr, MEMBER3: tl.constexpr,
    HAS_POSITIONS: tl.constexpr, HAS_NORM: tl.constexpr, EPS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # One program writes one block of one token of one item; with a norm, the whole token.
    compute: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    row = tl.program_id(0).to(tl.int64)
    item = row // length
    token = row % length
    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)  # [BLOCK_WIDTH]
    inside = column < width
    # Back from the last source to the stream: the origins of this token.
    target = token
    alive = token >= 0
    is3, slot3, target, alive = _locate(target, alive, start3, slots3, MODE3)
    is2, slot2, target, alive = _locate(target, alive, start2, slots2, MODE2)
    is1, slot1, target, alive = _locate(target, alive, start1, slots1, MODE1)
    is0, slot0, target, alive = _locate(target, alive, start0, slots0, MODE0)
    value = tl.load(
        stream_ptr + (item * stream_items + target) * width + column,
        mask=inside & alive, other=0.0,
    ).to(compute)  # fmt: skip
    value = _inject(value, tokens0_ptr, labels0_ptr, item, slot0, is0, classes0, slots0, width,
                    column, inside, MODE0, MEMBER0)  # fmt: skip
    value = _inject(value, tokens1_ptr, labels1_ptr, item, slot1, is1, classes1, slots1, width,
                    column, inside, MODE1, MEMBER1)  # fmt: skip
    value = _inject(value, tokens2_ptr, labels2_ptr, item, slot2, is2, classes2, slots2, width,
                    column, inside, MODE2, MEMBER2)  # fmt: skip
    value = _inject(value, tokens3_ptr, labels3_ptr, item, slot3, is3, classes3, slots3, width,
                    column, inside, MODE3, MEMBER3)  # fmt: skip
    if HAS_POSITIONS:
        position = tl.load(positions_ptr + token * width + column, mask=inside, other=0.0)
        value += position.to(compute)
    rounded = value.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * width + column, rounded, mask=inside)
    if HAS_NORM:
        seen = tl.where(inside, rounded.to(compute), 0.0)
        mean = tl.sum(seen, 0) / width
        centred = tl.where(inside, seen - mean, 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + EPS)
        weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(compute)
        bias = tl.load(bias_ptr + column, mask=inside, other=0.0).to(compute)
        result = centred * rstd * weight + bias
        tl.store(normalized_ptr + row * width + column, result.to(rounded.dtype), mask=inside)
        tl.store(statistics_ptr + row, mean)
        tl.store(statistics_ptr + rows + row, rstd)


@triton.jit
def _norm_bwd_kernel(
    grad_ptr, grad_normalized_ptr, out_ptr, statistics_ptr, weight_ptr, total_ptr, partials_ptr,
    rows, width,
    HAS_GRAD: tl.constexpr, PART: tl.constexpr, BLOCK_WIDTH: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # One program takes PART rows through the norm, and sums the gradients of weight and bias over
    # them in order. partials is (parts, 2, width).
    compute: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    part = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_WIDTH)  # [BLOCK_WIDTH]
    inside = column < width
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(compute)
    grad_weight = tl.zeros([BLOCK_WIDTH], dtype=compute)
    grad_bias = tl.zeros([BLOCK_WIDTH], dtype=compute)
    for row in range(part * PART, tl.minimum((part + 1) * PART, rows)):
        offset = row * width + column
        token = tl.load(out_ptr + offset, mask=inside, other=0.0).to(compute)
        grad = tl.load(grad_normalized_ptr + offset, mask=inside, other=0.0).to(compute)
        mean = tl.load(statistics_ptr + row)
        rstd = tl.load(statistics_ptr + rows + row)
        unit = tl.where(inside, (token - mean) * rstd, 0.0)
        scaled = grad * weight
        plain = tl.sum(scaled, 0) / width
        projected = tl.sum(scaled * unit, 0) / width
        total = (scaled - plain - unit * projected) * rstd
        if HAS_GRAD:
            total += tl.load(grad_ptr + offset, mask=inside, other=0.0).to(compute)
        tl.store(total_ptr + offset, total, mask=inside)
        grad_weight += grad * unit
        grad_bias += grad
    target = partials_ptr + part * 2 * width + column
    tl.store(target, grad_weight, mask=inside)
    tl.store(target + width, grad_bias, mask=inside)


@triton.jit
def _move(target, alive, start, slots, MODE: tl.constexpr):
    # One step on in the order of the sources: where a later source leaves the token.
    if MODE == 0:
        alive = alive & ((target < start) | (target >= start + slots))
    if MODE == 1:
        target = tl.where(target >= start, target + slots, target)
    return target, alive


@triton.jit
def _sum_items_kernel(
    total_ptr, order_ptr, offsets_ptr, out_ptr, items, length, width, slots, first,
    start0, start1, start2, start3, slots0, slots1, slots2, slots3,
    MODE0: tl.constexpr, MODE1: tl.constexpr, MODE2: tl.constexpr, MODE3: tl.constexpr,
    MEMBER: tl.constexpr, PART: tl.constexpr, BLOCK_WIDTH: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # One program sums one block of one token of one class over the items of the class, in order;
    # where all items share the class, over PART of them. Sources 0 to 3 come after this one.
    compute: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(2).to(tl.int64)
    label = row // slots
    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)  # [BLOCK_WIDTH]
    target = first + row % slots
    alive = target >= 0
    target, alive = _move(target, alive, start0, slots0, MODE0)
    target, alive = _move(target, alive, start1, slots1, MODE1)
    target, alive = _move(target, alive, start2, slots2, MODE2)
    target, alive = _move(target, alive, start3, slots3, MODE3)
    inside = (column < width) & alive
    if MEMBER == 0:
        begin = part * PART
        end = tl.minimum(begin + PART, items)
    elif MEMBER == 1:
        begin = label
        end = label + 1
    else:
        begin = tl.load(offsets_ptr + label)
        end = tl.load(offsets_ptr + label + 1)
    total = tl.zeros([BLOCK_WIDTH], dtype=compute)
    # Four loads are under way at a time; their sum keeps the order.
    for i in range(begin, end, 4):
        for step in tl.static_range(4):
            item = i + step
            valid = item < end
            if MEMBER == 2:
                item = tl.load(order_ptr + item, mask=valid, other=0)
            source = total_ptr + (item * length + target) * width + column
            total += tl.load(source, mask=inside & valid, other=0.0).to(compute)
    out = out_ptr + (part * tl.num_programs(0) + row) * width + column
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=column < width)
