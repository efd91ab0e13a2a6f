"""Public function `cross_modal_attention`."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vireid_fast._checks import (
    require,
    require_choice,
    require_dtype,
    require_number,
    require_same_device,
    require_shape,
    sentence,
)
from vireid_fast.ops.cross_modal_attention import plan, reference
from vireid_fast.ops.cross_modal_attention.index import AttentionIndex
from vireid_fast.ops.cross_modal_attention.op import (
    cross_modal_attention_bwd_op,
    cross_modal_attention_fwd_op,
)
from vireid_fast.ops.cross_modal_attention.plan import AttentionBackend
from vireid_fast.ops.cross_modal_attention.rows import fold_slots
from vireid_fast.ops.cross_modal_attention.sdpa import sdpa_attention
from vireid_fast.ops.cross_modal_attention.xformers_backend import (
    require_xformers,
    xformers_attention,
)

_OP = "cross_modal_attention"


def cross_modal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: AttentionIndex,
    *,
    scale: float | None = None,
    backend: AttentionBackend = "auto",
) -> Tensor:
    """Multi-head attention of the index's query sequences over its key sequences.

    For each sequence, head and query i:  out_i = sum_j softmax_j(scale q_i . k_j) v_j

    `AttentionIndex.cross` gives both directions between two modalities in one launch, `joint` one
    sequence of both, `within` self-attention, `from_rows` anything else, without permuted copies.

    Args:
        query: Shape (Nq, H, D), float32, float16, bfloat16 or float64. Any strides: the three may
            be views of one packed projection, or expanded.
        key: Shape (Nk, H, D), dtype of `query`.
        value: Shape (Nk, H, D), dtype of `query`.
        index: Which rows attend to which; on the device of the tensors.
        scale: Factor of q . k; D ** -0.5 if None.
        backend: "kernel" (ours; head sizes 32 to 128 in steps of 8, not float64), "sdpa"
            (scaled_dot_product_attention), "xformers" (CUDA tensors, if installed), "reference"
            (plain torch), or "auto": what `attention_plan` says. An explicit choice never falls
            back.

    Returns:
        Shape (Nq, H, D), dtype of `query`. A row that several sequences query gets the mean of
        its outputs, a row that none queries gets 0.

    Differentiable once with "kernel" and "reference", as torch's own functions with the others.
    Both accumulate in float32 (float64 for float64) and are deterministic: the result does not
    depend on thread count, nor on the other sequences of the call. A NaN stays within the
    sequences that read its row, and within its head ("sdpa" may give 0 for a NaN query). No host
    sync. Memory: O(Nq H) besides the outputs with "kernel"; "reference" holds all scores.
    torch.compile makes one graph per set of sequence lengths.

    Raises:
        ValueError: A shape or device does not fit. TypeError: A dtype or type does not fit.
        NotImplementedError: "kernel" was asked for where it does not apply (all reasons named).
        RuntimeError: The chosen backend is not built or installed.
    """
    _validate(query, key, value, index, backend)
    if scale is None:
        scale = query.shape[2] ** -0.5
    else:
        require_number(_OP, "scale", scale)
    if backend == "auto":
        tokens = max(index.max_query, index.max_key)
        backend = plan.choose(tokens, query.shape[2], query.dtype, query.device).backend
    elif backend == "kernel":
        _require_kernel(query)
    elif backend == "xformers":
        require_xformers(_OP, query.device, query.dtype)
    if backend == "sdpa":
        return sdpa_attention(query, key, value, index, scale)
    if backend == "xformers":
        return xformers_attention(query, key, value, index, scale)
    dense = (x if x.stride(2) == 1 else x.contiguous() for x in (query, key, value))
    slots = _Attention.apply(*dense, index, scale, backend)
    return fold_slots(slots, index.queries, mean=True)


class _Attention(torch.autograd.Function):
    """The raw ops; returns the output slots, (num_slots, H, D)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, index: AttentionIndex, scale: float,
        backend: str,
    ) -> Tensor:  # fmt: skip
        run, ctx.run_backward = _implementation(backend)
        queries, keys = index.queries, index.keys
        out, lse = run(
            query, key, value,
            queries.rows, queries.slots, queries.start, queries.length,
            keys.rows, keys.start, keys.length,
            queries.num_slots, queries.longest, keys.longest, scale,
        )  # fmt: skip
        ctx.save_for_backward(query, key, value, lse)
        ctx.index, ctx.scale = index, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, lse = ctx.saved_tensors
        queries, keys = ctx.index.queries, ctx.index.keys
        dq, dk, dv = ctx.run_backward(
            grad if grad.stride(2) == 1 else grad.contiguous(), lse, query, key, value,
            queries.rows, queries.slots, queries.start, queries.length,
            keys.rows, keys.slots, keys.start, keys.length,
            queries.num_slots, keys.num_slots, queries.longest, keys.longest, ctx.scale,
        )  # fmt: skip
        dq = fold_slots(dq, queries, mean=False)
        return dq, fold_slots(dk, keys, mean=False), fold_slots(dv, keys, mean=False), *[None] * 3


def _implementation(backend: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    if backend == "kernel":
        return cross_modal_attention_fwd_op, cross_modal_attention_bwd_op
    return reference.cross_modal_attention, reference.cross_modal_attention_bwd


def _validate(
    query: Tensor, key: Tensor, value: Tensor, index: AttentionIndex, backend: str
) -> None:
    require_choice(_OP, "backend", backend, plan.BACKENDS)
    require_dtype(_OP, "query", query, plan.DTYPES)
    require_dtype(_OP, "key", key, [query.dtype])
    require_dtype(_OP, "value", value, [query.dtype])
    require(
        isinstance(index, AttentionIndex), _OP, "index", "be an AttentionIndex",
        type(index).__name__, "Make one with AttentionIndex.cross(...), for example.", TypeError,
    )  # fmt: skip
    require_shape(_OP, "query", query, ("Nq", "H", "D"))
    require_shape(_OP, "query", query, (index.num_queries, "H", "D"))
    require_shape(_OP, "key", key, (index.num_keys, *query.shape[1:]))
    require_shape(_OP, "value", value, (index.num_keys, *query.shape[1:]))
    require(query.shape[1] > 0 and query.shape[2] > 0, _OP, "query", "have heads of some width",
            "none")  # fmt: skip
    rows = cast(Tensor, index)  # of which the device alone is read
    require_same_device(_OP, query=query, key=key, value=value, index=rows)


def _require_kernel(query: Tensor) -> None:
    width, dtype, device = query.shape[2], query.dtype, query.device
    obstacles = plan.kernel_obstacles(width, dtype, device)
    if not obstacles:
        return
    missing = plan.missing_build(device)
    if obstacles == [missing]:
        remedy = plan.BUILD_CPU if device.type == "cpu" else "Run pip install triton."
        raise RuntimeError(sentence(_OP, "backend 'kernel'", "be built", missing, remedy))
    raise NotImplementedError(
        sentence(
            _OP, "backend 'kernel'", "apply to these tensors",
            f"head size {width}, {dtype}, {device} ({'; '.join(obstacles)})",
            "Choose backend 'sdpa', or 'auto', which does.",
        )
    )  # fmt: skip
