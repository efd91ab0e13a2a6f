"""Text tower of CLIP."""

import torch
from torch import Tensor, nn

from vireid_fast._checks import require, require_dtype, require_shape
from vireid_fast.clip.transformer import LayerNorm, Transformer


class TextTower(nn.Module):
    """Causal transformer over token embeddings, read at the end-of-text (EOT) token.

    The mask is causal, so tokens after EOT cannot change the result: sequences cut right after EOT
    give the same features as sequences padded to the context length.

    Args:
        vocabulary_size: Number of tokens.
        context_length: Longest sequence; 77 in CLIP.
        width: Token width W.
        layers: Number of blocks.
        heads: Number of heads; divides W.
        projected_width: Joint width d.
        activation: "quick_gelu" or "gelu".
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        context_length: int,
        width: int,
        layers: int,
        heads: int,
        projected_width: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.context_length = context_length
        self.width = width
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Transformer(width, layers, heads, activation)
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, projected_width))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Features of tokenised texts, read at each row's largest id, which is EOT in CLIP.

        Args:
            ids: Token ids, any padding after EOT. Shape (B, L), int64, L <= context length.

        Returns:
            Features of shape (B, d), not normalised.

        Raises:
            ValueError: The shape does not fit. TypeError: `ids` is not int64.
        """
        require_dtype("encode_tokens", "ids", ids, (torch.int64,))
        require_shape("encode_tokens", "ids", ids, ("B", "L"))
        self._require_length("encode_tokens", "ids", ids.shape[1])
        embeddings = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        return self.encode_embeddings(embeddings, ids.argmax(dim=1))

    def encode_embeddings(self, x: Tensor, eot: int | Tensor) -> Tensor:
        """Features of prompts given as embeddings.

        Args:
            x: Token embeddings with the positions already added. Shape (B, L, W), L <= context
                length.
            eot: Index of EOT: one for all rows (tokens after it are then not computed), or one per
                row with shape (B,), int64, entries below L.

        Returns:
            Features of shape (B, d), not normalised.

        Raises:
            ValueError: A shape or `eot` does not fit. TypeError: `eot` is no int or int64 tensor.
        """
        require_shape("encode_embeddings", "x", x, ("B", "L", self.width))
        self._require_length("encode_embeddings", "x", x.shape[1])
        if isinstance(eot, int):
            require(
                0 <= eot < x.shape[1],
                "encode_embeddings", "eot", f"lie in 0..{x.shape[1] - 1}", eot,
            )  # fmt: skip
            last = self.transformer(x[:, : eot + 1], causal=True)[:, eot]
        else:
            require_dtype("encode_embeddings", "eot", eot, (torch.int64,))
            require_shape("encode_embeddings", "eot", eot, (x.shape[0],))
            rows = torch.arange(len(x), device=x.device)
            last = self.transformer(x, causal=True)[rows, eot]
        return self.ln_final(last) @ self.text_projection

    def _require_length(self, what: str, argument: str, length: int) -> None:
        require(
            0 < length <= self.context_length, what, argument,
            f"have 1 to {self.context_length} tokens (the context length)", length,
        )  # fmt: skip
