"""Batch norm with the statistics of all processes' batches, by gloo as by NCCL."""

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from vireid_fast._checks import require
from vireid_fast._collectives import all_gather, all_reduce_sum, group_size

WHAT = "global_batch_norm"


def global_batch_norm(module: nn.Module, group: dist.ProcessGroup | None = None) -> nn.Module:
    """Let the BatchNorm1d and BatchNorm2d layers in `module` see the batches of all processes.

    Each becomes a subclass of itself: parameters, buffers, their names and hooks stay. In one
    process, and where running statistics normalise, it computes what it did before. Otherwise all
    processes must call it together. Weight and bias get the gradient of this process's rows, to be
    summed over processes like that of every other parameter.

    Args:
        module: Changed in place.
        group: Processes that share a batch; all of them if None.

    Returns:
        `module`.

    Raises:
        TypeError: A layer in it is another kind of batch norm.
    """
    for name, layer in module.named_modules():
        if not isinstance(layer, _BatchNorm):
            continue
        if not isinstance(layer, _GlobalStatistics):
            require(
                type(layer) in GLOBAL_KINDS, WHAT, name or "module",
                "be an nn.BatchNorm1d or nn.BatchNorm2d", type(layer).__name__, error=TypeError,
            )  # fmt: skip
            layer.__class__ = GLOBAL_KINDS[type(layer)]
        cast(_GlobalStatistics, layer).group = group
    return module


class _GlobalStatistics(_BatchNorm):
    """The forward pass of a batch norm over the processes of `group`."""

    group: dist.ProcessGroup | None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x of shape (B, C, ...); B may differ between processes and be 0."""
        batch_statistics = self.training or self.running_mean is None
        if not batch_statistics or group_size(self.group) == 1:
            return super().forward(x)
        self._check_input_dim(x)
        y, mean, variance = _GlobalBatchNorm.apply(x, self.weight, self.bias, self.eps, self.group)
        if self.training and self.track_running_stats:
            self._track(mean, variance)
        return y

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        # Layers that track have all three.
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(value.to(running.dtype), momentum)


class GlobalBatchNorm1d(_GlobalStatistics, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all processes, see `global_batch_norm`."""


class GlobalBatchNorm2d(_GlobalStatistics, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all processes, see `global_batch_norm`."""


GLOBAL_KINDS = {nn.BatchNorm1d: GlobalBatchNorm1d, nn.BatchNorm2d: GlobalBatchNorm2d}


class _GlobalBatchNorm(torch.autograd.Function):
    """y = w (x - mean) / sqrt(var + eps) + b with mean and var over all processes.

    dx = w / s (dy - sum(dy) / N - xc sum(dy xc) / (N s^2)), xc = x - mean, s = sqrt(var + eps),
    N values per channel and sums over all of them (Ioffe and Szegedy, ICML 2015). Sums are taken
    in float32 or wider; those of processes meet in float64.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        group: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised x, and mean and unbiased variance of each channel for the running ones."""
        wide = torch.promote_types(x.dtype, torch.float32)
        count, mean, squares = _combine(all_gather(_local_statistics(x.to(wide)), group))
        if x.numel() <= x.shape[1]:
            # Else this process alone has enough, and a GPU need not be waited for.
            require(
                bool(count > 1), WHAT, "the batch of all processes",
                "have more than 1 value per channel in training", int(count),
            )  # fmt: skip
        variance = squares / count
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps, ctx.group = eps, group
        y = F.batch_norm(x, mean.to(wide), variance.to(wide), weight, bias, False, eps=eps)
        unbiased = squares / (count - 1)
        ctx.mark_non_differentiable(mean, unbiased)
        return y, mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias; weight and bias of this process's rows."""
        x, weight, mean, variance, count = ctx.saved_tensors
        wide = torch.promote_types(x.dtype, torch.float32)
        axes, shape = _axes(x)
        scale = (variance + ctx.eps).rsqrt()
        grad_y = grad_y.to(wide)
        centred = x.to(wide) - mean.to(wide).view(shape)
        sums = torch.stack((grad_y.sum(axes), (grad_y * centred).sum(axes))).double()
        grad_x = grad_weight = grad_bias = None
        if weight is not None:
            grad_weight = (sums[1] * scale).to(weight.dtype)
            grad_bias = sums[0].to(weight.dtype)
        if ctx.needs_input_grad[0]:
            first, second = all_reduce_sum(sums.clone(), ctx.group) / count
            factor = scale if weight is None else scale * weight
            grad_x = centred.mul_((-second * scale.square()).to(wide).view(shape))
            grad_x = grad_x.add_(grad_y).sub_(first.to(wide).view(shape))
            grad_x = grad_x.mul_(factor.to(wide).view(shape)).to(x.dtype)
        return grad_x, grad_weight, grad_bias, None, None


def _axes(x: Tensor) -> tuple[list[int], list[int]]:
    """All axes but that of the channels, and the shape of a per-channel factor."""
    return [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]


def _local_statistics(x: Tensor) -> Tensor:
    """Mean, sum of squared deviations and number of values per channel. Shape (2 C + 1,)."""
    axes, shape = _axes(x)
    channels = x.shape[1]
    statistics = torch.zeros(2 * channels + 1, dtype=torch.float64, device=x.device)
    if x.numel():
        # Sums of x and x^2 would cancel where the mean is large. What the first mean lacks in
        # precision is the mean of the deviations from it.
        count = x.numel() // channels
        mean = x.mean(axes)
        centred = x - mean.view(shape)
        rest = centred.sum(axes).double() / count
        statistics[:channels] = mean.double() + rest
        statistics[channels:-1] = centred.mul_(centred).sum(axes) - count * rest.square()
        statistics[-1] = count
    return statistics


def _combine(parts: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations of all values (Chan, Golub and LeVeque, 1983).

    The deviations of the parts add up, and so do n (mean - common mean)^2.
    """
    table = torch.stack(parts)
    counts = table[:, -1:]
    means, squares = table[:, :-1].chunk(2, dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    return count, mean, squares.sum(0) + (counts * (means - mean).square()).sum(0)
