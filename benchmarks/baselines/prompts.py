"""Peers of the text side: tokens by cat and add, the 77-token tower, transformers' CLIP."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vireid_fast.clip.text import TextTower


class Prompts(NamedTuple):
    """A template embedded, positions, and learned tokens per class that replace a part of it."""

    template: Tensor
    positions: Tensor
    context: Tensor
    labels: Tensor
    start: int


def cat_tokens(prompts: Prompts) -> Tensor:
    """Template and learned tokens joined as CoOp and CLIP-ReID do, before positions."""
    template, context, start = prompts.template, prompts.context, prompts.start
    count = prompts.labels.shape[0]
    prefix = template[:start].expand(count, -1, -1)
    suffix = template[start + context.shape[1] :].expand(count, -1, -1)
    return torch.cat([prefix, context[prompts.labels], suffix], dim=1)


def cat_and_add(
    template: Tensor, positions: Tensor, context: Tensor, labels: Tensor, start: int
) -> Tensor:
    """Prompts as CoOp builds them: prefix, context and suffix joined, positions added."""
    return cat_tokens(Prompts(template, positions, context, labels, start)) + positions


def cat_add_and_cast(
    template: Tensor, positions: Tensor, context: Tensor, labels: Tensor, start: int,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """`cat_and_add` whose result goes into a half-precision tower."""
    return cat_and_add(template, positions, context, labels, start).to(dtype)


def insert_add_and_normalize(
    stream: Tensor, tokens: Tensor, residual: Tensor, weight: Tensor, bias: Tensor,
    labels: Tensor, start: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Tokens of each item's class go into its stream, then the residual and the LayerNorm."""
    if tokens.shape[1]:
        parts = [stream[:, :start], tokens[labels], stream[:, start:]]
        stream = torch.cat(parts, dim=1)
    stream = stream + residual
    return stream, F.layer_norm(stream, stream.shape[-1:], weight, bias)


def encode_all_tokens(tower: TextTower, prompts: Prompts, eot: int) -> Tensor:
    """Text features by every token of the context length, as CLIP's own code computes them."""
    # A tensor of positions keeps the tower from stopping at EOT.
    rows = torch.full_like(prompts.labels, eot)
    return tower.encode_embeddings(cat_and_add(*prompts), rows)


class _LearnedTokens(nn.Module):
    """Stands in for a token embedding: returns the prompts, whatever the ids."""

    def forward(self, ids: Tensor) -> Tensor:
        return cat_tokens(self.prompts)


class TransformersTower:
    """`CLIPTextModelWithProjection` with the weights of a tower of ours; downloads nothing.

    Args:
        tower: With "quick_gelu" and CLIP's special tokens.
        heads: Its number of heads.
        eot_id: Token id of EOT.

    Raises:
        ImportError: transformers is absent. RuntimeError: Its release has other parameters.
    """

    def __init__(self, tower: TextTower, heads: int, eot_id: int) -> None:
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        blocks = tower.transformer.resblocks
        config = CLIPTextConfig(
            vocab_size=tower.token_embedding.num_embeddings, hidden_size=tower.width,
            intermediate_size=4 * tower.width, num_hidden_layers=len(blocks),
            num_attention_heads=heads, max_position_embeddings=tower.context_length,
            projection_dim=tower.text_projection.shape[1], hidden_act="quick_gelu",
            bos_token_id=eot_id - 1, eos_token_id=eot_id,
        )  # fmt: skip
        self._model = CLIPTextModelWithProjection(config).eval().requires_grad_(False)
        self._model.load_state_dict(_transformers_names(tower))
        self._model.to(tower.text_projection.device)
        self._tokens = _LearnedTokens()
        self._model.get_input_embeddings()  # raises here if the layout ever changes
        self._model.set_input_embeddings(self._tokens)

    def __call__(self, prompts: Prompts, ids: Tensor) -> Tensor:
        """Features (B, d) of prompts, whose EOT transformers finds in `ids` (B, 77)."""
        self._tokens.prompts = prompts
        return self._model(input_ids=ids).text_embeds


def _transformers_names(tower: TextTower) -> dict[str, Tensor]:
    names = {
        "text_model.embeddings.token_embedding.weight": tower.token_embedding.weight,
        "text_model.embeddings.position_embedding.weight": tower.positional_embedding,
        "text_projection.weight": tower.text_projection.T,
    }
    for kind, tensor in tower.ln_final.named_parameters():
        names[f"text_model.final_layer_norm.{kind}"] = tensor
    for number, block in enumerate(tower.transformer.resblocks):
        own = f"text_model.encoder.layers.{number}"
        parts = {
            "layer_norm1": block.ln_1, "layer_norm2": block.ln_2, "mlp.fc1": block.mlp.c_fc,
            "mlp.fc2": block.mlp.c_proj, "self_attn.out_proj": block.attn.out_proj,
        }  # fmt: skip
        for name, module in parts.items():
            for kind, tensor in module.named_parameters():
                names[f"{own}.{name}.{kind}"] = tensor
        for kind in ("weight", "bias"):
            packed = getattr(block.attn, f"in_proj_{kind}")
            for name, tensor in zip(("q_proj", "k_proj", "v_proj"), packed.chunk(3), strict=True):
                names[f"{own}.self_attn.{name}.{kind}"] = tensor
    return {name: tensor.detach() for name, tensor in names.items()}
