"""`nn.MultiheadAttention` between two token sets."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from vireid_fast.dropin.guards import attention_problems, positional_arguments, untouched
from vireid_fast.dropin.kinds.base import Kind, Probe, UnsuitableError, tensor_result
from vireid_fast.dropin.probe import random_input
from vireid_fast.dropin.swap import FastModule
from vireid_fast.ops import AttentionIndex, cross_modal_attention

_TORCH_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class FastMultiheadAttention(FastModule):
    """Runs cross attention without weights on the short-sequence kernels."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As in torch; calls with masks or weights, and self-attention, run torch's method."""
        plain = key_padding_mask is None and attn_mask is None and not is_causal
        if need_weights or not plain or not self._covers(query, key, value):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask,
                average_attn_weights, is_causal,
            )  # fmt: skip
        if self.batch_first:
            return self._attend(query, key), None
        return self._attend(query.transpose(0, 1), key.transpose(0, 1)).transpose(0, 1), None

    def _covers(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        batch = 0 if self.batch_first else 1
        return (
            key is value
            and query is not key
            and not (self.training and self.dropout > 0)
            and query.dim() == key.dim() == 3
            and not query.is_nested
            and not key.is_nested
            and query.numel() > 0
            and key.numel() > 0
            and query.shape[batch] == key.shape[batch]
            and query.shape[2] == key.shape[2] == self.embed_dim
            and query.dtype == key.dtype
            and untouched((self.out_proj,))
        )

    def _attend(self, query: Tensor, key: Tensor) -> Tensor:
        """Cross attention of (B, L, E) over (B, S, E)."""
        (batch, length, width), keys = query.shape, key.shape[1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        asked = F.linear(query, weight[:width], None if bias is None else bias[:width])
        packed = F.linear(key, weight[width:], None if bias is None else bias[width:])
        heads = (self.num_heads, self.head_dim)
        # (rows, 2, H, D): key and value stay views of the one projection.
        read, summed = packed.reshape(batch * keys, 2, *heads).unbind(1)
        index = AttentionIndex.pairs([length] * batch, [keys] * batch, asked.device)
        rows = asked.reshape(batch * length, *heads)
        mixed = cross_modal_attention(rows, read, summed, index)
        return self.out_proj(mixed.reshape(batch, length, width))


def self_attentions(model: nn.Module) -> set[nn.Module]:
    """Attentions in `model` that their blocks use on one token set; they are no concern here."""
    found = set()
    for block in model.modules():
        if isinstance(block, _TORCH_LAYERS):
            found.add(block.self_attn)
        elif hasattr(block, "ln_1") and hasattr(block, "mlp") and positional_arguments(block) == 1:
            found |= {m for m in block.children() if isinstance(m, nn.MultiheadAttention)}
    return found


def _matches(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention)


def _prepare(module: nn.Module, _: nn.Module) -> None:
    problems = attention_problems(module)
    if problems:
        raise UnsuitableError("; ".join(problems))


def _probes(module: nn.Module) -> list[Probe]:
    like = module.in_proj_weight
    query, key = (random_input(2, n, module.embed_dim, like=like) for n in (3, 5))
    if not module.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    return [("forward", (query, key, key), {"need_weights": False})]


def _result(value: Any) -> Tensor:
    return tensor_result(value[0])


CROSS_ATTENTION = Kind(
    name="cross attention",
    detail="calls without mask, weights or active dropout, where key is value; others as before",
    methods=("forward",),
    fast=FastMultiheadAttention,
    matches=_matches,
    prepare=_prepare,
    probes=_probes,
    result=_result,
)
