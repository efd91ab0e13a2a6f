"""Public function `prompt_injection`."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vireid_fast._checks import (
    require,
    require_choice,
    require_dtype,
    require_same_device,
    require_shape,
)
from vireid_fast.ops._registration import BACKENDS, Backend
from vireid_fast.ops.prompt_injection import reference
from vireid_fast.ops.prompt_injection.op import prompt_injection_bwd_op, prompt_injection_fwd_op

_OP = "prompt_injection"
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def prompt_injection(
    template: Tensor,
    positions: Tensor,
    context: Tensor,
    labels: Tensor,
    start: int,
    *,
    backend: Backend = "fused",
) -> Tensor:
    """Text inputs in which learnable context tokens stand in a fixed template.

    out[b, l] = positions[l] + (context[labels[b], l - start] if start <= l < start + M
                                else template[l])

    Args:
        template: Embedded template tokens. Shape (L, W), float32, float64, float16 or bfloat16.
        positions: Positional embeddings. Shape (L, W), dtype of `template`.
        context: Learnable tokens per class. Shape (C, M, W), dtype of `template`.
        labels: Class of each prompt; repeats are allowed. Shape (B,), int64 in [0, C).
        start: First token that the context replaces, 0 <= start <= L - M.
        backend: "fused" (kernel of the tensors' device) or "reference" (plain torch).

    Returns:
        Prompts. Shape (B, L, W), dtype of `template`.

    Differentiable once, with respect to template, positions and context. The gradient of a class
    adds its prompts in index order (halves in float32), so it does not depend on thread count.
    The range of the labels is checked with one host sync on a GPU; under CUDA graph capture and
    torch.compile it is not checked there, and an unknown class gives NaN.

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype does not fit.
    """
    _validate(template, positions, context, labels, start, backend)
    return _PromptInjection.apply(template, positions, context, labels, start, backend)


class _PromptInjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, template, positions, context, labels, start, backend):
        ctx.save_for_backward(labels)
        ctx.sizes = context.shape[0], context.shape[1], start
        ctx.backend = backend
        fused = backend == "fused"
        run = prompt_injection_fwd_op if fused else reference.prompt_injection
        return run(template, positions, context, labels, start)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (labels,) = ctx.saved_tensors
        num_classes, context_length, start = ctx.sizes
        grad_template = grad_positions = grad_context = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            total = grad.sum(0)
            grad_positions = total if ctx.needs_input_grad[1] else None
        if ctx.needs_input_grad[0]:
            grad_template = total.clone()
            grad_template[start : start + context_length] = 0
        if ctx.needs_input_grad[2]:
            fused = ctx.backend == "fused"
            run = prompt_injection_bwd_op if fused else reference.prompt_injection_bwd
            grad_context = run(grad, labels, num_classes, context_length, start)
        return grad_template, grad_positions, grad_context, None, None, None


def _validate(
    template: Tensor, positions: Tensor, context: Tensor, labels: Tensor, start: int, backend: str
) -> None:
    require_choice(_OP, "backend", backend, BACKENDS)
    require_dtype(_OP, "template", template, _DTYPES)
    require_dtype(_OP, "positions", positions, [template.dtype])
    require_dtype(_OP, "context", context, [template.dtype])
    require_dtype(_OP, "labels", labels, [torch.int64])
    require_shape(_OP, "template", template, ("L", "W"))
    require_shape(_OP, "positions", positions, template.shape)
    require_shape(_OP, "context", context, ("C", "M", template.shape[1]))
    require_shape(_OP, "labels", labels, ("B",))
    require_same_device(_OP, template=template, positions=positions, context=context, labels=labels)
    last = template.shape[0] - context.shape[1]
    if not 0 <= start <= last:
        window = f"be in [0, {last}], so that the context stays within the template"
        require(False, _OP, "start", window, start)
    _validate_labels(labels, context.shape[0])


def _validate_labels(labels: Tensor, num_classes: int) -> None:
    # Reading values back would break a traced graph or a captured stream.
    if torch.compiler.is_compiling() or labels.numel() == 0:
        return
    if labels.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    low, high = (int(v) for v in torch.aminmax(labels))
    wrong = low if low < 0 else high
    require(
        low >= 0 and high < num_classes, _OP, "labels", f"be in [0, {num_classes})", wrong,
        "Labels count the classes of `context` from 0.",
    )  # fmt: skip
