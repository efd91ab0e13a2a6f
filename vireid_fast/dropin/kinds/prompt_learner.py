"""CLIP-ReID's prompt learner: prompts written in one pass."""

from typing import Any

import torch
from torch import Tensor, nn

from vireid_fast._checks import may_read_values
from vireid_fast.dropin.guards import positional_arguments
from vireid_fast.dropin.kinds.base import Kind, Probe, UnsuitableError, tensor_result
from vireid_fast.dropin.swap import FastModule
from vireid_fast.ops import prompt_injection

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Attribute of prompts: tokens of their frozen prefix, and the version they had then. What is made
# from the prompts, a clone say, does not inherit it.
_FROZEN = "_vireid_frozen_prefix"


class FastPromptLearner(FastModule):
    """Writes prefix, learned tokens and suffix at once; the backward is deterministic."""

    def forward(self, label: Any, *args: Any, **kwargs: Any) -> Any:
        """Prompts of the given identities, shape (B, L, W)."""
        if args or kwargs or not _is_label_list(label, self.cls_ctx):
            return super().forward(label, *args, **kwargs)
        return assemble_prompts(self, label)


def assemble_prompts(learner: nn.Module, label: Tensor) -> Tensor:
    """token_prefix, cls_ctx of each label, token_suffix. Shape (B, L, W)."""
    prefix, context, suffix = learner.token_prefix[0], learner.cls_ctx, learner.token_suffix[0]
    # The context's place is written over.
    gap = prefix.new_zeros(context.shape[1:])
    template = torch.cat([prefix, gap, suffix])
    prompts = prompt_injection(template, torch.zeros_like(template), context, label, len(prefix))
    if prompts.requires_grad and not template.requires_grad and may_read_values():
        setattr(prompts, _FROZEN, (len(prefix), prompts._version))
    return prompts


def frozen_prefix(prompts: Tensor) -> int:
    """Leading tokens that `assemble_prompts` copied from a frozen prefix; 0 if unknown.

    Nobody asks for the gradient of single prompts there, unless the prompts keep theirs.
    """
    count, version = getattr(prompts, _FROZEN, (0, None))
    kept = prompts.retains_grad or bool(prompts._backward_hooks)
    return 0 if kept or version != prompts._version else count


def _is_label_list(label: object, context: Tensor) -> bool:
    fits = (
        isinstance(label, Tensor)
        and label.dtype == torch.int64
        and label.dim() == 1
        and label.device == context.device
    )
    if not fits or not may_read_values() or label.numel() == 0:
        return fits
    low, high = (int(value) for value in torch.aminmax(label))
    return low >= 0 and high < context.shape[0]


def _matches(module: nn.Module) -> bool:
    context = getattr(module, "cls_ctx", None)
    buffers = dict(module.named_buffers(recurse=False))
    return (
        isinstance(context, nn.Parameter)
        and context.dim() == 3
        and {"token_prefix", "token_suffix"} <= buffers.keys()
    )


def _prepare(module: nn.Module, _: nn.Module) -> None:
    context, prefix, suffix = module.cls_ctx, module.token_prefix, module.token_suffix
    if prefix.dim() != 3 or suffix.dim() != 3 or len(prefix) != 1 or len(suffix) != 1:
        raise UnsuitableError("its prefix and suffix are not of shape (1, tokens, width)")
    if len({context.dtype, prefix.dtype, suffix.dtype}) > 1 or context.dtype not in _DTYPES:
        raise UnsuitableError("its tokens are of different or unknown dtypes")
    if positional_arguments(module) != 1:
        raise UnsuitableError("its forward takes something else than the labels")


def _probes(module: nn.Module) -> list[Probe]:
    classes = module.cls_ctx.shape[0]
    labels = torch.tensor([classes - 1, 0, classes // 2, 0], device=module.cls_ctx.device)
    return [("forward", (labels,), {})]


PROMPT_LEARNER = Kind(
    name="prompt learner",
    detail="prompts written in one pass; deterministic gradient of repeated labels",
    methods=("forward",),
    fast=FastPromptLearner,
    matches=_matches,
    prepare=_prepare,
    probes=_probes,
    result=tensor_result,
)
