"""A whole `workflow.train`, and what passed in it: batches, losses, gradients, weights."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from vireid_fast.config import Config
from vireid_fast.engine import workflow
from vireid_fast.engine.stages.clip_batches import ClipBatches
from vireid_fast.engine.stages.image_batches import ImageBatches
from vireid_fast.engine.trainer import Trainer


class Stop(Exception):
    """Raised in the middle of training, as a kill would end it."""


@dataclass
class Recorded:
    """What a process saw.

    Attributes:
        batches: Stage, and tensors of the batch, of every batch.
        losses: Losses of every batch.
        gradients: By name, as every step of the optimiser was given them.
        rates: Learning rates of the groups in every step of the optimiser.
        states: Weights and buffers after every step of the optimiser.
    """

    batches: list[tuple[str, dict[str, Tensor]]] = field(default_factory=list)
    losses: list[dict[str, Tensor]] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    rates: list[list[float]] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)


def record(
    config: Config,
    path: Path,
    dtype: torch.dtype = torch.float32,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    timeout: float = 120.0,
    change: Callable[[MonkeyPatch], None] | None = None,
    seen: Recorded | None = None,
) -> Recorded:
    """Train, alone or, where torchrun's variables say so, with others.

    Args:
        config: The configuration.
        path: The run.
        dtype: Of the weights.
        resume: As of `workflow.train`.
        stop_after: Epochs after which the run is stopped.
        timeout: As of `workflow.train`.
        change: What else is patched.
        seen: Filled and returned; for what a run that fails has seen.
    """
    seen = Recorded() if seen is None else seen
    with MonkeyPatch.context() as patch:
        models = _patch_model(patch, dtype)
        _patch_losses(patch, seen)
        if stop_after is not None:
            _patch_epochs(patch, stop_after)
        if change is not None:
            change(patch)
        with _optimizer_hooks(seen, models):
            stopped = contextlib.nullcontext() if stop_after is None else pytest.raises(Stop)
            with stopped:
                workflow.train(config, path, resume=resume, timeout=timeout)
    return seen


def poison(patch: MonkeyPatch, *, epoch: int, index: int, rank: int = 0) -> None:
    """Put NaN into the last infrared item of one batch, of one process where there are several."""
    if int(os.environ.get("RANK", "0")) != rank:
        return
    for batches in (ImageBatches, ClipBatches):
        original = batches.epoch

        def spoiled(self, number, original=original):
            for place, batch in enumerate(original(self, number)):
                if (number, place) == (epoch, index):
                    infrared = batch.infrared.clone()
                    infrared[-1] = float("nan")
                    batch = replace(batch, infrared=infrared)
                yield batch

        patch.setattr(batches, "epoch", spoiled)


def _patch_model(patch: MonkeyPatch, dtype: torch.dtype) -> list[nn.Module]:
    """Make new models of `dtype`; they appear in the returned list."""
    build, made = workflow.new_method, []

    def new_method(*args: Any, **options: Any) -> Any:
        method = build(*args, **options)
        method.model.to(dtype)
        encoder = method.model.encoder
        for stem in (encoder.visual.stem, getattr(encoder, "infrared_stem", None)):
            if stem is not None:
                # Views are float32; here the weights decide what is computed in.
                stem.register_forward_pre_hook(lambda _, images: (images[0].to(dtype),))
        made.append(method.model)
        return method

    patch.setattr(workflow, "new_method", new_method)
    return made


def _patch_losses(patch: MonkeyPatch, seen: Recorded) -> None:
    check = Trainer._require_finite_loss

    def observed(self, stage, epoch, index, batch, losses):
        fields = {"rows": batch} if isinstance(batch, Tensor) else vars(batch)
        tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
        seen.batches.append((stage.name, tensors))
        seen.losses.append({name: value.detach().clone() for name, value in losses.items()})
        check(self, stage, epoch, index, batch, losses)

    patch.setattr(Trainer, "_require_finite_loss", observed)


def _patch_epochs(patch: MonkeyPatch, stop_after: int) -> None:
    original, calls = Trainer._train_epoch, []

    def counted(self, *arguments):
        if len(calls) == stop_after:
            raise Stop
        calls.append(1)
        return original(self, *arguments)

    patch.setattr(Trainer, "_train_epoch", counted)


@contextlib.contextmanager
def _optimizer_hooks(seen: Recorded, models: list[nn.Module]) -> Iterator[None]:
    def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = models[0].named_parameters()
        grads = {name: p.grad for name, p in named if id(p) in owned and p.grad is not None}
        seen.gradients.append({name: grad.clone() for name, grad in grads.items()})
        seen.rates.append([group["lr"] for group in optimizer.param_groups])

    def after(*_: Any) -> None:
        seen.states.append({name: v.clone() for name, v in models[0].state_dict().items()})

    hooks = register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
