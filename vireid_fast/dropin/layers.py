"""Layers with the names and the state dict of CLIP-ReID's and CoOp's, for use one by one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vireid_fast._checks import positive_int, require, require_dtype, require_shape
from vireid_fast.dropin.kinds.prompt_learner import assemble_prompts
from vireid_fast.dropin.kinds.text_encoder import encode_prompts, eot_places
from vireid_fast.dropin.kinds.text_state import TextState
from vireid_fast.nn.prompt_text_encoder import PromptTextEncoder


class PromptLearner(nn.Module):
    """Prompts "A photo of a X X X X person." with learned X for every identity.

    State dict: `cls_ctx`, `token_prefix`, `token_suffix`. The prompts have no positions yet;
    `TextEncoder` adds them.

    Args:
        num_class: Number of identities C.
        tokenized_prompts: Token ids of the template, the X included. Shape (1, L), int64.
        token_embedding: The text tower's table of token embeddings.
        n_ctx: Words before the X, begin of text not counted; 4 in "A photo of a".
        n_cls_ctx: Number of X.
        dtype: Of the tokens; that of the table if None.

    Raises:
        ValueError: A size does not fit. TypeError: The ids are not int64.
    """

    token_prefix: Tensor
    token_suffix: Tensor

    def __init__(
        self,
        num_class: int,
        tokenized_prompts: Tensor,
        token_embedding: nn.Embedding,
        *,
        n_ctx: int = 4,
        n_cls_ctx: int = 4,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_class = positive_int("PromptLearner", "num_class", num_class)
        self.n_cls_ctx = positive_int("PromptLearner", "n_cls_ctx", n_cls_ctx)
        require_dtype("PromptLearner", "tokenized_prompts", tokenized_prompts, (torch.int64,))
        require_shape("PromptLearner", "tokenized_prompts", tokenized_prompts, (1, "L"))
        after = 1 + n_ctx + n_cls_ctx
        require(
            n_ctx >= 0 and int(tokenized_prompts.argmax()) >= after, "PromptLearner", "n_ctx",
            "leave EOT after the learned tokens", n_ctx, "Count the words before the X.",
        )  # fmt: skip
        self.tokenized_prompts = tokenized_prompts
        with torch.no_grad():
            embedding = token_embedding(tokenized_prompts).to(dtype)
        self.cls_ctx = nn.Parameter(embedding.new_empty(num_class, n_cls_ctx, embedding.shape[2]))
        nn.init.normal_(self.cls_ctx, std=0.02)
        self.register_buffer("token_prefix", embedding[:, : 1 + n_ctx].clone())
        self.register_buffer("token_suffix", embedding[:, after:].clone())

    def forward(self, label: Tensor) -> Tensor:
        """Prompts of identities.

        Args:
            label: Identities 0..C-1, repeats allowed. Shape (B,), int64.

        Returns:
            Shape (B, L, W).

        Raises:
            ValueError: The shape or a label does not fit. TypeError: The labels are not int64.
        """
        return assemble_prompts(self, label)


class TextEncoder(nn.Module):
    """Features of prompts that are given as embeddings, computed up to EOT.

    State dict: that of `transformer`, `ln_final`, `positional_embedding`, `text_projection`, all
    of them the tower's own.

    Args:
        clip_model: A CLIP with these parts, shaped like OpenAI's, and perhaps `dtype`.
        learners: Prompt learners with a frozen `token_prefix`; where all prompts of a call begin
            with one of these, it is computed once. They are not registered here. Prompts that want
            a gradient share their prefix if our `PromptLearner` made them; `torch.autograd.grad`
            with respect to such prompts (not to `cls_ctx`) gives the first the sum of all for
            these tokens, unless they `retain_grad()`.

    Raises:
        NotImplementedError: The tower is none for which stopping at EOT is exact.
    """

    def __init__(self, clip_model: nn.Module, learners: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.transformer = clip_model.transformer
        self.positional_embedding = clip_model.positional_embedding
        self.ln_final = clip_model.ln_final
        self.text_projection = clip_model.text_projection
        self.dtype: torch.dtype = getattr(clip_model, "dtype", self.positional_embedding.dtype)
        self._state = TextState(PromptTextEncoder(self), (), tuple(learners))

    def forward(self, prompts: Tensor, tokenized_prompts: Tensor) -> Tensor:
        """Encode prompts.

        Args:
            prompts: Token embeddings without positions. Shape (B, L, W), L the context length.
            tokenized_prompts: Their ids, EOT the largest; one row for all or one per prompt.
                Shape (1, L) or (B, L).

        Returns:
            Features of shape (B, d), not normalised.

        Raises:
            ValueError: A shape does not fit, or a row has no EOT. TypeError: A dtype does not fit.
            NotImplementedError: Hooks or dropout act inside the tower, or ids that were not seen
                before come while compiling or capturing.
        """
        length, width = self.positional_embedding.shape
        require_shape("TextEncoder", "prompts", prompts, ("B", length, width))
        require_shape("TextEncoder", "tokenized_prompts", tokenized_prompts, ("1 or B", length))
        require_dtype("TextEncoder", "tokenized_prompts", tokenized_prompts, (torch.int64,))
        rows = len(tokenized_prompts)
        if rows not in (1, len(prompts)):
            require(False, "TextEncoder", "tokenized_prompts", "have 1 or B rows", rows)
        places = eot_places(self._state, tokenized_prompts)
        if places is not None and min(places, default=1) == 0:
            # The first token begins the text; the largest id stands there if all are padding.
            requirement = "have EOT, the largest id, after the first token of each row"
            require(False, "TextEncoder", "tokenized_prompts", requirement, "none")
        features = encode_prompts(self, self._state, prompts, tokenized_prompts)
        require(
            features is not None, "TextEncoder", "tokenized_prompts", "have been seen in "
            "a plain call before where code is compiled or captured, for a tower without hooks and "
            "dropout", tuple(tokenized_prompts.shape), error=NotImplementedError,
        )  # fmt: skip
        return features
