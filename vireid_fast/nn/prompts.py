"""Learnable prompts: a frozen template around learned tokens per identity."""

import torch
from torch import Tensor, nn

from vireid_fast._checks import require
from vireid_fast.nn.prompt_group import PromptGroup
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
        prefix_ids: Token ids of the `start` tokens before the learned ones, if the text encoder
            may share them with other groups of prompts.
        backend: "fused" or "reference", as of `prompt_injection`.
    """

    template: Tensor
    positions: Tensor

    def __init__(
        self,
        template: Tensor,
        positions: Tensor,
        num_identities: int,
        start: int,
        length: int,
        *,
        prefix_ids: tuple[int, ...] | None = None,
        backend: str = "fused",
    ) -> None:
        super().__init__()
        require(
            num_identities > 0, "PromptLearner", "num_identities", "be positive", num_identities
        )
        require(
            prefix_ids is None or len(prefix_ids) == start, "PromptLearner", "prefix_ids",
            f"hold {start} ids, one for each token before the learned ones", prefix_ids,
        )  # fmt: skip
        self.start = start
        self.prefix_ids = prefix_ids
        self.backend = backend
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
        return prompt_injection(
            self.template, self.positions, self.context, labels, self.start, backend=self.backend
        )

    def prompt_group(self, labels: Tensor) -> PromptGroup:
        """The same prompts, of which the tokens before the learned ones exist once.

        Args:
            labels: Identity labels 0..C-1. Shape (B,), int64.

        Returns:
            A prefix (start, W) that all prompts share, and the rest of each, (B, L - start, W).
        """
        prefix = self.template[: self.start] + self.positions[: self.start]
        suffix = prompt_injection(
            self.template[self.start :], self.positions[self.start :], self.context, labels, 0,
            backend=self.backend,
        )  # fmt: skip
        return PromptGroup(prefix, suffix, self.prefix_ids)
