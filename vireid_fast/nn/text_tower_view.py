"""One way to read text towers of several makes; parameters stay where they are."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vireid_fast._checks import sentence
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


@dataclass(frozen=True)
class BlockView:
    """A pre-norm block: x + out(attention of norm_1(x)), then x + narrow(act(widen(norm_2(x)))).

    Attributes:
        attention: Has `in_proj_weight` and `in_proj_bias`, or `q_proj`, `k_proj` and `v_proj`.
        heads: Number of heads.
        norm_1: Norm before the attention.
        norm_2: Norm before the two linear maps.
        out: Output projection of the attention.
        widen: First linear map.
        activation: Acts on each token on its own.
        narrow: Second linear map.
    """

    attention: nn.Module
    heads: int
    norm_1: nn.Module
    norm_2: nn.Module
    out: nn.Module
    widen: nn.Module
    activation: Callable[[Tensor], Tensor]
    narrow: nn.Module

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of tokens of shape (N, W), each of that shape."""
        attention = self.attention
        if self._packed:
            return F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
        return attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)

    def project_query(self, x: Tensor) -> Tensor:
        """Query alone."""
        if self._packed:
            return F.linear(x, *self._part(slice(None, x.shape[-1])))
        return self.attention.q_proj(x)

    def project_key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value alone."""
        if self._packed:
            return F.linear(x, *self._part(slice(x.shape[-1], None))).chunk(2, dim=-1)
        return self.attention.k_proj(x), self.attention.v_proj(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second half of the block."""
        return x + self.narrow(self.activation(self.widen(self.norm_2(x))))

    @property
    def _packed(self) -> bool:
        return hasattr(self.attention, "in_proj_weight")

    def _part(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        bias = self.attention.in_proj_bias
        return self.attention.in_proj_weight[rows], None if bias is None else bias[rows]


@dataclass(frozen=True)
class TowerView:
    """What the text encoder needs of a tower.

    Attributes:
        tower: The tower.
        stack: The module that holds the blocks.
        stack_name: Its name in the tower, for messages.
        norm: Norm after the last block.
        norm_name: Its name.
        positions_of: Gives the positional embeddings of the tower, shape (context length, W).
        run: Runs the tower's own blocks on (B, context length, W) with its causal mask.
        token_embedding: Table of token embeddings, if the tower has one.
        eot_id: Id of end of text (EOT); None: the largest id of each text.
        blocks: The blocks; incomplete if there are problems.
        unclear: What in the structure is not understood or not known.
        not_causal: Why it is not causal.
    """

    tower: nn.Module
    stack: nn.Module
    stack_name: str
    norm: nn.Module
    norm_name: str
    positions_of: Callable[[nn.Module], Tensor]
    run: Callable[[nn.Module, Tensor], Tensor]
    token_embedding: nn.Module | None
    eot_id: int | None
    blocks: tuple[BlockView, ...]
    unclear: tuple[str, ...]
    not_causal: tuple[str, ...]

    @property
    def positions(self) -> Tensor:
        """Positional embeddings. Shape (context length, W)."""
        return self.positions_of(self.tower)

    @property
    def context_length(self) -> int:
        """Most tokens of a text."""
        return self.positions.shape[0]

    @property
    def width(self) -> int:
        """Token width W."""
        return self.positions.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the linear maps, which the embeddings have as well."""
        return next(p.dtype for p in self.stack.parameters() if p.dim() == 2)

    def embed(self, ids: Tensor, first: int = 0) -> Tensor:
        """Embeddings plus positions of tokens that stand at `first` and after.

        Args:
            ids: Shape (..., L), int64.
            first: Position of the first of the L tokens.

        Returns:
            Shape (..., L, W), in the dtype of the linear maps.
        """
        positions = self.positions[first : first + ids.shape[-1]]
        return self.token_embedding(ids).to(self.dtype) + positions.to(self.dtype)

    def find_eot(self, ids: Tensor) -> Tensor:
        """Index of EOT in each row: where `eot_id` first stands, or the largest id.

        Args:
            ids: Shape (B, L), int64.

        Returns:
            Shape (B,), int64; 0 in rows without `eot_id`.
        """
        return (ids if self.eot_id is None else (ids == self.eot_id).int()).argmax(dim=1)

    def run_plain(self, x: Tensor) -> Tensor:
        """All tokens through the tower's own blocks, padded to the context length.

        Args:
            x: Embeddings plus positions. Shape (B, L, W).

        Returns:
            Shape (B, context length, W), before the last norm.
        """
        return self.run(self.tower, F.pad(x, (0, 0, 0, self.context_length - x.shape[1])))

    def finish(self, x: Tensor) -> Tensor:
        """Last norm and projection of EOT tokens, shape (B, W) to (B, d)."""
        x = self.norm(x)
        projection = getattr(self.tower, "text_projection", None)
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Module) else x @ projection


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
