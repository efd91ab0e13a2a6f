"""Somebody else's model, stock against `accelerate`: the text side of CLIP-ReID's stage 1.

RN50's text tower, 64 prompts "A photo of a X X X X person."; the gradient of the learned tokens.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from baselines.clip_reid import TextSide
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload
from vireid_fast import accelerate
from vireid_fast.clip.architectures import architecture
from vireid_fast.clip.templates import TEMPLATES
from vireid_fast.testing import assert_error_budget, make_features

_PROMPTS, _CLASSES = 64, 395
_GATE_PROMPTS = 3
_STOCK = "stock modules"
# What the shortcut is to give over 77 tokens, and the peak memory of it.
_TARGET, _MEMORY_TARGET = 9.0, 5.0


def _text_side(device: torch.device) -> Workload:
    stock = _stock_model(device)
    # The weights are frozen and large, so both models share them.
    shared = {id(tensor): tensor for tensor in (*stock.parameters(), *stock.buffers())}
    fast = copy.deepcopy(stock, shared)
    report = accelerate(fast)
    assert len(report.replaced) == 2, str(report)
    dtype = next(stock.parameters()).dtype
    labels = torch.randperm(_CLASSES, generator=torch.Generator().manual_seed(0))[:_PROMPTS]
    labels = labels.to(device)
    grad = make_features(_PROMPTS, architecture("RN50").joint_width, dtype=dtype, device=device)
    providers = (
        Provider("fused", "fused", partial(_directed, fast, labels, grad)),
        Provider(
            _STOCK, "peer", partial(_directed, stock, labels, grad),
            target=_TARGET, memory_target=_MEMORY_TARGET,
        ),
    )  # fmt: skip

    def check(outputs: dict[str, tuple[Tensor, ...]]) -> None:
        few = labels[:_GATE_PROMPTS]
        exact, plain = (
            _directed(copy.deepcopy(stock).to(t), few, grad[:_GATE_PROMPTS].to(t))
            for t in (torch.float64, dtype)
        )
        for features, gradient in outputs.values():
            assert_error_budget(features[:_GATE_PROMPTS], plain[0], exact[0])
            assert_error_budget(gradient[few], plain[1][few], exact[1][few])

    return Workload(providers, check)


def _stock_model(device: torch.device) -> TextSide:
    torch.manual_seed(0)
    sizes, template = architecture("RN50"), TEMPLATES["person"]
    ids = torch.zeros(1, sizes.context_length, dtype=torch.int64)
    ids[0, : template.length] = torch.tensor(template.token_ids)
    model = TextSide(
        ids.to(device), template.context_start, _CLASSES, width=sizes.text_width,
        layers=sizes.text_layers, heads=sizes.text_heads, output=sizes.joint_width,
    )  # fmt: skip
    return model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)


def _directed(
    model: Callable[[Tensor], Tensor], labels: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Features and the gradient of the learned tokens."""
    features = model(labels)
    context = model.prompt_learner.cls_ctx
    return features.detach(), torch.autograd.grad(features, context, grad)[0]


CASES = tuple(
    Case(
        "accelerate", "accelerate", f"CLIP-ReID's text side, {_PROMPTS} prompts",
        f"{_PROMPTS} x 77 x 512, forward + backward", _text_side, dtype=dtype,
        devices=(device,), budget=Budget(seconds=12.0), memory=("fused", _STOCK), graphs=False,
    )
    for device, dtype in (("cpu", "float32"), ("cuda", "bfloat16"))
)  # fmt: skip
