"""Pre-norm transformer of CLIP's image and text towers, with OpenAI's parameter names."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vireid_fast._checks import require, require_choice
from vireid_fast.nn.one_query_attention import first_token_of_block, unpack_projections


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), the approximation OpenAI's weights were trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class LayerNorm(nn.LayerNorm):
    """LayerNorm computed in at least float32 and returned in the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of `x`."""
        exact = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(exact), self.bias.to(exact)
        return F.layer_norm(x.to(exact), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of `nn.MultiheadAttention`.

    Args:
        width: Token width W.
        heads: Number of heads; divides W.
        depth: Number of blocks in the stack; scales the initial output projection.
    """

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        require(
            heads > 0 and width % heads == 0,
            "Attention", "heads", f"divide the width {width}", heads,
        )  # fmt: skip
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.out_proj.weight, std=(2 * width * depth) ** -0.5)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """Attend among the tokens of each item; shape (B, L, W) in and out."""
        batch, length, width = x.shape
        packed = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        # (3, B, H, L, W / H)
        heads = packed.view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Two linear maps with the activation between them, four times as wide inside."""

    def __init__(self, width: int, depth: int, activation: str) -> None:
        super().__init__()
        require_choice("Mlp", "activation", activation, ACTIVATIONS)
        self.activation = activation
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        nn.init.normal_(self.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.c_proj.weight, std=(2 * width * depth) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token on its own; shape (..., W) in and out."""
        return self.c_proj(ACTIVATIONS[self.activation](self.c_fc(x)))


class Block(nn.Module):
    """x + attention(ln_1(x)), then x + mlp(ln_2(x))."""

    def __init__(self, width: int, heads: int, depth: int, activation: str) -> None:
        super().__init__()
        self.attn = Attention(width, heads, depth)
        self.ln_1 = LayerNorm(width)
        self.mlp = Mlp(width, depth, activation)
        self.ln_2 = LayerNorm(width)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """Apply the block to tokens of shape (B, L, W)."""
        x = x + self.attn(self.ln_1(x), causal)
        return x + self.mlp(self.ln_2(x))

    def forward_first(self, x: Tensor) -> Tensor:
        """First token of `forward(x)`, alone; (B, L, W) to (B, W)."""
        projections = unpack_projections(self.attn.in_proj_weight, self.attn.in_proj_bias)
        return first_token_of_block(
            x, self.ln_1, projections, self.attn.heads, self.attn.out_proj, self.ln_2, self.mlp
        )


class Transformer(nn.Module):
    """A stack of blocks.

    Initial weights follow CLIP's rules for its text tower (attention W^-1/2, first linear map
    (2 W)^-1/2, output projections divided by sqrt(2 depth)), here for both towers.
    """

    def __init__(self, width: int, layers: int, heads: int, activation: str) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            Block(width, heads, layers, activation) for _ in range(layers)
        )

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """Apply all blocks to tokens of shape (B, L, W); `causal` hides later tokens."""
        for block in self.resblocks:
            x = block(x, causal)
        return x

    def forward_first(self, x: Tensor) -> Tensor:
        """First token of `forward(x)`; the last block computes it alone. (B, L, W) to (B, W)."""
        *earlier, last = self.resblocks
        for block in earlier:
            x = block(x)
        return cast(Block, last).forward_first(x)
