"""SD, the diffusion of text semantics into visual tokens (LSMRL)."""

import torch
from torch import Tensor, nn

from vireid_fast._checks import (
    positive_int,
    require,
    require_choice,
    require_same_device,
    require_shape,
)
from vireid_fast.ops import BACKENDS, AttentionIndex, Backend, cross_modal_attention

_WHAT = "SemanticDiffusion"
# LayerScale's small start (Touvron et al., ICCV 2021), so that training begins at CLIP's tokens.
_GAMMA = 1e-2


class SemanticDiffusion(nn.Module):
    """Attention of every visual token over the texts of all training identities.

    z + gamma * W_o concat_h(softmax(q_h k_h^T / sqrt(D)) v_h),
    q = W_q LN(z) + b_q,   (k, v) = W_kv LN(t) + b_kv

    The bank is the same for all tokens of a call, so it is projected once and read by one sequence
    of all tokens. It needs no label: identities that were never trained get semantics too. Ours,
    following the abstract of LSMRL.

    Args:
        width: Token width W.
        text_width: Width d of the texts.
        heads: Number of heads; divides W.
        backend: "fused" (one attention for all tokens) or "reference" (scores of each item's
            tokens, written out).

    Raises:
        ValueError: The heads do not divide the width, or the backend is unknown.
        TypeError: A size is no integer.
    """

    def __init__(
        self, width: int, text_width: int, heads: int, *, backend: Backend = "fused"
    ) -> None:
        super().__init__()
        width = positive_int(_WHAT, "width", width)
        text_width = positive_int(_WHAT, "text_width", text_width)
        self.heads = positive_int(_WHAT, "heads", heads)
        require(width % heads == 0, _WHAT, "heads", f"divide the width {width}", heads)
        require_choice(_WHAT, "backend", backend, BACKENDS)
        self.backend = backend
        self.norm = nn.LayerNorm(width)
        self.text_norm = nn.LayerNorm(text_width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(text_width, 2 * width)
        self.output = nn.Linear(width, width)
        self.gamma = nn.Parameter(torch.full((width,), _GAMMA))
        for layer in (self.query, self.key_value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, bank: Tensor) -> Tensor:
        """Diffuse the bank into tokens; each token on its own.

        Args:
            tokens: Shape (B, S, W).
            bank: Texts of C identities in any order, C >= 1. Shape (C, d).

        Returns:
            Shape of `tokens`.

        Raises:
            ValueError: A shape or device does not fit.
        """
        self._validate(tokens, bank)
        query = self.query(self.norm(tokens)).unflatten(2, (self.heads, -1))
        texts = self.key_value(self.text_norm(bank))
        # (C, H, D) each.
        key, value = texts.unflatten(1, (2, self.heads, -1)).unbind(1)
        attend = _attend_plainly if self.backend == "reference" else _attend
        return tokens + self.gamma * self.output(attend(query, key, value).flatten(2))

    def _validate(self, tokens: Tensor, bank: Tensor) -> None:
        require_shape(_WHAT, "tokens", tokens, ("B", "S", self.query.in_features))
        require_shape(_WHAT, "bank", bank, ("C", self.key_value.in_features))
        require(bank.shape[0] > 0, _WHAT, "bank", "hold a text", "none")
        require_same_device(_WHAT, tokens=tokens, bank=bank, weights=self.gamma)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, S, H, D) over (C, H, D): the whole batch is one sequence of queries."""
    rows = query.flatten(0, 1)
    index = AttentionIndex.pairs([len(rows)], [len(key)], rows.device)
    return cross_modal_attention(rows, key, value, index).view(query.shape)


def _attend_plainly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.einsum("bshd,chd->bshc", query, key) * query.shape[3] ** -0.5
    return torch.einsum("bshc,chd->bshd", torch.softmax(scores, 3), value)
