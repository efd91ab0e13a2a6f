"""Learnable prompts: a frozen template around learned tokens per identity."""

import torch
from torch import Tensor, nn

from vireid_fast._checks import positive_int, require, require_choice, require_shape
from vireid_fast.nn.prompt_group import PromptGroup
from vireid_fast.ops import BACKENDS, Backend, prompt_injection


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

    Raises:
        ValueError: A shape or range does not fit. TypeError: A size is no integer.
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
        backend: Backend = "fused",
    ) -> None:
        super().__init__()
        what = "PromptLearner"
        num_identities = positive_int(what, "num_identities", num_identities)
        length = positive_int(what, "length", length)
        require_shape(what, "template", template, ("L", "W"))
        require_shape(what, "positions", positions, template.shape)
        require_choice(what, "backend", backend, BACKENDS)
        last = template.shape[0] - length
        require(
            0 <= start <= last, what, "start",
            f"be in [0, {last}], so that the learned tokens stay within the template", start,
        )  # fmt: skip
        require(
            prefix_ids is None or len(prefix_ids) == start, what, "prefix_ids",
            f"hold {start} ids, one for each token before the learned ones", prefix_ids,
        )  # fmt: skip
        self.start = start
        self.prefix_ids = prefix_ids
        self.backend = backend
        self.register_buffer("template", template.detach().clone())
        self.register_buffer("positions", positions.detach().clone())
        dtype = torch.promote_types(template.dtype, torch.float32)
        context = template.new_empty((num_identities, length, template.shape[1]), dtype=dtype)
        self.context = nn.Parameter(context)
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
