"""Prompt assembly in plain torch: the oracle of the kernels. Imports nothing of ours."""

from torch import Tensor


def prompt_injection(
    template: Tensor, positions: Tensor, context: Tensor, labels: Tensor, start: int
) -> Tensor:
    """Prompts with the context of each label in place of the template's tokens.

    Args:
        template: Shape (L, W).
        positions: Shape (L, W).
        context: Shape (C, M, W).
        labels: Shape (B,), int64.
        start: First token that the context replaces.

    Returns:
        Shape (B, L, W).
    """
    prompts = template.expand(labels.shape[0], *template.shape).clone()
    prompts[:, start : start + context.shape[1]] = context[labels]
    return prompts + positions


def prompt_injection_bwd(
    grad: Tensor, labels: Tensor, num_classes: int, context_length: int, start: int
) -> Tensor:
    """Gradient of the context: sum over the prompts of each class.

    Args:
        grad: Gradient of the prompts. Shape (B, L, W).
        labels: Shape (B,), int64.
        num_classes: C.
        context_length: M.
        start: First token that the context replaces.

    Returns:
        Shape (C, M, W), dtype of grad.
    """
    window = grad[:, start : start + context_length]
    # Halves are summed in float32, as the kernels do.
    wide = window.float() if grad.element_size() == 2 else window
    total = wide.new_zeros((num_classes, context_length, grad.shape[2]))
    return total.index_add(0, labels, wide).to(grad.dtype)
