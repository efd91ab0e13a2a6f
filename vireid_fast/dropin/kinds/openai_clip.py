"""OpenAI's CLIP: `encode_text` on the tokens that are read."""

from typing import Any

import torch
from torch import Tensor, nn

from vireid_fast.dropin.kinds.base import Kind, Probe, tensor_result
from vireid_fast.dropin.kinds.text_state import TextState, clip_text_modules, text_state
from vireid_fast.dropin.swap import FastModule


class FastCLIP(FastModule):
    """Encodes texts up to EOT, equal beginnings once."""

    def encode_text(self, text: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Features of token ids (B, context length), shape (B, d)."""
        state: TextState = self._fast
        whole = text.dim() == 2 and text.shape[1] == self.positional_embedding.shape[0]
        if not args and not kwargs and whole and state.is_valid(clip_text_modules(self)):
            features = state.encode_tokens(text)
            if features is not None:
                return features
        return super().encode_text(text, *args, **kwargs)


def _matches(module: nn.Module) -> bool:
    return (
        callable(getattr(type(module), "encode_text", None))
        and isinstance(getattr(module, "token_embedding", None), nn.Embedding)
        and isinstance(getattr(module, "positional_embedding", None), nn.Parameter)
        and isinstance(getattr(module, "ln_final", None), nn.Module)
        and hasattr(getattr(module, "transformer", None), "resblocks")
    )


def _prepare(module: nn.Module, _: nn.Module) -> TextState:
    return text_state(module, clip_text_modules(module))


def _probes(module: nn.Module) -> list[Probe]:
    length = module.positional_embedding.shape[0]
    last = module.token_embedding.num_embeddings - 1
    ids = torch.zeros(2, length, dtype=torch.int64)
    for row, eot in enumerate((max(1, length // 3), max(1, length // 2))):
        ids[row, :eot] = torch.arange(eot) % max(1, last) + row
        ids[row].clamp_(max=last - 1)
        ids[row, eot] = last
    return [("encode_text", (ids.to(module.positional_embedding.device),), {})]


OPENAI_CLIP = Kind(
    name="CLIP",
    detail="encode_text stops at EOT, computes equal beginnings once and EOT alone at the end",
    methods=("encode_text",),
    fast=FastCLIP,
    matches=_matches,
    prepare=_prepare,
    probes=_probes,
    result=tensor_result,
    inner=clip_text_modules,
)
