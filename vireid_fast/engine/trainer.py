"""The training loop over stages, with exact resumption.

A checkpoint is written after every epoch. Everything random in an epoch is a function of
(seed, stage, epoch), so that continuing from the last checkpoint repeats bit for bit what an
uninterrupted run does (on the CPU, with the same number of threads).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vireid_fast._checks import sentence
from vireid_fast.data.table import name_some
from vireid_fast.engine.checkpoint import (
    CARD_FILE,
    Checkpoint,
    CheckpointError,
    follow,
    load_checkpoint,
    load_into,
    load_optimizer,
    point_to,
    remove_other_checkpoints,
    require_intact,
    save_checkpoint,
)
from vireid_fast.engine.distributed import World
from vireid_fast.engine.optim import build_optimizer, set_learning_rate
from vireid_fast.engine.progress import progress_bar, say
from vireid_fast.engine.run_folder import MetricsLog, RunFolder, require_settings
from vireid_fast.engine.seeds import derive_seed
from vireid_fast.engine.stage import Stage, StagePlan, detach_scalars, mean_scalars

Validate = Callable[[], dict[str, float]]

FACTS_SINCE = ("activation",)
"""Facts that older checkpoints do not state, and which are then not compared."""


@dataclass
class Position:
    """How far a run is: the stage and its finished epochs, and what validation has chosen."""

    stage: int = 0
    epoch: int = 0
    lines: int = 0
    best: dict[str, Any] = field(default_factory=dict)


class Trainer:
    """Runs stages one after the other and keeps checkpoints.

    Args:
        model: What is trained; all of its state is in the checkpoints.
        stages: Built in order; each is prepared when its turn comes.
        run: Folder of the run.
        seed: Seed of the run.
        facts: What a checkpoint must have in common with the run, stored in each card.
        description: What else the model card of each checkpoint holds.
        world: The processes; rank 0 alone logs, validates and writes checkpoints.
        accumulate: Batches whose gradients are averaged before each step of the optimiser.
        validate: Returns "R1", "mAP", "mINP" on the validation identities; None keeps the last
            epoch.
        validate_every: Epochs between validations.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: list[Stage],
        run: RunFolder,
        *,
        seed: int,
        facts: dict[str, Any],
        description: dict[str, Any] | None = None,
        world: World,
        accumulate: int = 1,
        validate: Validate | None,
        validate_every: int = 1,
    ) -> None:
        self.model = model
        self.stages = stages
        self.run = run
        self.seed = seed
        self.facts = facts
        self.description = description or {}
        self.world = world
        self.accumulate = accumulate
        self.validate = validate
        self.validate_every = validate_every
        self._optimizer_state: dict[str, Any] = {}
        self._position = Position()

    def train(self) -> None:
        """Train all stages, or what is left of them after `restore`."""
        position = self._position
        log = MetricsLog(self.run, keep=position.lines) if self.world.is_main else None
        while position.stage < len(self.stages):
            self._train_stage(self.stages[position.stage], position, log)
            position.stage, position.epoch = position.stage + 1, 0

    def _train_stage(self, stage: Stage, position: Position, log: MetricsLog | None) -> None:
        plan = self._prepare(stage, begun=position.epoch > 0)
        optimizer = build_optimizer(plan.optimizer, plan.groups, plan.schedule.lr)
        if self._optimizer_state:
            load_optimizer(optimizer, self._optimizer_state, str(self.run.latest))
            self._optimizer_state = {}
        for epoch in range(position.epoch, plan.epochs):
            began = time.monotonic()
            values = self._train_epoch(stage, plan, optimizer, epoch)
            position.epoch = epoch + 1
            values |= self._validate(stage, plan, position)
            values["seconds"] = time.monotonic() - began
            if log is not None:
                log.write(stage.name, epoch + 1, values)
                position.lines = log.lines
                self._save(stage, position, optimizer, values)
                say(_describe(stage.name, epoch + 1, plan.epochs, values))
            # Nobody runs ahead of the checkpoint that a stopped run would continue from.
            self.world.barrier()

    def _prepare(self, stage: Stage, *, begun: bool) -> StagePlan:
        """Prepare a stage; of one that a stopped run had begun, the model stays as it is."""
        # Preparing may draw random numbers (dropout in a text bank); they too belong to a place.
        torch.manual_seed(derive_seed(self.seed, stage.name, "prepare"))
        if not begun:
            return stage.prepare()
        # What it changes, such as running statistics of batch norms, the checkpoint has already.
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        plan = stage.prepare()
        self.model.load_state_dict(state)
        return plan

    def _train_epoch(
        self, stage: Stage, plan: StagePlan, optimizer: torch.optim.Optimizer, epoch: int
    ) -> dict[str, float]:
        place = (stage.name, epoch) if self.world.is_main else (stage.name, epoch, self.world.rank)
        torch.manual_seed(derive_seed(self.seed, *place))
        parameters = [p for group in plan.groups for p in group["params"]]
        steps, rows, identities = stage.num_batches(), [], []
        optimizer.zero_grad(set_to_none=True)
        with progress_bar(f"{stage.name} {epoch + 1}/{plan.epochs}") as advance:
            for index, batch in enumerate(stage.batches(epoch)):
                losses = stage.step(batch)
                self._require_finite_loss(stage, epoch, index, batch, losses)
                identities.append(stage.describe(batch))
                first = index - index % self.accumulate
                share = min(self.accumulate, steps - first)
                # Every process holds the loss of the whole batch, and gradients are summed.
                (losses["loss"] / (share * self.world.size)).backward()
                if index + 1 == first + share:
                    now = epoch + first / steps if plan.per_step else epoch
                    set_learning_rate(optimizer, plan.schedule.rate(now))
                    self.world.sum_gradients(parameters)
                    self._require_finite_gradient(
                        parameters, _place(stage, epoch, first, identities)
                    )
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    identities.clear()
                rows.append(detach_scalars(losses))
                advance(index + 1, steps)
        return mean_scalars(rows)

    def _require_finite_loss(
        self, stage: Stage, epoch: int, index: int, batch: Any, losses: dict[str, Tensor]
    ) -> None:
        """Stop before a loss that is not finite reaches the weights, and name the batch."""
        if bool(torch.isfinite(losses["loss"])):
            return
        values = {name: value.item() for name, value in detach_scalars(losses).items()}
        broken = [name for name, value in values.items()
                  if name != "loss" and not math.isfinite(value)]  # fmt: skip
        place = _place(stage, epoch, index, [stage.describe(batch)])
        raise _not_finite(
            f"the loss of {place}",
            f"{values['loss']}{' from ' + ', '.join(broken) if broken else ''}",
        )

    def _require_finite_gradient(self, parameters: list[nn.Parameter], place: str) -> None:
        """Stop where a finite loss has another gradient, as at the root of 0."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if bool(torch.isfinite(norm)):
            return
        broken = [name for name, p in self.model.named_parameters()
                  if p.grad is not None and not torch.isfinite(p.grad).all()]  # fmt: skip
        raise _not_finite(f"the gradient of {place}", f"{norm.item()} from {name_some(broken, 3)}")

    def _validate(self, stage: Stage, plan: StagePlan, position: Position) -> dict[str, float]:
        last = position.epoch == plan.epochs
        due = position.epoch % self.validate_every == 0 or last
        if self.validate is None or not stage.chooses_epoch or not due:
            return {}
        scores = self.world.broadcast_object(self.validate() if self.world.is_main else None)
        # mAP moves less than R1 on a few validation identities; R1 breaks a tie.
        rank = [scores["mAP"], scores["R1"]]
        if not position.best or rank > position.best["rank"]:
            position.best = {"rank": rank, "stage": stage.name, "epoch": position.epoch}
        return {f"val_{name}": value for name, value in scores.items()}

    def _save(
        self, stage: Stage, position: Position, optimizer: torch.optim.Optimizer,
        values: dict[str, float],
    ) -> None:  # fmt: skip
        name = f"{position.stage}-{stage.name}-{position.epoch:04d}"
        scores = {key[4:]: value for key, value in values.items() if key.startswith("val_")}
        card = {
            **self.description,
            **self.facts,
            "stage": stage.name,
            "epoch": position.epoch,
            "validation": scores,
            "position": {
                "stage": position.stage, "epoch": position.epoch,
                "lines": position.lines, "best": position.best,
            },
        }  # fmt: skip
        folder = self.run.checkpoints / name
        checkpoint = Checkpoint(self.model.state_dict(), card, optimizer.state_dict())
        save_checkpoint(folder, checkpoint)
        point_to(self.run.latest, folder)
        best = position.best
        if not best or (best["stage"], best["epoch"]) == (stage.name, position.epoch):
            point_to(self.run.best, folder, **best)
        remove_other_checkpoints(
            self.run.checkpoints, {name, follow(self.run.best)[0].name}
        )

    def restore(self) -> None:
        """Continue from the last checkpoint, where there is one; writes nothing new.

        Raises:
            CheckpointError: The checkpoint is damaged or of something else.
        """
        if not self.run.latest.exists():
            return
        folder, _ = follow(self.run.latest)
        checkpoint = load_checkpoint(folder)
        require_facts(checkpoint.card, self.facts, str(folder))
        load_into(self.model, checkpoint.model, str(folder))
        position = _position(checkpoint.card, str(folder), len(self.stages))
        require_intact(checkpoint.card, folder / CARD_FILE)
        # config.yaml has no checksum; the card, which has one, tells of damage there.
        if "config" in checkpoint.card and "config" in self.description:
            require_settings(
                checkpoint.card["config"], self.description["config"], folder / CARD_FILE
            )
        # The best pointer moves after the latest one; a kill between the two is repaired here.
        best = position.best
        newest = not best or folder.name.endswith(f"{best['stage']}-{best['epoch']:04d}")
        if self.world.is_main:
            if newest:
                point_to(self.run.best, folder, **best)
            # A kill before the end of the last save has left these.
            remove_other_checkpoints(
                self.run.checkpoints, {folder.name, follow(self.run.best)[0].name}
            )
        self._optimizer_state = checkpoint.optimizer
        self._position = position
        say(f"resuming {self.run.path} after {folder.name}")


def _position(card: dict[str, Any], source: str, stages: int) -> Position:
    """How far the run of a checkpoint was; a card is a file, and may hold anything."""
    read: Any = card.get("position")
    counts = ("stage", "epoch", "lines")
    fits = (
        isinstance(read, dict)
        and read.keys() == {*counts, "best"}
        and all(type(read[name]) is int and read[name] >= 0 for name in counts)
        and read["stage"] < stages
        and isinstance(read["best"], dict)
        and (not read["best"] or _is_best(read["best"]))
    )
    if not fits:
        shown = str(read)
        raise CheckpointError(
            f"checkpoint: position of {source} must be that of a run, got {shown[:80]}. "
            "Restore the checkpoint, or start the run anew without --resume."
        )
    return Position(**read)


def _is_best(best: dict[str, Any]) -> bool:
    rank = best.get("rank")
    return (
        best.keys() == {"rank", "stage", "epoch"}
        and isinstance(rank, list)
        and len(rank) == 2
        and all(type(score) in (int, float) for score in rank)
        and isinstance(best["stage"], str)
        and type(best["epoch"]) is int
    )


def require_facts(card: dict[str, Any], facts: dict[str, Any], source: str) -> None:
    """Refuse a checkpoint of another method, identity count or data set."""
    for name, want in facts.items():
        if name in FACTS_SINCE and name not in card:
            continue
        if card.get(name) != want:
            raise CheckpointError(
                f"checkpoint: {name} of {source} must be {want!r}, got {card.get(name)!r}. "
                "Use a checkpoint of the configured method and data."
            )


def _place(stage: Stage, epoch: int, first: int, identities: list[str]) -> str:
    """ "visual epoch 3, batch 7 (identities 2, 5)", or the batches whose gradients are averaged."""
    numbers = f"batch {first + 1}"
    if len(identities) > 1:
        numbers = f"batches {first + 1} to {first + len(identities)}"
    return f"{stage.name} epoch {epoch + 1}, {numbers} ({'; '.join(identities)})"


def _not_finite(what: str, got: str) -> RuntimeError:
    remedy = "Lower the learning rate, or look at these images; the last checkpoint is intact."
    return RuntimeError(sentence("training", what, "be finite", got, remedy))


def _describe(stage: str, epoch: int, epochs: int, values: dict[str, float]) -> str:
    parts = [f"{stage} {epoch}/{epochs}", f"loss {values['loss']:.3f}"]
    parts += [f"val {name[4:]} {value:.1%}" for name, value in values.items()
              if name in ("val_R1", "val_mAP")]  # fmt: skip
    return "  ".join([*parts, f"{values['seconds']:.0f} s"])
