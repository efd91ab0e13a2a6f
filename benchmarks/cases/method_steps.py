"""Whole training steps of the methods: the losses, their gradients, the optimiser.

Configurations are the published ones (configs/<method>/) with 64 identities and small batches, on
random weights and images; `backend: reference` replaces every kernel and every shortcut by plain
torch. The learning rate is zero, which costs the optimiser the same work and lets every step
compute the same. 12 images are 2 identities x 2 of each view; LSMRL has 2 identities x 1 clip of 6
frames of each modality.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from method_pairs import FRAMES, IDENTITIES, NAMES, SIZE, MethodPair, method_pair
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload
from vireid_fast.engine.methods import Method
from vireid_fast.engine.methods.clip4vi_reid import AlignmentStage
from vireid_fast.engine.methods.clip_mc import JointStage
from vireid_fast.engine.methods.csdn import PromptStage, VisualStage
from vireid_fast.engine.methods.lsmrl import SequenceStage
from vireid_fast.engine.optim import build_optimizer
from vireid_fast.engine.stage import Stage
from vireid_fast.engine.stages.clip_batches import ClipBatch
from vireid_fast.engine.stages.image_batches import ViewBatch
from vireid_fast.engine.stages.stored_features import Pairs
from vireid_fast.engine.training_data import FrameSampling, TrainingImages, TrainingTracklets

_PAIRS = 32  # one prompt a modality each, so 64 prompts
_BATCH_IDENTITIES, _INSTANCES = 2, 2
_JOINT = 1024
_REFERENCE = "references"
_IMAGES = {"sampler": {"identities": _BATCH_IDENTITIES, "instances": _INSTANCES}}
_CLIPS = {"sampler": {"identities": _BATCH_IDENTITIES, "instances": 1}}
# Twelve blocks of both towers on plain torch take more than the 4 GB that a CPU case may have.
_CPU_DEPTH = 5
_SHALLOW = {**_CLIPS, "lsmrl": {"grouped_blocks": 1, "shift_blocks": 1}}
Run = Callable[[], Tensor]
Prepare = Callable[[Method, torch.device], tuple[Stage, object]]


def _prompts(method: Method, device: torch.device) -> tuple[Stage, Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Projected features of CLIP have a length of about ten.
    visible, infrared = (
        (0.3 * torch.randn(IDENTITIES, _JOINT, generator=generator)).to(device) for _ in range(2)
    )
    labels = torch.arange(IDENTITIES, device=device)
    stored = SimpleNamespace(extract=lambda **_: Pairs(visible, infrared, labels))
    return PromptStage(method.model, stored, method.runtime), labels[:_PAIRS]


def _views(stage: type, method: Method, device: torch.device) -> tuple[Stage, ViewBatch]:
    labels = np.arange(IDENTITIES).repeat(_INSTANCES)
    positions = np.arange(len(labels))
    images = TrainingImages(None, np.arange(IDENTITIES), (positions,) * 2, (labels,) * 2)
    count = _BATCH_IDENTITIES * _INSTANCES
    visible, exchanged, infrared = _random(3, (count, 3, *SIZE), device)
    labels = torch.arange(_BATCH_IDENTITIES, device=device).repeat_interleave(_INSTANCES)
    batch = ViewBatch(visible, exchanged, infrared, labels, 0.0)
    return stage(method.model, images, method.runtime), batch


def _clips(method: Method, device: torch.device) -> tuple[Stage, ClipBatch]:
    labels = np.arange(IDENTITIES)
    tracklets = TrainingTracklets(
        None, labels, (FRAMES * labels,) * 2, (np.full(IDENTITIES, FRAMES),) * 2, (labels,) * 2,
        FrameSampling(FRAMES, "chunks"),
    )  # fmt: skip
    frames = _random(2, (_BATCH_IDENTITIES * FRAMES, 3, *SIZE), device)
    visible, infrared = (part.unflatten(0, (_BATCH_IDENTITIES, FRAMES)) for part in frames)
    batch = ClipBatch(visible, infrared, torch.arange(_BATCH_IDENTITIES, device=device))
    return SequenceStage(method.model, tracklets, method.runtime), batch


def _random(number: int, shape: tuple[int, ...], device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator).to(device, memory_format=torch.channels_last)
        for _ in range(number)
    ]


def _steps(
    name: str, prepare: Prepare, settings: dict, depth: int | None, device: torch.device
) -> Workload:
    pair = method_pair(name, device, settings=settings, depth=depth)
    fused, plain = _runs(pair, prepare, device)
    providers = (
        Provider("fused", "fused", fused), Provider(_REFERENCE, "reference", plain),
    )  # fmt: skip

    def check(outputs: dict[str, Tensor]) -> None:
        # Sums of many terms in another order; the losses are of the order of ten.
        torch.testing.assert_close(outputs["fused"], outputs[_REFERENCE], rtol=1e-4, atol=1e-4)

    return Workload(providers, check)


def _runs(pair: MethodPair, prepare: Prepare, device: torch.device) -> list[Run]:
    """Steps of both forms, which share the optimiser, whose state is as large as the weights."""
    stages, optimizer = [], None
    for method in pair:
        torch.manual_seed(0)
        stage, batch = prepare(method, device)
        plan = stage.prepare()
        optimizer = optimizer or build_optimizer(plan.optimizer, plan.groups, 0.0)
        stages.append((stage, batch))
    return [partial(_step, *stage, optimizer) for stage in stages]


def _step(stage: Stage, batch: object, optimizer: torch.optim.Optimizer) -> Tensor:
    """One optimisation step; returns the loss."""
    # Both forms draw the same dropout.
    torch.manual_seed(0)
    loss = stage.step(batch)["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def _training(prepare: Prepare) -> Prepare:
    """A stage whose epoch has begun."""

    def begun(method: Method, device: torch.device) -> tuple[Stage, object]:
        stage, batch = prepare(method, device)
        return _Begun(stage, method), batch

    return begun


class _Begun:
    """A stage that enters its first epoch when it is prepared; no image is read."""

    def __init__(self, stage: Stage, method: Method) -> None:
        self._stage, self._method = stage, method
        self.step = stage.step

    def prepare(self) -> object:
        """See `Stage.prepare`."""
        plan = self._stage.prepare()
        self._stage.batches(0)
        self._method.model.train()
        return plan


def _case(
    method: str, name: str, shape: str, prepare: Prepare, settings: dict = _IMAGES, *,
    depth: int | None = None, **options: Any,
) -> Case:  # fmt: skip
    return Case(
        "method_steps", NAMES[method], name, shape,
        partial(_steps, method, prepare, settings, depth), graphs=False, **options,
    )  # fmt: skip


_VIEWS = f"{_BATCH_IDENTITIES} identities x {_INSTANCES} x 3 x {SIZE[0]} x {SIZE[1]}"
_CLIP = f"{_BATCH_IDENTITIES} identities x {FRAMES} frames x {SIZE[0]} x {SIZE[1]}"
_PROMPT_SETTINGS = {**_IMAGES, "csdn": {"prompts": {"batch_size": _PAIRS}}}
_BUDGET = Budget(seconds=12.0)
# Steps of seconds.
_FEW_ROUNDS = Budget(seconds=20.0, least_rounds=2)
CASES = (
    _case(
        "csdn", "stage 1, 64 prompts", f"{_PAIRS} images a modality", _prompts, _PROMPT_SETTINGS,
        budget=_BUDGET, memory=("fused", _REFERENCE),
    ),
    _case(
        "csdn", "stage 3, 12 images", _VIEWS, _training(partial(_views, VisualStage)),
        budget=_BUDGET,
    ),
    _case(
        "clip4vi_reid", "HSA, 12 images", _VIEWS, _training(partial(_views, AlignmentStage)),
        budget=_BUDGET,
    ),
    _case(
        "clip_mc", "joint, 12 images", _VIEWS, _training(partial(_views, JointStage)),
        budget=_FEW_ROUNDS,
    ),
    _case(
        "lsmrl", f"sequence, {_CPU_DEPTH} of 12 blocks", _CLIP, _training(_clips), _SHALLOW,
        depth=_CPU_DEPTH, devices=("cpu",), budget=_FEW_ROUNDS,
    ),
    _case("lsmrl", "sequence", _CLIP, _training(_clips), _CLIPS, devices=("cuda",)),
)  # fmt: skip
