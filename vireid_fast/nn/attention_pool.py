"""CLIP's attention pool, with one query instead of one per token."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vireid_fast._checks import (
    positive_int,
    require,
    require_choice,
    require_dtype,
    require_same_device,
    require_shape,
)
from vireid_fast.nn.one_query_attention import Projection, one_query_attention
from vireid_fast.ops import BACKENDS, Backend


class AttentionPool2d(nn.Module):
    """Attention from the spatial mean of a map to the mean and all places of the map.

    CLIP's ResNets compute all 1 + h w queries and keep the first. Here the first alone is computed,
    with the key and value projections absorbed (see `one_query_attention`): the same function.
    Constructor and state dict are OpenAI's.

    Args:
        spacial_dim: Side of a square map, or its size (h, w).
        embed_dim: Channels C.
        num_heads: Number of heads; divides C.
        output_dim: Output width d; C if None.
        backend: "fused" (absorbed projections) or "reference" (keys and values of all tokens).

    Raises:
        ValueError: A size or choice does not fit. TypeError: A size is no integer.
    """

    def __init__(
        self,
        spacial_dim: int | tuple[int, int],
        embed_dim: int,
        num_heads: int,
        output_dim: int | None = None,
        *,
        backend: Backend = "fused",
    ) -> None:
        super().__init__()
        sides = spacial_dim if isinstance(spacial_dim, tuple) else (spacial_dim, spacial_dim)
        height, breadth = (positive_int("AttentionPool2d", "spacial_dim", s) for s in sides)
        width = positive_int("AttentionPool2d", "embed_dim", embed_dim)
        self.num_heads = positive_int("AttentionPool2d", "num_heads", num_heads)
        require(
            width % num_heads == 0, "AttentionPool2d", "num_heads", f"divide embed_dim {width}",
            num_heads,
        )  # fmt: skip
        require_choice("AttentionPool2d", "backend", backend, BACKENDS)
        self.backend = backend
        self.positional_embedding = nn.Parameter(
            torch.randn(1 + height * breadth, width) * width**-0.5
        )
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        output_dim = positive_int("AttentionPool2d", "output_dim", output_dim or width)
        self.c_proj = nn.Linear(width, output_dim)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(projection.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Pool a map.

        Args:
            x: Shape (B, C, h, w), dtype of the projections (any floating dtype under autocast), any
                strides; 1 + h w position embeddings.

        Returns:
            Shape (B, d).

        Raises:
            ValueError: The shape or device does not fit. TypeError: The dtype does not fit.
        """
        self._validate(x)
        if self.backend == "reference":
            return _pool_plainly(self, x)
        return absorbed_pool(self, x)

    def project_tokens(self, x: Tensor) -> Tensor:
        """Mean and places of a map in the space of the pooled feature, without pooling.

        u_i = W_c (W_v x_i + b_v) + b_c      (MaskCLIP, Zhou et al., ECCV 2022, applies the value
        and output projections to every place; here the mean comes first, and positions are added
        as the pool does, so that with one head the pooled feature is a weighted mean of the u_i)

        "fused" multiplies W_c W_v first where that is less work, which is exact.

        Args:
            x: As of `forward`.

        Returns:
            Shape (B, 1 + h w, d).

        Raises:
            ValueError: The shape or device does not fit. TypeError: The dtype does not fit.
        """
        self._validate(x)
        tokens = pool_tokens(self, x)
        # T C (C + d) products per token by token, T C d + C C d with the joint matrix.
        if self.backend == "reference" or tokens[..., 0].numel() <= self.c_proj.out_features:
            return self.c_proj(self.v_proj(tokens))
        weight = self.c_proj.weight @ self.v_proj.weight
        bias = F.linear(self.v_proj.bias, self.c_proj.weight, self.c_proj.bias)
        return F.linear(tokens, weight, bias)

    def _validate(self, x: Tensor) -> None:
        count, width = self.positional_embedding.shape
        require_shape("AttentionPool2d", "x", x, ("B", width, "h", "w"))
        require_same_device("AttentionPool2d", x=x, parameters=self.q_proj.weight)
        # Autocast casts in front of each product.
        dtype = self.q_proj.weight.dtype
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            require_dtype("AttentionPool2d", "x", x, (dtype,))
        if x.shape[2] * x.shape[3] != count - 1:
            require(
                False, "AttentionPool2d", "x", f"have h w = {count - 1} places", tuple(x.shape),
                "Resize the images or the position embedding.",
            )  # fmt: skip


def absorbed_pool(pool: Any, x: Tensor) -> Tensor:
    """Pool a map (B, C, h, w) to (B, d) with the parameters of any module named like OpenAI's."""
    tokens = pool_tokens(pool, x)
    query, key, value = (
        Projection(layer.weight, layer.bias) for layer in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    pooled = one_query_attention(tokens[:, 0], tokens, query, key, value, pool.num_heads)
    return F.linear(pooled, pool.c_proj.weight, pool.c_proj.bias)


def pool_tokens(pool: Any, x: Tensor) -> Tensor:
    """Mean and places of a map with their positions. Shape (B, 1 + h w, C)."""
    places = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1)
    return tokens + pool.positional_embedding.to(tokens.dtype)


def _pool_plainly(pool: AttentionPool2d, x: Tensor) -> Tensor:
    tokens = pool_tokens(pool, x)
    batch, _, width = tokens.shape

    def split(values: Tensor) -> Tensor:
        # A process of several may have no image.
        return values.unflatten(2, (pool.num_heads, -1)).transpose(1, 2)

    query = split(pool.q_proj(tokens[:, :1]))
    key, value = split(pool.k_proj(tokens)), split(pool.v_proj(tokens))
    pooled = F.scaled_dot_product_attention(query, key, value)
    return pool.c_proj(pooled.transpose(1, 2).reshape(batch, width))
