"""The activation of OpenAI's CLIP, with one saved tensor."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# openai/CLIP@d05afc4, clip/model.py, class QuickGELU.
_SLOPE = 1.702


class _QuickGelu(torch.autograd.Function):
    """Saves its input alone; the plain formula also keeps the scaled input and the sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.mul(x, _SLOPE).sigmoid_().mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        sigmoid = torch.mul(x, _SLOPE).sigmoid_()
        # With s the sigmoid: s + 1.702 x s (1 - s) = s (1 + 1.702 x (1 - s)).
        slope = (1 - sigmoid).mul_(x).mul_(_SLOPE).add_(1).mul_(sigmoid)
        return slope.mul_(grad)


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), once differentiable.

    Args:
        x: Any shape, floating point.

    Returns:
        Shape and dtype of `x`.
    """
    # A compiler fuses the plain formula, and decides itself what to save.
    if torch.compiler.is_compiling():
        return x * torch.sigmoid(_SLOPE * x)
    return _QuickGelu.apply(x)
