"""Contract of the raw ops `vireid_fast::prompt_injection_fwd` and `prompt_injection_bwd`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vireid_fast.ops._registration import register_op
from vireid_fast.ops.prompt_injection import codes, reference


def _fake(
    stream: Tensor,
    tokens: Sequence[Tensor],
    labels: Sequence[Tensor | None],
    starts: Sequence[int],
    modes: Sequence[int],
    positions: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    batch: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    length, width = stream.shape[-2:]
    for source, mode in zip(tokens, modes, strict=True):
        length += source.shape[1] if mode == codes.INSERT else 0
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    shape = (batch, length, width) if weight is not None else (0,)
    statistics = (2, batch, length) if weight is not None else (0,)
    return (
        stream.new_empty((batch, length, width), dtype=dtype),
        stream.new_empty(shape, dtype=dtype),
        stream.new_empty(statistics, dtype=sums),
    )


def _fake_bwd(
    grad: Tensor | None,
    grad_normalized: Tensor | None,
    out: Tensor | None,
    statistics: Tensor | None,
    weight: Tensor | None,
    labels: Sequence[Tensor | None],
    starts: Sequence[int],
    modes: Sequence[int],
    classes: Sequence[int],
    lengths: Sequence[int],
    stream_shared: bool,
    stream_length: int,
    wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    given = grad_normalized if grad is None else grad
    assert given is not None
    batch, length, width = given.shape

    def empty(kind: int, *shape: int) -> Tensor:
        if kind == codes.NOTHING:
            return given.new_empty(0)
        float32 = kind == codes.FLOAT32
        return given.new_empty(shape, dtype=torch.float32 if float32 else given.dtype)

    norm = codes.NOTHING if grad_normalized is None else wanted[2]
    stream = (stream_length, width) if stream_shared else (batch, stream_length, width)
    sizes = zip(wanted[3:], classes, lengths, strict=True)
    tokens = [empty(kind, count, slots, width) for kind, count, slots in sizes]
    return (
        empty(wanted[0], *stream), empty(wanted[1], length, width), empty(norm, width),
        empty(norm, width), tokens,
    )  # fmt: skip


def _cuda(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    from vireid_fast.ops.prompt_injection import triton

    return triton.prompt_injection(*arguments)


def _cuda_bwd(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    from vireid_fast.ops.prompt_injection import triton

    return triton.prompt_injection_bwd(*arguments)


prompt_injection_fwd_op = register_op(
    "prompt_injection_fwd(Tensor stream, Tensor[] tokens, Tensor?[] labels, SymInt[] starts, "
    "int[] modes, Tensor? positions, Tensor? weight, Tensor? bias, float eps, SymInt batch, "
    "ScalarType dtype) -> (Tensor, Tensor, Tensor)",
    fake=_fake,
    reference=reference.prompt_injection,
    cuda=_cuda,
)

prompt_injection_bwd_op = register_op(
    "prompt_injection_bwd(Tensor? grad, Tensor? grad_normalized, Tensor? out, Tensor? statistics, "
    "Tensor? weight, Tensor?[] labels, SymInt[] starts, int[] modes, SymInt[] classes, "
    "SymInt[] lengths, bool stream_shared, SymInt stream_length, int[] wanted) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor[])",
    fake=_fake_bwd,
    reference=reference.prompt_injection_bwd,
    cuda=_cuda_bwd,
)
