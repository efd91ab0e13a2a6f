"""What the trainer needs to know of one training stage."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vireid_fast.engine.optim import Schedule


@dataclass(frozen=True)
class StagePlan:
    """Length, optimiser and schedule of a stage, as plain values."""

    epochs: int
    optimizer: str
    groups: list[dict[str, Any]]
    schedule: Schedule
    per_step: bool


class Stage(Protocol):
    """One training stage: what it optimises, its batches, its loss.

    A stage is rebuilt when a run resumes, so everything in it is a function of the model's
    weights at the stage's beginning, the data and the seed.
    """

    name: str
    chooses_epoch: bool
    """Whether validation picks among this stage's epochs."""

    def prepare(self) -> StagePlan:
        """Compute what the stage keeps fixed (stored features, text bank) and plan it."""
        ...

    def batches(self, epoch: int) -> Iterator[Any]:
        """Batches of an epoch, a pure function of (seed, stage, epoch)."""
        ...

    def num_batches(self) -> int:
        """Number of batches of an epoch."""
        ...

    def step(self, batch: Any) -> dict[str, Tensor]:
        """Losses of one batch, each a scalar; "loss" is what is minimised.

        On several processes every one returns the losses of the whole batch, see
        `engine.distributed`.
        """
        ...

    def describe(self, batch: Any) -> str:
        """What is in a batch, for the error that names it."""
        ...


def detach_scalars(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses without their graph, for logging."""
    return {name: value.detach() for name, value in losses.items()}


def mean_scalars(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean of each loss over the steps of an epoch."""
    return {name: torch.stack([row[name] for row in rows]).mean().item() for name in rows[0]}
