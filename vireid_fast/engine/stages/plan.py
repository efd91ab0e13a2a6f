"""Optimiser, schedule and sampler of a stage from its settings."""

from collections.abc import Iterator

import numpy as np
from torch import nn

from vireid_fast.config import OptimizerConfig, SamplerConfig
from vireid_fast.data.samplers import IdentitySampler
from vireid_fast.data.table import INFRARED, VISIBLE
from vireid_fast.engine.optim import Schedule, parameter_groups
from vireid_fast.engine.stage import StagePlan


def stage_plan(
    named: Iterator[tuple[str, nn.Parameter]],
    settings: OptimizerConfig,
    *,
    heads: tuple[str, ...] = (),
    factors: dict[str, float] | None = None,
    decay_vectors: bool = True,
) -> StagePlan:
    """Plan of a stage.

    Args:
        named: Names and parameters that it trains.
        settings: Its settings.
        heads: Parts of names that get `settings.head_lr_factor`.
        factors: Further parts of names and their learning-rate factors; these go first.
        decay_vectors: False exempts one-dimensional parameters from weight decay.
    """
    groups = parameter_groups(
        named,
        weight_decay=settings.weight_decay,
        factors={**(factors or {}), **dict.fromkeys(heads, settings.head_lr_factor)},
        bias_factor=settings.bias_lr_factor,
        decay_vectors=decay_vectors,
    )
    schedule = Schedule(
        settings.schedule, settings.lr, settings.epochs, settings.warmup_epochs,
        settings.warmup_lr, settings.min_lr, settings.milestones,
    )  # fmt: skip
    return StagePlan(settings.epochs, settings.kind, groups, schedule, settings.per_step)


def identity_sampler(
    labels: tuple[np.ndarray, np.ndarray], settings: SamplerConfig, seed: int
) -> IdentitySampler:
    """The sampler over the visible and infrared labels of a training split."""
    return IdentitySampler(
        labels[VISIBLE], labels[INFRARED], settings.identities, settings.instances, seed,
        replace=settings.replacement,
    )  # fmt: skip
