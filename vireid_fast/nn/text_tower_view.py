"""What the text encoder reads of a tower of any make; parameters stay where they are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
