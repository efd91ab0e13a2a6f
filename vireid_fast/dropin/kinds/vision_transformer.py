"""OpenAI's vision transformer: the last block for the class token alone."""

from typing import Any

import torch
from torch import Tensor, nn

from vireid_fast.dropin.guards import active_dropout, attention_problems, untouched
from vireid_fast.dropin.kinds.base import Kind, Probe, UnsuitableError, tensor_result
from vireid_fast.dropin.probe import random_input
from vireid_fast.dropin.swap import FastModule
from vireid_fast.nn.one_query_attention import first_token_of_block, unpack_projections

_BLOCK = {"attn", "ln_1", "mlp", "ln_2"}
_PARTS = ("conv1", "ln_pre", "transformer", "ln_post")


class FastVisionTransformer(FastModule):
    """Runs the last block for the class token alone."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Encode images of shape (B, 3, H, W) to (B, d)."""
        blocks = self.transformer.resblocks
        passed_by = (self.transformer, blocks, *blocks[-1].modules())
        if args or kwargs or not untouched(passed_by):
            return super().forward(x, *args, **kwargs)
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([first, patches], dim=1)
        tokens = self.ln_pre(tokens + self.positional_embedding.to(tokens.dtype))
        sequences_first = blocks[-1].attn.batch_first
        # OpenAI's blocks take (L, B, W).
        tokens = tokens if sequences_first else tokens.transpose(0, 1)
        for block in blocks[:-1]:
            tokens = block(tokens)
        tokens = tokens if sequences_first else tokens.transpose(0, 1)
        pooled = self.ln_post(_class_token(blocks[-1], tokens))
        return pooled if self.proj is None else pooled @ self.proj


def _class_token(block: nn.Module, tokens: Tensor) -> Tensor:
    """First row of a block's output, from tokens (B, L, W); shape (B, W)."""
    attention = block.attn
    projections = unpack_projections(attention.in_proj_weight, attention.in_proj_bias)
    return first_token_of_block(
        tokens, block.ln_1, projections, attention.num_heads, attention.out_proj,
        block.ln_2, block.mlp,
    )  # fmt: skip


def _matches(module: nn.Module) -> bool:
    return (
        all(isinstance(getattr(module, name, None), nn.Module) for name in _PARTS)
        and isinstance(getattr(module, "class_embedding", None), nn.Parameter)
        and isinstance(getattr(module, "positional_embedding", None), nn.Parameter)
        and hasattr(module, "proj")
        and isinstance(getattr(module.transformer, "resblocks", None), nn.Module)
    )


def _prepare(module: nn.Module, _: nn.Module) -> None:
    if active_dropout(module):
        raise UnsuitableError("it has dropout")
    blocks = module.transformer.resblocks
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or not len(blocks):
        raise UnsuitableError("its blocks are no list")
    last = blocks[-1]
    if {name for name, _ in last.named_children()} != _BLOCK:
        raise UnsuitableError("its last block has other parts than attn, ln_1, mlp and ln_2")
    attention = last.attn
    plain = (
        isinstance(attention, nn.MultiheadAttention)
        and not attention_problems(attention)
        and attention.in_proj_bias is not None
    )
    if not plain:
        raise UnsuitableError("its last block has an attention of another form")
    if getattr(last, "attn_mask", None) is not None:
        raise UnsuitableError("its last block has an attention mask")


def _probes(module: nn.Module) -> list[Probe]:
    weight = module.conv1.weight
    images = random_input(2, weight.shape[1], *_image_size(module), like=weight)
    return [("forward", (images,), {})]


def _image_size(module: nn.Module) -> tuple[int, int]:
    """Some image size that has as many patches as there are positions."""
    patches = module.positional_embedding.shape[0] - 1
    kernel, stride = module.conv1.kernel_size, module.conv1.stride
    side = int(patches**0.5)
    while patches % side:
        side -= 1
    rows, columns = patches // side, side
    return (rows - 1) * stride[0] + kernel[0], (columns - 1) * stride[1] + kernel[1]


def _result(value: Any) -> Tensor:
    if isinstance(value, tuple | list):
        raise UnsuitableError("it returns more than the class feature, so all tokens are read")
    feature = tensor_result(value)
    if feature.dim() == 3:
        raise UnsuitableError("it returns all tokens")
    return feature


VISION_TRANSFORMER = Kind(
    name="vision transformer",
    detail="last block for the class token alone",
    methods=("forward",),
    fast=FastVisionTransformer,
    matches=_matches,
    prepare=_prepare,
    probes=_probes,
    result=_result,
)
