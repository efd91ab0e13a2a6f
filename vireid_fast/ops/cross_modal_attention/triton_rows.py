"""What the Triton attention kernels share: programs, rows of a sequence, products."""

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def _program(num_blocks, num_heads):
    """Sequence, head and block of this program: blocks of a sequence are neighbours (L2 cache)."""
    program = tl.program_id(0).to(tl.int64)
    block = (program % num_blocks).to(tl.int32)
    pair = program // num_blocks
    return pair // num_heads, pair % num_heads, block


@triton.jit
def _extent(start_ptr, length_ptr, sequence):
    """First list entry of a sequence, int64, and its length."""
    return tl.load(start_ptr + sequence), tl.load(length_ptr + sequence).to(tl.int32)


@triton.jit
def _entry(list_ptr, start, position, inside):
    """Row or slot of each position of a sequence, int64."""
    entry = start + position
    if list_ptr is not None:
        entry = tl.load(list_ptr + entry, mask=inside, other=0)
    return entry


@triton.jit
def _load(pointer, row, stride, inside, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr,
          UPCAST: tl.constexpr):  # fmt: skip
    """Rows of one head: [rows, BLOCK_HEAD], zero outside the sequence and beyond the head."""
    column = tl.arange(0, BLOCK_HEAD)
    mask = inside[:, None]
    if HEAD < BLOCK_HEAD:
        mask = mask & (column < HEAD)[None, :]
    tile = tl.load(pointer + row[:, None] * stride + column[None, :], mask=mask, other=0.0)
    if UPCAST:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def _store(pointer, slot, stride, inside, tile, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr):
    """Write rows of one head."""
    column = tl.arange(0, BLOCK_HEAD)
    mask = inside[:, None]
    if HEAD < BLOCK_HEAD:
        mask = mask & (column < HEAD)[None, :]
    target = pointer + slot[:, None] * stride + column[None, :]
    tl.store(target, tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _dot(a, b):
    # "ieee": float32 operands must not be rounded to TF32.
    return tl.dot(a, b, input_precision="ieee")
