"""Public functions `prompt_injection` and `inject_tokens`."""

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vireid_fast._extension import HAS_EXTENSION
from vireid_fast.ops._registration import Backend
from vireid_fast.ops.prompt_injection import codes, reference
from vireid_fast.ops.prompt_injection.op import prompt_injection_bwd_op, prompt_injection_fwd_op
from vireid_fast.ops.prompt_injection.sources import MODES, Injected, TokenNorm, TokenSource
from vireid_fast.ops.prompt_injection.validation import validate, validate_labels


@overload
def prompt_injection(
    template: Tensor, positions: Tensor, context: Tensor, labels: Tensor, start: int, *,
    norm: None = None, out_dtype: torch.dtype | None = None, backend: Backend = "fused",
) -> Tensor: ...  # fmt: skip


@overload
def prompt_injection(
    template: Tensor, positions: Tensor, context: Tensor, labels: Tensor, start: int, *,
    norm: TokenNorm, out_dtype: torch.dtype | None = None, backend: Backend = "fused",
) -> Injected: ...  # fmt: skip


def prompt_injection(
    template: Tensor,
    positions: Tensor,
    context: Tensor,
    labels: Tensor,
    start: int,
    *,
    norm: TokenNorm | None = None,
    out_dtype: torch.dtype | None = None,
    backend: Backend = "fused",
) -> Tensor | Injected:
    """Text inputs in which learnable context tokens stand in a fixed template.

    out[b, l] = positions[l] + (context[labels[b], l - start] if start <= l < start + M
                                else template[l])

    Args:
        template: Embedded template tokens. Shape (L, W), float32, float64, float16 or bfloat16.
        positions: Positional embeddings. Shape (L, W).
        context: Learnable tokens per class. Shape (C, M, W).
        labels: Class of each prompt; repeats are allowed. Shape (B,), int64 in [0, C).
        start: First token that the context replaces, 0 <= start <= L - M.
        norm: The layer normalisation that reads the prompts first, if wanted.
        out_dtype: Dtype of the prompts; that of `template` if None. The other tensors have this
            dtype, or float32 where it is float16 or bfloat16.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        Prompts. Shape (B, L, W), contiguous. With `norm`, `Injected`: prompts and normalised
        prompts.

    `inject_tokens` says what holds of gradients and checks.

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
    """
    sources = (TokenSource(context, start, labels),)
    return _inject("prompt_injection", template, sources, positions, norm, out_dtype, backend)


@overload
def inject_tokens(
    stream: Tensor, sources: Sequence[TokenSource], *, positions: Tensor | None = None,
    norm: None = None, out_dtype: torch.dtype | None = None, backend: Backend = "fused",
) -> Tensor: ...  # fmt: skip


@overload
def inject_tokens(
    stream: Tensor, sources: Sequence[TokenSource], *, positions: Tensor | None = None,
    norm: TokenNorm, out_dtype: torch.dtype | None = None, backend: Backend = "fused",
) -> Injected: ...  # fmt: skip


def inject_tokens(
    stream: Tensor,
    sources: Sequence[TokenSource],
    *,
    positions: Tensor | None = None,
    norm: TokenNorm | None = None,
    out_dtype: torch.dtype | None = None,
    backend: Backend = "fused",
) -> Tensor | Injected:
    """Streams of tokens into which sources of tokens are injected one after the other.

    Each source replaces tokens, is inserted between them or is added to them (a residual); then
    the positions are added. With a norm, the layer normalisation of the finished tokens comes
    along. All of it is written in one pass.

    Args:
        stream: Tokens of all items, shape (L, W), or of each, shape (B, L, W); float32, float64,
            float16 or bfloat16.
        sources: At most four `TokenSource`.
        positions: Added to the finished tokens. Shape (L_out, W), where L_out is L and M of every
            source that is inserted.
        norm: Layer normalisation of the finished tokens, as rounded to `out_dtype`.
        out_dtype: Dtype of the result; that of `stream` if None. Every tensor has this dtype, or
            float32 where it is float16 or bfloat16; sums are in float32 then.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        Tokens. Shape (B, L_out, W), contiguous; B is 1 where nothing differs between items. With
        `norm`, `Injected`: the tokens and the normalised tokens, both of this shape.

    Differentiable once, with respect to every floating tensor. The gradient of a class adds its
    items in index order (halves in float32), and sums over all items have a fixed partition, so
    gradients do not depend on thread count. The range of the labels is checked with one host sync
    on a GPU; under CUDA graph capture and torch.compile it is not checked there, and the tokens of
    an unknown class are NaN. NaN stays in the items and classes that hold it.

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
        NotImplementedError: More than four sources.
    """
    return _inject(
        "inject_tokens", stream, tuple(sources), positions, norm, out_dtype, backend
    )  # fmt: skip


def _inject(
    what: str,
    stream: Tensor,
    sources: tuple[TokenSource, ...],
    positions: Tensor | None,
    norm: TokenNorm | None,
    out_dtype: torch.dtype | None,
    backend: str,
) -> Tensor | Injected:
    batch, dtype = validate(what, stream, sources, positions, norm, out_dtype, backend)
    # The C++ kernel refuses a label out of range as it reads it; only the sentence is made here.
    refuses = backend == "fused" and HAS_EXTENSION and stream.device.type == "cpu"
    if not refuses:
        validate_labels(what, sources)
    try:
        return _run(stream, sources, positions, norm, (batch, dtype, backend))
    except RuntimeError:
        validate_labels(what, sources)
        raise


def _run(
    stream: Tensor,
    sources: tuple[TokenSource, ...],
    positions: Tensor | None,
    norm: TokenNorm | None,
    settings: tuple[int, torch.dtype, str],
) -> Tensor | Injected:
    tokens = [source.tokens for source in sources]
    labels = [source.labels for source in sources]
    starts = [source.start for source in sources]
    modes = [MODES.index(source.mode) for source in sources]
    weight, bias, eps = (None, None, 0.0) if norm is None else norm
    batch, dtype, backend = settings
    if torch.is_grad_enabled():
        for tensor in (stream, positions, weight, bias, *tokens):
            if tensor is not None and tensor.requires_grad:
                everything = (starts, modes, eps, *settings)
                out = _Injection.apply(
                    stream, positions, weight, bias, everything, *tokens, *labels
                )
                return out if norm is None else Injected(*out)
    run = prompt_injection_fwd_op if backend == "fused" else reference.prompt_injection
    out, normalized, _ = run(
        stream, tokens, labels, starts, modes, positions, weight, bias, eps, batch, dtype
    )
    return out if norm is None else Injected(out, normalized)


class _Injection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, stream: Tensor, positions: Tensor | None, weight: Tensor | None,
        bias: Tensor | None, settings: tuple[Any, ...], *tokens_and_labels: Any,
    ) -> Any:  # fmt: skip
        starts, modes, eps, batch, dtype, backend = settings
        tokens = tokens_and_labels[: len(starts)]
        labels = tokens_and_labels[len(starts) :]
        run = prompt_injection_fwd_op if backend == "fused" else reference.prompt_injection
        out, normalized, statistics = run(
            stream, tokens, labels, starts, modes, positions, weight, bias, eps, batch, dtype
        )
        ctx.set_materialize_grads(False)
        ctx.backend = backend
        wanted = _wanted(ctx.needs_input_grad, (stream, positions, weight, *tokens), dtype)
        ctx.layout = (
            starts, modes, [t.shape[0] for t in tokens], [t.shape[1] for t in tokens],
            stream.dim() == 2, stream.shape[-2], wanted,
        )  # fmt: skip
        if weight is None:
            ctx.save_for_backward(None, None, None, *labels)
            return out
        ctx.save_for_backward(out, statistics, weight, *labels)
        return out, normalized

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        # The wrapper takes time that counts at this size, and has work under create_graph alone.
        run = _differentiate_once if torch.is_grad_enabled() else _Injection.differentiate
        return run(ctx, *grads)

    @staticmethod
    def differentiate(
        ctx: Any, grad: Tensor | None, grad_normalized: Tensor | None = None
    ) -> Any:
        out, statistics, weight, *labels = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if grad is None and grad_normalized is None:
            return (None,) * len(needs)
        fused = ctx.backend == "fused"
        run = prompt_injection_bwd_op if fused else reference.prompt_injection_bwd
        *found, tokens = run(grad, grad_normalized, out, statistics, weight, labels, *ctx.layout)
        of_norm = found[2:] if grad_normalized is not None else (None, None)
        grads = [*found[:2], *of_norm, None, *tokens, *labels]
        return tuple([g if need else None for g, need in zip(grads, needs, strict=True)])


_differentiate_once = once_differentiable(_Injection.differentiate)


def _wanted(
    needs: Sequence[bool], tensors: Sequence[Tensor | None], dtype: torch.dtype
) -> list[int]:
    """Which gradients the backward op is to give, in which dtype; one entry for the whole norm."""
    asked = (needs[0], needs[1], needs[2] or needs[3], *needs[5 : 2 + len(tensors)])
    given = [codes.SAME_DTYPE if t is None or t.dtype == dtype else codes.FLOAT32 for t in tensors]
    return [kind if want else codes.NOTHING for kind, want in zip(given, asked, strict=True)]
