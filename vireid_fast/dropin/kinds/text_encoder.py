"""The TextEncoder of CoOp and CLIP-ReID: prompts given as embeddings."""

from typing import Any

import torch
from torch import Tensor, nn

from vireid_fast._checks import may_read_values
from vireid_fast.dropin.guards import positional_arguments
from vireid_fast.dropin.kinds.base import Kind, Probe, UnsuitableError, tensor_result
from vireid_fast.dropin.kinds.prompt_learner import frozen_prefix
from vireid_fast.dropin.kinds.text_state import EotCache, TextState, clip_text_modules, text_state
from vireid_fast.dropin.probe import random_input
from vireid_fast.dropin.swap import FastModule

_PARTS = ("positional_embedding", "ln_final", "text_projection")


class FastTextEncoder(FastModule):
    """Encodes prompts up to EOT, and what all of them begin with once."""

    def forward(self, prompts: Tensor, tokenized_prompts: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Features of prompts (B, L, W), shape (B, d)."""
        state: TextState = self._fast
        if not args and not kwargs and state.is_valid(clip_text_modules(self)):
            features = encode_prompts(self, state, prompts, tokenized_prompts)
            if features is not None:
                return features
        return super().forward(prompts, tokenized_prompts, *args, **kwargs)


def encode_prompts(
    tower: nn.Module, state: TextState, prompts: Tensor, tokenized_prompts: Tensor
) -> Tensor | None:
    """Features of prompts read at the largest id of `tokenized_prompts`; None if not possible.

    Args:
        tower: Holds `transformer`, `positional_embedding`, `ln_final`, `text_projection` and
            perhaps `dtype`.
        state: Encoder over the tower.
        prompts: Token embeddings without positions. Shape (B, context length, W).
        tokenized_prompts: Token ids, one row for all prompts or one each.
    """
    positions = tower.positional_embedding
    if prompts.dim() != 3 or prompts.shape[1:] != positions.shape:
        return None
    if tokenized_prompts.dim() != 2 or tokenized_prompts.shape[0] not in (1, len(prompts)):
        return None
    places = eot_places(state, tokenized_prompts)
    if places is None or max(places, default=0) >= prompts.shape[1]:
        return None
    length = max(places, default=0) + 1
    x = prompts[:, :length] + positions[:length].type(tower_dtype(tower))
    if len(set(places)) == 1:
        shared = min(shared_prefix(state.learners, prompts), length - 1)
        return state.encode_embeddings(x, length - 1, shared)
    return state.encode_embeddings(x, torch.tensor(places, device=x.device), 0)


def tower_dtype(tower: nn.Module) -> torch.dtype:
    """Dtype of the tower's tokens: what it says, else that of its positions."""
    return getattr(tower, "dtype", tower.positional_embedding.dtype)


def eot_places(state: TextState, ids: Tensor) -> tuple[int, ...] | None:
    """Place of the largest id of each row; None if it cannot be read on the host now."""
    known = state.eot
    if not may_read_values():
        return known.places if known is not None and known.ids is ids else None
    if ids.is_inference():
        return tuple(ids.argmax(dim=-1).tolist())
    if known is None or known.ids is not ids or known.version != ids._version:
        known = state.eot = EotCache(ids, ids._version, tuple(ids.argmax(dim=-1).tolist()))
    return known.places


def shared_prefix(learners: tuple[nn.Module, ...], prompts: Tensor) -> int:
    """How many leading tokens all prompts have in common, as far as it is known and exact.

    Shared tokens are computed from the first prompt, which gets the gradient of all. So prompts
    that want a gradient must come from a prompt learner that made them of a frozen prefix. Others
    are compared by value with the learners' prefixes in each call, since other code may have
    written them.
    """
    if not may_read_values():
        return 0
    if prompts.requires_grad and torch.is_grad_enabled():
        return frozen_prefix(prompts)
    for learner in learners:
        prefix = learner.token_prefix[:1]
        fits = prefix.dtype == prompts.dtype and prefix.device == prompts.device
        if not fits or prefix.requires_grad or prefix.shape[1] > prompts.shape[1]:
            continue
        head = prompts.detach()[:, : prefix.shape[1]]
        if head.shape[2] == prefix.shape[2] and torch.equal(head, prefix.expand_as(head)):
            return prefix.shape[1]
    return 0


def _matches(module: nn.Module) -> bool:
    return (
        all(getattr(module, name, None) is not None for name in _PARTS)
        and hasattr(getattr(module, "transformer", None), "resblocks")
        and not hasattr(module, "token_embedding")
    )


def _prepare(module: nn.Module, model: nn.Module) -> TextState:
    if positional_arguments(module) != 2:
        raise UnsuitableError("its forward does not take prompts and tokenized_prompts")
    state = text_state(module, clip_text_modules(module))
    state.learners = tuple(_siblings(module, model))
    for learner in state.learners:
        ids = getattr(learner, "tokenized_prompts", None)
        if isinstance(ids, Tensor) and ids.dim() == 2 and not ids.is_inference():
            eot_places(state, ids)
    return state


def _siblings(module: nn.Module, model: nn.Module) -> list[nn.Module]:
    """Prompt learners beside the text encoder, in whatever parent holds it."""
    return [
        learner
        for parent in model.modules()
        if any(child is module for child in parent.children())
        for learner in parent.modules()
        if isinstance(getattr(learner, "token_prefix", None), Tensor)
        and learner.token_prefix.dim() == 3
    ]


def _probes(module: nn.Module) -> list[Probe]:
    length, width = module.positional_embedding.shape
    like = module.positional_embedding.new_empty(0, dtype=tower_dtype(module))
    prompts = random_input(2, length, width, like=like)
    one = torch.zeros(1, length, dtype=torch.int64, device=prompts.device)
    one[0, length // 3] = 9
    each = one.repeat(2, 1)
    each[1, length // 2] = 10
    return [("forward", (prompts, one), {}), ("forward", (prompts, each), {})]


TEXT_ENCODER = Kind(
    name="text encoder",
    detail="stops at EOT, computes a known common prefix once and EOT alone at the end",
    methods=("forward",),
    fast=FastTextEncoder,
    matches=_matches,
    prepare=_prepare,
    probes=_probes,
    result=tensor_result,
)
