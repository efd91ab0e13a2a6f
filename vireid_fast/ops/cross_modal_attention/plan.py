"""Which backend attention takes, and why.

The rule of "auto":

- "kernel", our kernel of the tensors' device, up to a number of tokens per sequence, because it
  wastes no work on short and odd lengths and starts all sequences and directions at once.
- "sdpa", torch's scaled_dot_product_attention, beyond it, and wherever the kernel cannot go:
  float64, head sizes it was not made for, other devices, an extension that was not built.

The limits:

- CPU with AVX2 or AVX-512: 12000 tokens, the longest length measured. On an AVX-512 machine the
  kernel was 1.5 times as fast as SDPA or more at 12 to 5000 tokens, forward and backward, in
  float32 and in halves, on one and on two threads (benchmarks/results/attention/cpu.json shows
  float32); held to AVX2 it was ahead by 1.1 to 1.3. With 12000 queries and keys it was ahead by 1.6
  in float32 and by 1.15 in bfloat16, with 5000 to 20000 queries over 500 to 1074 keys (a batch of
  tokens over a bank of texts) by 1.8 and more. Its scratch grows with the length.
- CPU with neither: never. The kernel is not vectorised there, torch's matrix products are.
- CUDA: 512 tokens, not measured yet. Published kernels are tuned from 512 tokens up, and the
  arithmetic of tile quantisation says that they lose below.
"""

import importlib.util
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch

from vireid_fast._checks import positive_int, require, require_choice, sentence
from vireid_fast._extension import HAS_EXTENSION, instruction_set

_OP = "attention_plan"
AttentionBackend = Literal["auto", "kernel", "sdpa", "xformers", "reference"]
BACKENDS = get_args(AttentionBackend)
KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DTYPES = (*KERNEL_DTYPES, torch.float64)

KERNEL_TOKENS = {"cpu": 0 if instruction_set() == "baseline" else 12000, "cuda": 512}
"""Longest sequence, of queries or keys, that "auto" gives to the kernel on a kind of device."""

BUILD_CPU = "Build it: VIREID_BUILD=cpu pip install --no-build-isolation -e ."


def _has_triton() -> bool:
    try:
        return importlib.util.find_spec("triton") is not None
    except ImportError:  # an import hook that hides it
        return False


_HAS_TRITON = _has_triton()


class AttentionPlan(NamedTuple):
    """What "auto" takes, and one sentence why."""

    backend: AttentionBackend
    reason: str


def attention_plan(
    shape: Sequence[int], dtype: torch.dtype | str, device: torch.device | str
) -> AttentionPlan:
    """The backend that `cross_modal_attention(..., backend="auto")` takes.

    Args:
        shape: (B, H, L, D) or (B, H, Lq, Lk, D), as scaled_dot_product_attention counts: sequences,
            heads, tokens (of queries and of keys; the longest where lengths differ), head size.
        dtype: A torch dtype or its name, such as "float32".
        device: A torch device or its name, such as "cuda".

    Returns:
        "kernel" or "sdpa", and the reason.

    Raises:
        ValueError: The shape has another number of entries or one below 1, or a name is unknown.
        TypeError: `dtype` is none of float32, float16, bfloat16 and float64, or an entry of the
            shape is no integer.
    """
    require(
        isinstance(shape, Sequence) and len(shape) in (4, 5), _OP, "shape",
        "be (B, H, L, D) or (B, H, Lq, Lk, D)", shape,
    )  # fmt: skip
    shape = [positive_int(_OP, f"shape[{i}]", size) for i, size in enumerate(shape)]
    if isinstance(dtype, str):
        names = {str(known).removeprefix("torch."): known for known in DTYPES}
        require_choice(_OP, "dtype", dtype.removeprefix("torch."), names)
        dtype = names[dtype.removeprefix("torch.")]
    require(
        dtype in DTYPES, _OP, "dtype", "be float32, float16, bfloat16 or float64", dtype,
        error=TypeError,
    )  # fmt: skip
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        message = sentence(_OP, "device", "be a torch.device or its name", repr(device))
        raise ValueError(message) from error
    return choose(max(shape[2:-1]), shape[-1], dtype, device)


def choose(tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> AttentionPlan:
    """The rule itself; every reason is a constant, so that torch.compile can trace it.

    Args:
        tokens: Tokens of the longest sequence of queries or keys.
        width: Head size D.
        dtype: One of `DTYPES`.
        device: Any device.
    """
    obstacles = kernel_obstacles(width, dtype, device)
    if obstacles:
        return AttentionPlan("sdpa", "the kernel does not apply: " + "; ".join(obstacles))
    limit = KERNEL_TOKENS[device.type]
    if limit == 0:
        return AttentionPlan("sdpa", "this machine has no vector instructions for the kernel")
    if tokens > limit:
        return AttentionPlan("sdpa", f"sequences of more than {limit} tokens are faster there")
    return AttentionPlan("kernel", f"sequences of at most {limit} tokens are faster there")


def kernel_obstacles(width: int, dtype: torch.dtype, device: torch.device) -> list[str]:
    """Every reason, in words, why the kernel cannot run; none if it can."""
    obstacles = []
    if dtype not in KERNEL_DTYPES:
        obstacles.append("it computes in float32, float16 and bfloat16, not in float64")
    if width % 8 != 0 or not 32 <= width <= 128:
        obstacles.append("it takes head sizes that are multiples of 8 from 32 to 128")
    if device.type not in ("cpu", "cuda"):
        obstacles.append("it runs on CPU and CUDA tensors")
    missing = missing_build(device)
    return [*obstacles, missing] if missing else obstacles


def missing_build(device: torch.device) -> str | None:
    """What must be built or installed before the kernel can run on the device; None if nothing."""
    if device.type == "cpu" and not HAS_EXTENSION:
        return "the CPU extension is not built"
    if device.type == "cuda" and not _HAS_TRITON:
        return "triton is not installed"
    return None
