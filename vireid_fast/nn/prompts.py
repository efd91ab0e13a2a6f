"""Learnable prompts: a frozen template around learned tokens per identity."""

import torch
from torch import Tensor, nn

from vireid_fast._checks import require
from vireid_fast.ops import prompt_injection


class PromptLearner(nn.Module):
    """Text-tower inputs "A photo of a X X X X person." with learned X for every identity.

    (CLIP-ReID, Li et al., AAAI 2023; CSDN keeps one such bank per modality.)

    Args:
        template: Frozen token embeddings of the template up to EOT. Shape (L, W).
        positions: Positional embeddings of the same tokens. Shape (L, W).
        num_identities: C, rows of the bank.
        start: Index of the first learned token.
        length: Number M of learned tokens.
    """

    template: Tensor
    positions: Tensor

    def __init__(
        self, template: Tensor, positions: Tensor, num_identities: int, start: int, length: int
    ) -> None:
        super().__init__()
        require(
            num_identities > 0, "PromptLearner", "num_identities", "be positive", num_identities
        )
        self.start = start
        self.register_buffer("template", template.detach().clone())
        self.register_buffer("positions", positions.detach().clone())
        self.context = nn.Parameter(torch.empty(num_identities, length, template.shape[1]))
        nn.init.normal_(self.context, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        """Prompts of the given identities.

        Args:
            labels: Identity labels 0..C-1. Shape (B,), int64.

        Returns:
            Text-tower inputs, positions added. Shape (B, L, W).
        """
        return prompt_injection(self.template, self.positions, self.context, labels, self.start)
