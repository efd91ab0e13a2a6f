"""Cross-entropy of images against the texts of all identities, in blocks of texts."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vireid_fast._checks import (
    may_read_values,
    positive_int,
    require,
    require_choice,
    require_class_labels,
    require_dtype,
    require_same_device,
    require_shape,
)
from vireid_fast.losses.precision import common_precision, without_autocast
from vireid_fast.ops import BACKENDS, Backend

_LOSS = "image_to_text"
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def image_to_text(
    features: Tensor,
    text_bank: Tensor,
    labels: Tensor,
    *,
    block: int = 2048,
    backend: Backend = "fused",
) -> Tensor:
    """Cross-entropy of images against the texts of all identities.

    L = CE(features @ text_bank^T, labels), no temperature, no normalisation
    (CLIP-ReID stage 2; CSDN's high-level semantic embedding)

    The scores are never held at once. A block of texts at a time adds to each image's running
    log-sum-exp and to its expected text e_i = sum_j softmax_j(s_i) t_j, and the gradient of image
    i is (e_i - t_{y_i}) / B. Where the texts want a gradient, backward computes the scores again.
    If all texts fit into one block, it is a plain cross-entropy, which is faster then.

    Args:
        features: Projected image features. Shape (B, d), floating point.
        text_bank: One text per identity. Shape (C, d), floating point.
        labels: Shape (B,), int64 in 0..C-1.
        block: Texts per block; the result depends on it by rounding only.
        backend: "fused", or "reference" for the cross-entropy of the whole score matrix.

    Returns:
        Scalar, float64 if an input is, else float32.

    Differentiable once, with respect to features and texts. Memory: O(B (block + d)), "reference"
    O(B C). The labels are checked with one host sync on a GPU; while a graph is traced or captured
    they are not, and an unknown label gives NaN. An infinite or NaN score enters as in a plain
    cross-entropy, and NaN in one image reaches the gradient of no other image.

    Raises:
        ValueError: A shape, device, label, block or backend does not fit. TypeError: A dtype does
            not fit.
    """
    _validate(features, text_bank, labels, backend)
    block = positive_int(_LOSS, "block", block)
    features, text_bank = common_precision(features, text_bank)
    with without_autocast(features):
        # One block is the whole matrix, for which torch's own loss is faster. But that refuses
        # labels that could not be checked, for which the blocks give NaN.
        whole = text_bank.shape[0] <= block and may_read_values()
        if whole or backend == "reference":
            return F.cross_entropy(features @ text_bank.T, labels)
        differentiable = torch.is_grad_enabled() and features.requires_grad
        return _ImageToText.apply(features, text_bank, labels, block, differentiable)


class _ImageToText(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, texts: Tensor, labels: Tensor, block: int, keep_expected: bool
    ) -> Tensor:
        log_sum, target, expected = _stream(features, texts, labels, block, keep_expected)
        ctx.block = block
        ctx.save_for_backward(features, texts, labels, log_sum, expected)
        return (log_sum - target).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, texts, labels, log_sum, expected = ctx.saved_tensors
        share = grad / features.shape[0]
        grad_features = grad_texts = None
        with without_autocast(features):
            if ctx.needs_input_grad[0]:
                known = texts[labels.clamp(0, texts.shape[0] - 1)]
                grad_features = share * (expected - known)
            if ctx.needs_input_grad[1]:
                grad_texts = _texts_gradient(features, texts, labels, log_sum, ctx.block)
                grad_texts *= share
        return grad_features, grad_texts, None, None, None


def _stream(
    features: Tensor, texts: Tensor, labels: Tensor, block: int, keep_expected: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-sum-exp of each image's scores, the score of its own text, its expected text."""
    rows = features.shape[0]
    peak = features.new_full((rows,), float("-inf"))
    total = features.new_zeros(rows)
    target = features.new_full((rows,), float("nan"))
    expected = torch.zeros_like(features) if keep_expected else None
    for start in range(0, texts.shape[0], block):
        part = texts[start : start + block]
        scores = features @ part.T  # [B, block]
        own = labels - start
        inside = (own >= 0) & (own < part.shape[0])
        picked = scores.gather(1, own.clamp(0, part.shape[0] - 1)[:, None])[:, 0]
        target = torch.where(inside, picked, target)
        higher = torch.maximum(peak, scores.amax(1))
        # While all scores are -inf there is nothing to rescale, and inf - inf would be NaN.
        shift = torch.where(higher == float("-inf"), 0.0, higher)
        factor = torch.exp(peak - shift)
        weights = scores.sub_(shift[:, None]).exp_()
        total = total * factor + weights.sum(1)
        if expected is not None:
            expected = torch.addmm(expected * factor[:, None], weights, part)
        peak = higher
    if expected is not None:
        expected = expected / total[:, None]
    return peak + total.log(), target, expected


def _texts_gradient(
    features: Tensor, texts: Tensor, labels: Tensor, log_sum: Tensor, block: int
) -> Tensor:
    """sum_i (softmax_j(s_i) - [j = y_i]) f_i for every text j. Shape (C, d)."""
    out = torch.empty_like(texts)
    for start in range(0, texts.shape[0], block):
        part = texts[start : start + block]
        weights = (features @ part.T).sub_(log_sum[:, None]).exp_()
        columns = torch.arange(start, start + part.shape[0], device=labels.device)
        weights -= (labels[:, None] == columns).to(weights.dtype)
        out[start : start + block] = weights.T @ features
    return out


def _validate(features: Tensor, text_bank: Tensor, labels: Tensor, backend: Backend) -> None:
    require_choice(_LOSS, "backend", backend, BACKENDS)
    require_dtype(_LOSS, "features", features, _FLOATS)
    require_dtype(_LOSS, "text_bank", text_bank, _FLOATS)
    require_dtype(_LOSS, "labels", labels, [torch.int64])
    require_shape(_LOSS, "features", features, ("B", "d"))
    require(
        text_bank.dim() == 2 and features.shape[1] == text_bank.shape[1], _LOSS, "text_bank",
        f"have {features.shape[1]} columns", text_bank.shape[-1],
    )  # fmt: skip
    require(text_bank.shape[0] > 0, _LOSS, "text_bank", "hold a text", "none")
    require_shape(_LOSS, "labels", labels, (features.shape[0],))
    require_same_device(_LOSS, features=features, text_bank=text_bank, labels=labels)
    remedy = "Labels count the rows of `text_bank` from 0."
    require_class_labels(_LOSS, "labels", labels, text_bank.shape[0], remedy)
