"""Token injection in plain torch: the oracle of the kernels. Imports nothing of ours but codes.

A mode is 0 to replace tokens, 1 to insert and 2 to add. Sums are in float32, or in float64 where
the result is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vireid_fast.ops.prompt_injection.codes import ADD, FLOAT32, INSERT, NOTHING, REPLACE


def prompt_injection(
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
    """Streams with the sources injected in turn, plus positions, and their layer normalisation.

    Args:
        stream: Shape (L, W), one for all items, or (B, L, W).
        tokens: Of each source. Shape (C, M, W).
        labels: Of each source: shape (B,), int64, or None.
        starts: First token of each source.
        modes: REPLACE, INSERT or ADD for each source.
        positions: Shape (L_out, W) or None.
        weight: Of the norm, shape (W,). None: no norm.
        bias: Of the norm, shape (W,).
        eps: Of the norm.
        batch: B.
        dtype: Of the tokens returned.

    Returns:
        Tokens (B, L_out, W), normalised tokens (B, L_out, W), and mean and reciprocal deviation
        (2, B, L_out). The latter two are empty without a norm.
    """
    wide = _sum_dtype(dtype)
    out = stream.to(wide).expand(batch, *stream.shape[-2:])
    for source, label, start, mode in zip(tokens, labels, starts, modes, strict=True):
        rows = source.to(wide)
        rows = rows.expand(batch, *rows.shape[1:]) if label is None else rows[label]
        end = start if mode == INSERT else start + rows.shape[1]
        if mode == ADD:
            rows = out[:, start:end] + rows
        out = torch.cat([out[:, :start], rows, out[:, end:]], dim=1)
    if positions is not None:
        out = out + positions.to(wide)
    out = out.to(dtype).clone(memory_format=torch.contiguous_format)
    if weight is None or bias is None:
        return out, out.new_empty(0), out.new_empty(0, dtype=wide)
    # The norm sees the tokens as they are returned, rounded.
    values = out.to(wide)
    mean = values.mean(dim=2, keepdim=True)
    centred = values - mean
    rstd = (centred.square().mean(dim=2, keepdim=True) + eps).rsqrt()
    normalized = (centred * rstd * weight.to(wide) + bias.to(wide)).to(dtype)
    return out, normalized, torch.stack([mean.squeeze(2), rstd.squeeze(2)])


def prompt_injection_bwd(
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
    """Gradients of `prompt_injection`.

    Args:
        grad: Gradient of the tokens, shape (B, L_out, W), or None for zero.
        grad_normalized: Gradient of the normalised tokens, likewise; one of the two is given.
        out: The tokens; as statistics and weight, needed with `grad_normalized` only.
        statistics: As the forward returned it.
        weight: Of the norm.
        labels: As in the forward.
        starts: As in the forward.
        modes: As in the forward.
        classes: C of each source.
        lengths: M of each source.
        stream_shared: Whether the stream had shape (L, W).
        stream_length: L.
        wanted: NOTHING, SAME_DTYPE (as `grad`) or FLOAT32 for the gradients of stream, positions,
            norm and each source. A gradient that is not wanted is empty.

    Returns:
        Gradients of stream, positions, weight, bias and of the tokens of each source.
    """
    given = grad_normalized if grad is None else grad
    assert given is not None
    wide = _sum_dtype(given.dtype)
    total = torch.zeros_like(given, dtype=wide) if grad is None else grad.to(wide)

    def finish(value: Tensor, kind: int) -> Tensor:
        if kind == NOTHING:
            return given.new_empty(0)
        result = value.to(torch.float32 if kind == FLOAT32 else given.dtype)
        return result.clone(memory_format=torch.contiguous_format)

    grad_weight = grad_bias = total
    if grad_normalized is not None:
        assert out is not None and statistics is not None and weight is not None
        through, grad_weight, grad_bias = _norm_bwd(grad_normalized, out, statistics, weight)
        total = total + through
    norm_kind = NOTHING if grad_normalized is None else wanted[2]
    grad_positions = finish(total.sum(0), wanted[1])
    grad_tokens: list[Tensor] = []
    for k in reversed(range(len(labels))):
        start, end = starts[k], starts[k] + lengths[k]
        window = total[:, start:end]
        grad_tokens.insert(0, finish(_sum_items(window, labels[k], classes[k]), wanted[k + 3]))
        if modes[k] == INSERT:
            total = torch.cat([total[:, :start], total[:, end:]], dim=1)
        elif modes[k] == REPLACE:
            gap = torch.zeros_like(window)
            total = torch.cat([total[:, :start], gap, total[:, end:]], dim=1)
    grad_stream = finish(total.sum(0) if stream_shared else total, wanted[0])
    norm_grads = finish(grad_weight, norm_kind), finish(grad_bias, norm_kind)
    return grad_stream, grad_positions, *norm_grads, grad_tokens


def _norm_bwd(
    grad: Tensor, out: Tensor, statistics: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the norm's input, weight and bias, in the dtype of the statistics."""
    wide = statistics.dtype
    mean, rstd = statistics.unsqueeze(3)
    unit = (out.to(wide) - mean) * rstd
    grad = grad.to(wide)
    scaled = grad * weight.to(wide)
    plain, projected = (v.mean(dim=2, keepdim=True) for v in (scaled, scaled * unit))
    grad_input = (scaled - plain - unit * projected) * rstd
    return grad_input, (grad * unit).sum((0, 1)), grad.sum((0, 1))


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _sum_items(window: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """Sum of (B, M, W) over the items of each class: (C, M, W)."""
    if labels is not None:
        return window.new_zeros((classes, *window.shape[1:])).index_add(0, labels, window)
    return window if classes == window.shape[0] else window.sum(0, keepdim=True)
