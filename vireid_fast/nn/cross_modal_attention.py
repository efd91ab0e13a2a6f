"""Attention between the tokens of two modalities, one set of weights for both."""

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
from vireid_fast.ops.cross_modal_attention import (
    BACKENDS,
    MODES,
    AttentionBackend,
    AttentionIndex,
    Mode,
    cross_modal_attention,
)


class CrossModalAttention(nn.Module):
    """Multi-head attention of visible tokens over infrared ones and of infrared over visible.

    out = residual + W_o concat_h(softmax(q_h k_h^T / sqrt(D)) v_h) + b_o,  (q, k, v) = W x + b

    Both modalities share the weights, one projection GEMM and one attention launch. Parameters
    have the names of `nn.MultiheadAttention`.

    Args:
        width: Token width W.
        heads: Number of heads; divides W.
        mode: "cross": each modality attends to the other one's tokens. "joint": every token
            attends to those of both. "self": each modality attends to its own.
        backend: As in `ops.cross_modal_attention`.
        bias: Whether the projections have biases.

    Raises:
        ValueError: The heads do not divide the width, or mode or backend is unknown.
        TypeError: Width or heads are no integers.
    """

    in_proj_bias: nn.Parameter | None

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mode: Mode = "cross",
        backend: AttentionBackend = "auto",
        bias: bool = True,
    ) -> None:
        super().__init__()
        width = positive_int("CrossModalAttention", "width", width)
        heads = positive_int("CrossModalAttention", "heads", heads)
        require(
            width % heads == 0, "CrossModalAttention", "heads", f"divide the width {width}", heads
        )
        require_choice("CrossModalAttention", "mode", mode, MODES)
        require_choice("CrossModalAttention", "backend", backend, BACKENDS)
        self.heads = heads
        self.mode = mode
        self.backend = backend
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        in_proj_bias = nn.Parameter(torch.zeros(3 * width)) if bias else None
        self.register_parameter("in_proj_bias", in_proj_bias)
        self.out_proj = nn.Linear(width, width, bias=bias)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    @classmethod
    def from_multihead_attention(
        cls,
        module: nn.MultiheadAttention,
        *,
        mode: Mode = "cross",
        backend: AttentionBackend = "auto",
    ) -> "CrossModalAttention":
        """A layer with copies of the weights of torch's layer, on its device and in its dtype.

        Raises:
            TypeError: It is no `nn.MultiheadAttention`.
            NotImplementedError: It does what this layer does not: dropout, other widths for keys
                or values, bias_k and bias_v, a zero key.
        """
        require(
            isinstance(module, nn.MultiheadAttention), "from_multihead_attention", "module",
            "be an nn.MultiheadAttention", type(module).__name__, error=TypeError,
        )  # fmt: skip
        reasons = {
            f"dropout {module.dropout}": module.dropout > 0,
            "keys or values of another width": module.in_proj_weight is None,
            "bias_k and bias_v": module.bias_k is not None or module.bias_v is not None,
            "add_zero_attn": module.add_zero_attn,
        }
        _require_plain("from_multihead_attention", "module", reasons)
        return cls._copy(
            module.num_heads, module.in_proj_weight, module.in_proj_bias, module.out_proj,
            mode, backend,
        )  # fmt: skip

    @classmethod
    def from_clip_block(
        cls, block: nn.Module, *, mode: Mode = "cross", backend: AttentionBackend = "auto"
    ) -> "CrossModalAttention":
        """A layer with copies of the attention weights of a CLIP block; its norms stay outside.

        Args:
            block: A block of our transformer, of OpenAI's (both: `attn`), or a layer of the
                Hugging Face CLIP encoders (`self_attn`).
            mode: As for the class.
            backend: As for the class.

        Raises:
            TypeError: The block has no such attention. NotImplementedError: It has dropout.
        """
        attention: Any = getattr(block, "attn", None) or getattr(block, "self_attn", None)
        if isinstance(attention, nn.MultiheadAttention):
            return cls.from_multihead_attention(attention, mode=mode, backend=backend)
        if hasattr(attention, "in_proj_weight") and hasattr(attention, "heads"):
            return cls._copy(
                attention.heads, attention.in_proj_weight, attention.in_proj_bias,
                attention.out_proj, mode, backend,
            )  # fmt: skip
        require(
            all(hasattr(attention, f"{name}_proj") for name in ("q", "k", "v", "out")),
            "from_clip_block", "block", "hold a CLIP attention as attn or self_attn",
            type(block).__name__, error=TypeError,
        )  # fmt: skip
        dropout = getattr(attention, "dropout", 0.0)
        _require_plain("from_clip_block", "block", {f"dropout {dropout}": dropout > 0})
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight = torch.cat([part.weight for part in parts])
        bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
        return cls._copy(attention.num_heads, weight, bias, attention.out_proj, mode, backend)

    @classmethod
    def _copy(
        cls,
        heads: int,
        weight: Tensor,
        bias: Tensor | None,
        out_proj: nn.Linear,
        mode: Mode,
        backend: AttentionBackend,
    ) -> "CrossModalAttention":
        layer = cls(weight.shape[1], heads, mode=mode, backend=backend, bias=bias is not None)
        layer = layer.to(device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            layer.in_proj_weight.copy_(weight)
            layer.out_proj.weight.copy_(out_proj.weight)
            if bias is not None:
                assert layer.in_proj_bias is not None
                layer.in_proj_bias.copy_(bias)
                layer.out_proj.bias.copy_(out_proj.bias)
        return layer

    def forward(
        self, visible: Tensor, infrared: Tensor, residual: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend between the tokens of each pair.

        Args:
            visible: Tokens, normalised already where the block wants that. Shape (B, S, W).
            infrared: Shape (B, T, W), dtype of `visible`. Both have the dtype of the weights,
                unless autocast is on.
            residual: What is added to the two results, of their shapes; nothing if None.

        Returns:
            Visible tokens (B, S, W) and infrared tokens (B, T, W).

        Raises:
            ValueError: A shape or device does not fit. TypeError: The dtypes differ.
        """
        self._validate(visible, infrared, residual)
        batch, length, width = visible.shape
        tokens = torch.cat([visible.flatten(0, 1), infrared.flatten(0, 1)])
        packed = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        index = AttentionIndex.uniform(self.mode, batch, length, infrared.shape[1], packed.device)
        # (rows, 3, H, D): query, key and value stay views of the one projection.
        query, key, value = packed.unflatten(1, (3, self.heads, width // self.heads)).unbind(1)
        mixed = cross_modal_attention(query, key, value, index, backend=self.backend).flatten(1)
        parts = mixed[: batch * length], mixed[batch * length :]
        added = (None, None) if residual is None else residual
        mapped = [self._project(part, x) for part, x in zip(parts, added, strict=True)]
        return mapped[0].unflatten(0, (batch, -1)), mapped[1].unflatten(0, (batch, -1))

    def _project(self, mixed: Tensor, residual: Tensor | None) -> Tensor:
        """Output projection of (rows, W), plus the residual (B, L, W)."""
        weight, bias = self.out_proj.weight, self.out_proj.bias
        if residual is None:
            return F.linear(mixed, weight, bias)
        residual = residual.flatten(0, 1)
        # A GEMM in half precision must not round the residual stream.
        if residual.dtype != mixed.dtype or torch.is_autocast_enabled(mixed.device.type):
            return residual + F.linear(mixed, weight, bias)
        # The GEMM accumulates onto residual + bias in place, which saves the separate addition.
        start = residual.clone() if bias is None else residual + bias
        return start.addmm_(mixed, weight.T)

    def _validate(
        self, visible: Tensor, infrared: Tensor, residual: tuple[Tensor, Tensor] | None
    ) -> None:
        what, width = "CrossModalAttention", self.out_proj.in_features
        require_shape(what, "visible", visible, ("B", "S", width))
        require_shape(what, "infrared", infrared, (visible.shape[0], "T", width))
        weight = self.in_proj_weight
        require_same_device(what, visible=visible, infrared=infrared, weights=weight)
        if not torch.is_autocast_enabled(weight.device.type):
            require_dtype(what, "visible", visible, [weight.dtype])
        require_dtype(what, "infrared", infrared, [visible.dtype])
        for name, tokens in (("visible", visible), ("infrared", infrared)):
            if tokens.shape[0] == 0 or tokens.shape[1] == 0:
                require(False, what, name, "hold at least one token", tuple(tokens.shape))
        if residual is not None:
            require(
                isinstance(residual, (tuple, list)) and len(residual) == 2, what, "residual",
                "be a pair of tensors", type(residual).__name__, error=TypeError,
            )  # fmt: skip
            require_shape(what, "residual[0]", residual[0], visible.shape)
            require_shape(what, "residual[1]", residual[1], infrared.shape)


def _require_plain(what: str, argument: str, features: dict[str, bool]) -> None:
    """Raise NotImplementedError with every feature that is present."""
    present = [name for name, there in features.items() if there]
    require(
        not present, what, argument, "be plain attention", " and ".join(present),
        "Keep the original layer.", NotImplementedError,
    )  # fmt: skip
