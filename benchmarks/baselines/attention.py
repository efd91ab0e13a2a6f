"""Peers of cross-modal attention: what one writes with torch's SDPA or xformers.

Each returns the rows of both modalities apart, visible first, so that no copy joins them.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# On the CPU torch has two; on a GPU it prefers cuDNN or flash by version and shape.
SDPA_BACKENDS = {
    "cpu": {"flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH},
    "cuda": {
        "cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH,
    },
}  # fmt: skip


Halves = tuple[Tensor, Tensor]
Result = TypeVar("Result")


class Tokens(NamedTuple):
    """Rows of queries, keys and values, all visible sequences first. Each (2 B S, H, D)."""

    query: Tensor
    key: Tensor
    value: Tensor


def by_sequence(rows: Tensor, length: int) -> Tensor:
    """Rows (B S, H, D) as SDPA wants them, (B, H, S, D), without a copy."""
    return rows.unflatten(0, (-1, length)).transpose(1, 2)


def cross_on_views(tokens: Tokens, length: int, backend: SDPBackend | None = None) -> Halves:
    """Both directions by two SDPA calls on strided views."""
    return _pinned(backend, lambda: _two_calls(tokens, length, lambda x: x))


def cross_on_copies(tokens: Tokens, length: int) -> Halves:
    """Both directions by two SDPA calls on permuted contiguous copies."""
    return _two_calls(tokens, length, Tensor.contiguous)


def joint_on_copies(tokens: Tokens, length: int, backend: SDPBackend | None = None) -> Halves:
    """One sequence of both modalities per pair by one SDPA call."""

    def pair(rows: Tensor) -> Tensor:
        return torch.cat([by_sequence(half, length) for half in rows.chunk(2)], dim=2)

    mixed = _pinned(backend, lambda: F.scaled_dot_product_attention(*map(pair, tokens)))
    visible, infrared = mixed.transpose(1, 2).chunk(2, dim=1)
    return visible.flatten(0, 1), infrared.flatten(0, 1)


def xformers_obstacle(device: torch.device) -> str:
    """Why xformers cannot run; empty where it can."""
    if device.type != "cuda":
        return "xformers takes CUDA tensors alone"
    return "" if find_spec("xformers") else "xformers is not installed"


def cross_by_xformers(tokens: Tokens, length: int) -> Halves:
    """Both directions by two calls of memory-efficient attention, whose layout is (B, S, H, D)."""
    from xformers.ops import memory_efficient_attention

    query, key, value = (rows.unflatten(0, (-1, length)).chunk(2) for rows in tokens)
    visible, infrared = (
        memory_efficient_attention(query[i], key[1 - i], value[1 - i]) for i in (0, 1)
    )
    return visible.flatten(0, 1), infrared.flatten(0, 1)


def _two_calls(tokens: Tokens, length: int, prepare: Callable[[Tensor], Tensor]) -> Halves:
    query, key, value = (
        [prepare(by_sequence(half, length)) for half in rows.chunk(2)] for rows in tokens
    )
    parts = [
        F.scaled_dot_product_attention(query[i], key[1 - i], value[1 - i]) for i in (0, 1)
    ]
    visible, infrared = (part.transpose(1, 2).flatten(0, 1) for part in parts)
    return visible, infrared


def _pinned(backend: SDPBackend | None, run: Callable[[], Result]) -> Result:
    if backend is None:
        return run()
    with sdpa_kernel(backend):
        return run()
