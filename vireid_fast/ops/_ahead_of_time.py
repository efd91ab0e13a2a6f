"""What a Triton kernel declares, beside itself, for the ahead-of-time check."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AheadOfTime:
    """One instance of a kernel to be compiled without a GPU, and what it may use there.

    Attributes:
        kernel: The @triton.jit function.
        signature: Type of each run-time argument, such as {"x_ptr": "*fp32", "width": "i64"}.
        constants: Value of each constexpr argument.
        registers: Registers per thread at most.
        num_warps: Warps per program.
        spill_bytes: Local memory per thread at most, in bytes.
        shared_bytes: Shared memory per program at most, in bytes.
        tensor_core: Tensor-core instructions (HMMA, HGMMA) at least.
        num_stages: Depth of the software pipelines.
        targets: Compute capabilities that the budget is for.
        label: What distinguishes this instance, beside its kernel and dtype.
    """

    kernel: Callable[..., Any]
    signature: Mapping[str, str]
    constants: Mapping[str, object]
    registers: int
    num_warps: int = 4
    spill_bytes: int = 0
    shared_bytes: int = 0
    tensor_core: int = 0
    num_stages: int = 3
    targets: tuple[int, ...] = (80, 90)
    label: str = ""
