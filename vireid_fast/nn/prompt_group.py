"""Prompts that begin alike, in the form the text encoder reads."""

from typing import NamedTuple

from torch import Tensor


class PromptGroup(NamedTuple):
    """Prompts of one template: what all of them share, and what each has of its own.

    Attributes:
        prefix: Embeddings plus positions of the tokens that all prompts of the group share.
            Shape (P, W), P >= 0. May require a gradient.
        suffix: Embeddings plus positions of the tokens after the prefix, the last one end of text
            (EOT). Shape (B, T, W), T >= 1.
        prefix_ids: Identity of the P prefix tokens, for instance their token ids. Leading ids that
            two groups of one call have in common are computed once, from the first group that
            brings them, so equal ids promise equal rows. None: shared with no other group.
    """

    prefix: Tensor
    suffix: Tensor
    prefix_ids: tuple[int, ...] | None = None
