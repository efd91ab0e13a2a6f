"""SII, the integration of the two modalities' texts (CSDN)."""

import math

import torch
from torch import Tensor, nn

from vireid_fast._checks import require_choice

VARIANTS = ("residual", "published", "bank")


class SemanticIntegration(nn.Module):
    """Fuse visible and infrared text features into one semantic feature per identity.

    CSDN's released code attends from one visible text to one infrared text,
    t = t_V + W_o (softmax(q k^T / sqrt(d)) v),  q = tanh(W_q t_V), k, v = tanh(W_k|v t_R).
    With one key the softmax is always 1, so the released function is exactly
    t = t_V + W_o dropout(tanh(W_v t_R)), and W_q, W_k never receive a gradient.

    Args:
        width: Text width d.
        dropout: Dropout on q, k and v.
        variant: "residual" computes the simplified form (the default). "published" keeps W_q and
            W_k as dead parameters, for checkpoints of the released code. "bank" lets every text
            of the call attend to all infrared texts of the call, which the abstract would also
            allow; ours, off by default.
    """

    def __init__(self, width: int, dropout: float = 0.1, variant: str = "residual") -> None:
        super().__init__()
        require_choice("SemanticIntegration", "variant", variant, VARIANTS)
        self.variant = variant
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        if variant != "residual":
            self.query = nn.Linear(width, width)
            self.key = nn.Linear(width, width)

    def forward(self, visible_text: Tensor, infrared_text: Tensor) -> Tensor:
        """Integrate texts row by row.

        Args:
            visible_text: Shape (B, d).
            infrared_text: Shape (B, d), same identities.

        Returns:
            Shape (B, d).
        """
        value = self.dropout(torch.tanh(self.value(infrared_text)))
        if self.variant == "bank":
            query = self.dropout(torch.tanh(self.query(visible_text)))
            key = self.dropout(torch.tanh(self.key(infrared_text)))
            value = torch.softmax(query @ key.T / math.sqrt(query.shape[1]), dim=1) @ value
        return visible_text + self.output(value)
