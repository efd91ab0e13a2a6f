"""Readers of text towers: ours, OpenAI's and Hugging Face's as one kind of view."""

import inspect

import torch
from torch import Tensor, nn

from vireid_fast._checks import sentence
from vireid_fast.nn.text_tower_view import BlockView, TowerView
from vireid_fast.nn.tower_structure import (
    check_causal_mask,
    check_linear,
    check_parts,
    has_parts,
    read_activation,
    read_packed_heads,
)

# Size of CLIP's byte-pair vocabulary; its last id is end of text (openai/CLIP@d05afc4).
_CLIP_VOCABULARY = 49408
# Old Hugging Face configurations name this id, and their models read the largest id of a text
# (huggingface/transformers#24773).
_LEGACY_EOS = 2


def view_tower(tower: nn.Module) -> TowerView:
    """Read a text tower.

    Args:
        tower: `clip.TextTower`; a module with the text parts of OpenAI's CLIP
            (`transformer.resblocks`, `ln_final`, `positional_embedding`, perhaps `text_projection`
            and `token_embedding`); or Hugging Face's `CLIPTextModel`,
            `CLIPTextModelWithProjection` or `CLIPModel`.

    Raises:
        NotImplementedError: None of these.
    """
    if has_parts(tower, "transformer.resblocks", "ln_final", "positional_embedding"):
        return _view_resblocks(tower)
    if has_parts(_huggingface_core(tower), "embeddings.position_embedding", "encoder.layers"):
        return _view_huggingface(tower)
    raise NotImplementedError(
        sentence(
            "view_tower",
            "tower",
            "have transformer.resblocks, ln_final and positional_embedding (OpenAI's CLIP), or be "
            "a CLIP text model of Hugging Face",
            type(tower).__name__,
            "Call the tower itself.",
        )
    )


def _view_resblocks(tower: nn.Module) -> TowerView:
    problems: list[str] = []
    not_causal: list[str] = []
    stack = list(tower.transformer.resblocks)
    if not stack:
        problems.append("unknown structure: transformer.resblocks is empty")
    # Our blocks are told to be causal by an argument, OpenAI's hold the mask.
    ours = bool(stack) and "causal" in inspect.signature(stack[0].forward).parameters
    blocks = []
    for index, block in enumerate(stack):
        name = f"transformer.resblocks.{index}"
        if not ours:
            mask = getattr(block, "attn_mask", None)
            check_causal_mask(name, mask, len(tower.positional_embedding), not_causal)
        blocks.append(_read_resblock(name, block, problems))
    if ours:
        run = _run_ours
    else:
        batch_first = all(getattr(getattr(b, "attn", None), "batch_first", False) for b in stack)
        run = _run_batch_first if batch_first else _run_sequence_first
    table = getattr(tower, "token_embedding", None)
    known = isinstance(table, nn.Embedding) and table.num_embeddings == _CLIP_VOCABULARY
    return TowerView(
        tower=tower, stack=tower.transformer, stack_name="transformer",
        norm=tower.ln_final, norm_name="ln_final", positions_of=_resblocks_positions, run=run,
        token_embedding=table, eot_id=_CLIP_VOCABULARY - 1 if known else None,
        blocks=tuple(block for block in blocks if block is not None),
        unclear=tuple(problems), not_causal=tuple(not_causal),
    )  # fmt: skip


def _read_resblock(name: str, block: nn.Module, problems: list[str]) -> BlockView | None:
    if not check_parts(name, block, ("attn", "ln_1", "mlp", "ln_2"), problems):
        return None
    before = len(problems)
    attention, mlp = block.attn, block.mlp
    heads = read_packed_heads(f"{name}.attn", attention, problems)
    activation = read_activation(f"{name}.mlp", mlp, ("c_fc", "c_proj"), problems)
    if len(problems) > before:
        return None
    return BlockView(
        attention=attention, heads=heads, norm_1=block.ln_1, norm_2=block.ln_2,
        out=attention.out_proj, widen=mlp.c_fc, activation=activation, narrow=mlp.c_proj,
    )  # fmt: skip


def _view_huggingface(tower: nn.Module) -> TowerView:
    core = _huggingface_core(tower)
    problems: list[str] = []
    if not len(core.encoder.layers):
        problems.append("unknown structure: encoder.layers is empty")
    not_causal = []
    if getattr(core.config, "is_causal", True) is False:
        not_causal.append("no causal mask: config.is_causal is False")
    eos = core.config.eos_token_id
    if not isinstance(eos, int):
        problems.append(f"EOT is unknown: config.eos_token_id is {eos}")
    blocks = [
        _read_huggingface_layer(f"encoder.layers.{index}", layer, problems)
        for index, layer in enumerate(core.encoder.layers)
    ]
    return TowerView(
        tower=tower, stack=core.encoder, stack_name="encoder",
        norm=core.final_layer_norm, norm_name="final_layer_norm",
        positions_of=_huggingface_positions, run=_run_huggingface,
        token_embedding=core.embeddings.token_embedding,
        eot_id=None if eos == _LEGACY_EOS else eos,
        blocks=tuple(block for block in blocks if block is not None),
        unclear=tuple(problems), not_causal=tuple(not_causal),
    )  # fmt: skip


def _read_huggingface_layer(name: str, layer: nn.Module, problems: list[str]) -> BlockView | None:
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    if not (
        check_parts(name, layer, ("self_attn", "layer_norm1", "mlp", "layer_norm2"), problems)
        and check_parts(f"{name}.self_attn", layer.self_attn, projections, problems)
    ):
        return None
    before = len(problems)
    attention, mlp = layer.self_attn, layer.mlp
    for part in projections:
        check_linear(f"{name}.self_attn.{part}", getattr(attention, part), problems)
    activation = read_activation(f"{name}.mlp", mlp, ("fc1", "fc2"), problems)
    if len(problems) > before:
        return None
    return BlockView(
        attention=attention, heads=attention.num_heads, norm_1=layer.layer_norm1,
        norm_2=layer.layer_norm2, out=attention.out_proj, widen=mlp.fc1, activation=activation,
        narrow=mlp.fc2,
    )  # fmt: skip


def _resblocks_positions(tower: nn.Module) -> Tensor:
    return tower.positional_embedding


def _huggingface_core(tower: nn.Module) -> nn.Module:
    while not hasattr(tower, "embeddings") and isinstance(
        getattr(tower, "text_model", None), nn.Module
    ):
        tower = tower.text_model
    return tower


def _huggingface_positions(tower: nn.Module) -> Tensor:
    return _huggingface_core(tower).embeddings.position_embedding.weight


def _run_ours(tower: nn.Module, x: Tensor) -> Tensor:
    return tower.transformer(x, causal=True)


def _run_batch_first(tower: nn.Module, x: Tensor) -> Tensor:
    return tower.transformer(x)


def _run_sequence_first(tower: nn.Module, x: Tensor) -> Tensor:
    return tower.transformer(x.transpose(0, 1)).transpose(0, 1)


def _run_huggingface(tower: nn.Module, x: Tensor) -> Tensor:
    length = x.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    # An additive mask is what every attention implementation of the encoder takes.
    mask = torch.zeros(length, length, dtype=x.dtype, device=x.device).masked_fill(
        later, torch.finfo(x.dtype).min
    )
    hidden = _huggingface_core(tower).encoder(
        inputs_embeds=x, attention_mask=mask.expand(len(x), 1, length, length)
    )
    return hidden.last_hidden_state
