"""What the Triton kernels of cross-modal attention may use: as compiled by Triton 3.6.0.

Registers are rounded up to the eight that the hardware allocates at once. Joint V + R attention of
258 tokens takes more than 128 in the forward pass: a row of its scores alone is 68 per thread of
two warp groups. sm_80 keeps operands in registers that sm_90 reads from shared memory.
"""

from typing import Any, NamedTuple

Limits = tuple[int, int, int, int]
"""Registers, bytes of spill, bytes of shared memory, tensor-core instructions at least."""


class Budget(NamedTuple):
    """Limits of the kernel that is launched for sequences of `tokens` on one target."""

    kernel: str
    tokens: int
    head: int
    dtype: str
    target: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    tensor_core: int


def _budgets(
    dtypes: tuple[str, ...], kernel: str, tokens: int, head: int, sm_80: Limits, sm_90: Limits
) -> list[Budget]:
    return [
        Budget(kernel, tokens, head, dtype, target, *limits)
        for dtype in dtypes
        for target, limits in ((80, sm_80), (90, sm_90))
    ]


def _halves(*row: Any) -> list[Budget]:
    return _budgets(("fp16", "bf16"), *row)


def _float32(*row: Any) -> list[Budget]:
    return _budgets(("fp32",), *row)


BUDGETS = [
    # kernel, tokens, head, sm_80, sm_90
    *_halves("fwd", 129, 64, (255, 0, 18432, 186), (128, 0, 40960, 42)),
    *_halves("bwd", 129, 64, (255, 288, 65536, 148), (255, 0, 56320, 49)),
    *_halves("fwd", 163, 64, (255, 0, 22528, 176), (128, 0, 40960, 23)),
    *_halves("bwd", 163, 64, (255, 0, 81920, 224), (255, 0, 75776, 125)),
    *_halves("fwd", 258, 64, (255, 88, 34816, 346), (232, 0, 57344, 70)),
    *_halves("bwd", 258, 64, (248, 0, 118784, 288), (240, 0, 93184, 101)),
    *_halves("fwd_long", 774, 64, (168, 0, 24576, 64), (128, 0, 40960, 8)),
    *_halves("bwd_query", 774, 64, (200, 0, 32768, 160), (152, 0, 49152, 20)),
    *_halves("bwd_key", 774, 64, (255, 16, 34816, 128), (192, 0, 32768, 16)),
    *_halves("fwd", 129, 128, (255, 0, 53248, 218), (136, 0, 81920, 82)),
    *_halves("bwd", 129, 128, (248, 0, 126976, 166), (216, 0, 102400, 95)),
    *_halves("fwd", 163, 128, (255, 24, 61440, 216), (176, 0, 81920, 69)),
    *_halves("bwd_query", 163, 128, (200, 0, 73728, 224), (160, 0, 99328, 52)),
    *_halves("bwd_key", 163, 128, (184, 0, 81920, 128), (240, 0, 65536, 40)),
    *_halves("fwd", 258, 128, (255, 120, 86016, 378), (224, 0, 114688, 130)),
    *_halves("fwd_long", 774, 128, (128, 0, 57344, 64), (144, 0, 81920, 20)),
    *_float32("fwd_long", 129, 64, (72, 0, 14400, 0), (80, 0, 14400, 0)),
    *_float32("bwd_query", 129, 64, (72, 0, 24576, 0), (80, 0, 24576, 0)),
    *_float32("bwd_key", 129, 64, (96, 0, 26624, 0), (128, 0, 26624, 0)),
    *_float32("fwd_long", 129, 128, (64, 0, 17472, 0), (64, 0, 17472, 0)),
    *_float32("bwd_query", 129, 128, (64, 0, 32768, 0), (64, 0, 32768, 0)),
    *_float32("bwd_key", 129, 128, (64, 0, 33792, 0), (64, 0, 33792, 0)),
]
"""float32 has no tensor-core instructions: products there would be rounded to TF32."""
