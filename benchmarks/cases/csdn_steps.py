"""Whole training steps of CSDN on RN50: the losses, their gradients, Adam.

The configuration is the published one (configs/csdn/sysu_mm01.yaml) with 64 identities, on random
weights and images; `backend: reference` replaces every kernel and every shortcut by plain torch.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload
from vireid_fast.clip import build_clip
from vireid_fast.config import Config, config_from_dict
from vireid_fast.engine.clip_setup import Backbone
from vireid_fast.engine.methods.csdn import CSDNMethod, PromptStage, VisualStage
from vireid_fast.engine.optim import build_optimizer
from vireid_fast.engine.stage import Stage
from vireid_fast.engine.training_data import TrainingImages

_IDENTITIES = 64
_SIZE = (288, 144)
_JOINT = 1024
_PAIRS = 32  # one prompt a modality each, so 64 prompts
_BATCH_IDENTITIES, _INSTANCES = 2, 2
Run = Callable[[], Tensor]


def _config(backend: str, device: torch.device) -> Config:
    return config_from_dict(
        {
            "backend": backend, "device": device.type,
            "data": {"height": _SIZE[0], "width": _SIZE[1]},
            "clip": {"architecture": "RN50", "layer4_stride": 1},
            "sampler": {"identities": _BATCH_IDENTITIES, "instances": _INSTANCES},
            "csdn": {"prompts": {"batch_size": _PAIRS}},
        }
    )  # fmt: skip


def _method(backend: str, device: torch.device) -> CSDNMethod:
    """The same weights for every backend."""
    torch.manual_seed(0)
    clip = build_clip("RN50", image_size=_SIZE, layer4_stride=1)
    backbone = Backbone(clip.to(memory_format=torch.channels_last), None)
    return CSDNMethod(_config(backend, device), backbone, _IDENTITIES)


def _prompt_step(backend: str, device: torch.device) -> Run:
    method = _method(backend, device)
    generator = torch.Generator().manual_seed(0)
    # Projected features of CLIP have a length of about ten.
    visible, infrared = (
        (0.3 * torch.randn(_IDENTITIES, _JOINT, generator=generator)).to(device) for _ in range(2)
    )
    labels = torch.arange(_IDENTITIES, device=device)
    pairs = SimpleNamespace(visible=visible, infrared=infrared, labels=labels)
    stored = SimpleNamespace(extract=lambda **_: pairs)
    return _step(PromptStage(method.model, stored, method.config), labels[:_PAIRS])


def _visual_step(backend: str, device: torch.device) -> Run:
    method = _method(backend, device)
    labels = np.arange(_IDENTITIES).repeat(_INSTANCES)
    positions = np.arange(len(labels))
    images = TrainingImages(None, np.arange(_IDENTITIES), (positions,) * 2, (labels,) * 2)
    stage = VisualStage(method.model, images, method.config)
    generator = torch.Generator().manual_seed(0)
    count = _BATCH_IDENTITIES * _INSTANCES
    views = [
        torch.randn(count, 3, *_SIZE, generator=generator)
        .to(device, memory_format=torch.channels_last)
        for _ in range(3)
    ]  # fmt: skip
    batch_labels = torch.arange(_BATCH_IDENTITIES, device=device).repeat_interleave(_INSTANCES)
    batch = SimpleNamespace(
        visible=views[0], exchanged=views[1], infrared=views[2], labels=batch_labels, progress=0.0
    )
    run = _step(stage, batch)
    method.model.train()
    return run


def _step(stage: Stage, batch: object) -> Run:
    """One optimisation step; returns the loss before it."""
    plan = stage.prepare()
    optimizer = build_optimizer(plan.optimizer, plan.groups, plan.schedule.rate(0))

    def run() -> Tensor:
        optimizer.zero_grad()
        loss = stage.step(batch)["loss"]
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def _steps(make: Callable[[str, torch.device], Run], device: torch.device) -> Workload:
    providers = (
        Provider("fused", "fused", make("fused", device)),
        Provider("references", "reference", make("reference", device)),
    )

    def check(outputs: dict[str, Tensor]) -> None:
        # Sums of many terms in another order; the losses are of the order of ten.
        torch.testing.assert_close(outputs["fused"], outputs["references"], rtol=1e-4, atol=1e-4)

    return Workload(providers, check)


CASES = (
    Case(
        "csdn_steps", "CSDN", "stage 1, 64 prompts", f"{_PAIRS} images a modality",
        partial(_steps, _prompt_step), budget=Budget(seconds=20.0),
        memory=("fused", "references"), graphs=False,
    ),
    Case(
        "csdn_steps", "CSDN", "stage 3, 12 images",
        f"{_BATCH_IDENTITIES} identities x {_INSTANCES} x 3 x {_SIZE[0]} x {_SIZE[1]}",
        partial(_steps, _visual_step), budget=Budget(seconds=20.0),
        memory=("fused", "references"), graphs=False,
    ),
)  # fmt: skip
