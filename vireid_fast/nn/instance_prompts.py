"""ITPG, the instance text prompt generator (CLIP-MC)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vireid_fast._checks import positive_int, require, require_choice, require_shape
from vireid_fast.nn.one_query_attention import (
    Projection,
    few_query_attention,
    unpack_projections,
)
from vireid_fast.nn.quick_gelu import quick_gelu
from vireid_fast.ops import BACKENDS, Backend

_WHAT = "InstancePromptGenerator"
_HEAD_WIDTH = 64


class InstancePromptGenerator(nn.Module):
    """Prompt tokens that describe one image, from base tokens that look at its image tokens.

    s_0 = S, then for every layer
    s <- s + SelfAttn(LN s);  s <- s + CrossAttn(LN s; LN(W u));  s <- s + MLP(LN s),
    s(x) = S + alpha * s_last

    (Reimplementation following CLIP-MC's abstract: image and text tokens interact. The decoder has
    the structure of TF-CLIP's prompt generator, AsuradaYuci/TF-CLIP@497a4f2.) Output projections
    of all sublayers start at zero, so that s(x) starts as S (1 + alpha), an ordinary prompt.

    Args:
        width: Width W of the text tower's tokens.
        image_width: Width d of the image tokens.
        base_tokens: Number M of tokens.
        layers: Decoder layers. 0: no interaction, S alone for every image (the ablation).
        heads: Heads of both attentions; one per 64 channels if None.
        dropout: On the output of each sublayer.
        alpha: Initial value of every entry of alpha, (W,).
        backend: "fused" absorbs the key and value projections of the cross-attention into its few
            queries; "reference" projects all image tokens. They differ by rounding only.

    Raises:
        ValueError: A size or choice does not fit. TypeError: A size is no integer.
    """

    def __init__(
        self,
        width: int,
        image_width: int,
        *,
        base_tokens: int = 4,
        layers: int = 2,
        heads: int | None = None,
        dropout: float = 0.1,
        alpha: float = 0.1,
        backend: Backend = "fused",
    ) -> None:
        super().__init__()
        width = positive_int(_WHAT, "width", width)
        self.image_width = positive_int(_WHAT, "image_width", image_width)
        base_tokens = positive_int(_WHAT, "base_tokens", base_tokens)
        require(layers >= 0, _WHAT, "layers", "be 0 or more", layers)
        require_choice(_WHAT, "backend", backend, BACKENDS)
        if heads is None:
            heads = max(1, width // _HEAD_WIDTH)
        heads = positive_int(_WHAT, "heads", heads)
        require(width % heads == 0, _WHAT, "heads", f"divide the width {width}", heads)
        self.base = nn.Parameter(torch.empty(base_tokens, width))
        nn.init.normal_(self.base, std=0.02)
        self.layers = nn.ModuleList(
            _DecoderLayer(width, heads, dropout, backend) for _ in range(layers)
        )
        if layers:
            self.alpha = nn.Parameter(torch.full((width,), float(alpha)))
            self.memory = nn.Linear(image_width, width)
            self.memory_norm = nn.LayerNorm(width)
            # Without a bias, which would outweigh tokens of CLIP's small size.
            self.alignment = nn.Linear(width, image_width, bias=False)

    def forward(self, image_tokens: Tensor) -> Tensor:
        """Tokens of each image.

        Args:
            image_tokens: u. Shape (B, N, d).

        Returns:
            s(x), in the dtype of S. Shape (B, M, W); (1, M, W) without layers, for all images.
        """
        require_shape(_WHAT, "image_tokens", image_tokens, ("B", "N", self.image_width))
        if not self.layers:
            return self.base[None]
        memory = self.memory_norm(self.memory(image_tokens))
        tokens = self.base.expand(image_tokens.shape[0], -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, memory)
        return (self.base + self.alpha * tokens).to(self.base.dtype)

    def align(self, tokens: Tensor) -> Tensor:
        """Mean of an image's tokens in the space of image features, for the alignment loss.

        Args:
            tokens: s(x). Shape (B, M, W).

        Returns:
            Shape (B, d).

        Raises:
            ValueError: There are no layers, so that the tokens tell nothing of an image.
        """
        require(
            len(self.layers) > 0, f"{_WHAT}.align", "layers", "be at least 1", 0,
            "Leave the alignment loss out.",
        )  # fmt: skip
        return self.alignment(tokens.mean(dim=1))


class _DecoderLayer(nn.Module):
    """Self-attention of the prompt tokens, attention to the image tokens, MLP, all pre-norm."""

    def __init__(self, width: int, heads: int, dropout: float, backend: Backend) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.self_attention = _Attention(width, heads, "reference")
        self.norm_2 = nn.LayerNorm(width)
        self.cross_attention = _Attention(width, heads, backend)
        self.norm_3 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Tokens (B, M, W) and the image tokens they read, (B, N, W)."""
        normal = self.norm_1(tokens)
        tokens = tokens + self.dropout(self.self_attention(normal, normal))
        tokens = tokens + self.dropout(self.cross_attention(self.norm_2(tokens), memory))
        hidden = quick_gelu(self.widen(self.norm_3(tokens)))
        return tokens + self.dropout(self.narrow(hidden))


class _Attention(nn.Module):
    """Multi-head attention with the parameter names of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int, backend: Backend) -> None:
        super().__init__()
        self.heads = heads
        self.backend = backend
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, asking: Tensor, read: Tensor) -> Tensor:
        """Attention of `asking` (B, M, W) to `read` (B, N, W). Shape (B, M, W)."""
        query, key, value = unpack_projections(self.in_proj_weight, self.in_proj_bias)
        if self.backend == "fused":
            mixed = few_query_attention(asking, read, query, key, value, self.heads)
        else:
            mixed = self._attend_plainly(asking, read, query, key, value)
        return self.out_proj(mixed)

    def _attend_plainly(
        self, asking: Tensor, read: Tensor, query: Projection, key: Projection, value: Projection
    ) -> Tensor:
        parts = (F.linear(asking, *query), F.linear(read, *key), F.linear(read, *value))
        heads = [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts]
        return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
