"""Optimisers and learning-rate schedules of the published codes."""

import bisect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Schedule:
    """Learning rate over epochs, warm-up first.

    "cosine": after the warm-up min_lr + (lr - min_lr)(1 + cos(pi t / epochs)) / 2, where t counts
    from the beginning of the run, warm-up included (timm's default, as in CLIP-ReID and CSDN).
    "steps": lr times 0.1 for each milestone reached (AGW, CSDN stage 3).
    The warm-up is linear from `warmup_lr` to `lr`.
    """

    kind: str
    lr: float
    epochs: int
    warmup_epochs: float = 0.0
    warmup_lr: float = 0.0
    min_lr: float = 0.0
    milestones: tuple[float, ...] = ()

    def rate(self, time: float) -> float:
        """Learning rate at `time`, in epochs since the beginning."""
        if time < self.warmup_epochs:
            return self.warmup_lr + (self.lr - self.warmup_lr) * time / self.warmup_epochs
        if self.kind == "steps":
            return self.lr * 0.1 ** bisect.bisect_right(self.milestones, time)
        progress = min(time / self.epochs, 1.0) if self.epochs else 1.0
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    weight_decay: float,
    factors: Mapping[str, float] | None = None,
    bias_factor: float = 1.0,
    decay_vectors: bool = True,
) -> list[dict[str, Any]]:
    """Parameters with their weight decay and learning-rate factor.

    Args:
        named_parameters: Name and parameter; those without gradient are left out.
        weight_decay: Weight decay.
        factors: Part of a name -> `lr_factor` of the parameters whose name contains it; the first
            part that occurs counts, 1 where none does.
        bias_factor: `lr_factor` of biases, where it is larger than theirs by name.
        decay_vectors: False exempts one-dimensional parameters (biases, norms) from decay.

    Returns:
        Non-empty optimiser groups with the extra key `lr_factor`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        factor = next((f for part, f in (factors or {}).items() if part in name), 1.0)
        if name.endswith("bias"):
            factor = max(factor, bias_factor)
        decay = weight_decay if decay_vectors or parameter.dim() > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (factor, decay), parameters in groups.items()
    ]


def build_optimizer(kind: str, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """Adam or AdamW over `groups`; weight decay and factors are in the groups."""
    owner = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    return owner(groups, lr=lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its `lr_factor`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
