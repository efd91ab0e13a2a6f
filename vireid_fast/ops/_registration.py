"""Registers raw ops with the torch dispatcher and remembers which kernel serves which device."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch._ops import OpOverload

from vireid_fast._extension import HAS_CUDA_EXTENSION, HAS_EXTENSION

Backend = Literal["fused", "reference"]
BACKENDS = get_args(Backend)

KERNELS: dict[str, dict[str, str]] = {}
"""Name of each raw op -> {"cpu": kernel, "cuda": kernel}, as `vireid info` shows it."""


def register_op(
    schema: str,
    *,
    fake: Callable[..., Any],
    reference: Callable[..., Any],
    cpu: bool = True,
    cuda: Callable[..., Any] | Literal["C++", "reference"] = "reference",
) -> OpOverload:
    """Define one raw op of the namespace `vireid_fast` and the implementations that Python knows.

    What stands in for an absent kernel is decided here, once, at import: the reference.

    Args:
        schema: Name and signature, such as "twice(Tensor x) -> Tensor".
        fake: Shapes and dtypes of the outputs, for tracing.
        reference: The plain torch implementation.
        cpu: Whether csrc/cpu registers a kernel for this op.
        cuda: A callable that launches a Triton kernel, "C++" if csrc/cuda registers a kernel, or
            "reference" if the op has no GPU kernel.

    Returns:
        The bound overload, to be called by the op's api.py.
    """
    name = schema.partition("(")[0]
    qualified = f"vireid_fast::{name}"
    torch.library.define(qualified, schema.removeprefix(name))
    torch.library.register_fake(qualified)(fake)
    served = KERNELS.setdefault(name, {"cpu": "C++", "cuda": "CUDA C++"})
    if not (cpu and HAS_EXTENSION):
        torch.library.impl(qualified, "CPU", reference)
        served["cpu"] = "reference"
    if callable(cuda):
        torch.library.impl(qualified, "CUDA", cuda)
        served["cuda"] = "Triton"
    elif not (cuda == "C++" and HAS_CUDA_EXTENSION):
        torch.library.impl(qualified, "CUDA", reference)
        served["cuda"] = "reference"
    return getattr(torch.ops.vireid_fast, name).default
