"""Semantic tokens in visual streams."""

from torch import Tensor, nn

from vireid_fast._checks import positive_int, require, require_choice, require_shape
from vireid_fast.ops import BACKENDS, Backend, Injected, TokenNorm, TokenSource, inject_tokens
from vireid_fast.ops.prompt_injection import MODES, Mode


class TokenInjection(nn.Module):
    """Inject semantic tokens into a stream of visual tokens, with the LayerNorm that follows.

    The tokens are projected to the width of the stream where theirs differs. Stream, tokens and
    normalised tokens are written in one pass.

    Args:
        width: Width W of the stream.
        token_width: Width of the semantic tokens; a linear projection `projection` takes them to
            W if it differs. None: W.
        start: Token of the stream at which they go in; 1 is behind a class token.
        mode: "insert" lengthens the stream, "replace" overwrites tokens, "add" adds to them (a
            residual).
        norm: Whether to normalise the result (`norm`, an nn.LayerNorm), as a pre-norm block does
            first.
        eps: Of the norm.
        backend: "fused" or "reference", as of `inject_tokens`.

    Raises:
        ValueError: A size, the start, the mode or the backend does not fit.
    """

    def __init__(
        self,
        width: int,
        *,
        token_width: int | None = None,
        start: int = 1,
        mode: Mode = "insert",
        norm: bool = True,
        eps: float = 1e-5,
        backend: Backend = "fused",
    ) -> None:
        super().__init__()
        what = "TokenInjection"
        width = positive_int(what, "width", width)
        require_choice(what, "mode", mode, MODES)
        require_choice(what, "backend", backend, BACKENDS)
        require(start >= 0, what, "start", "be at least 0", start)
        self.token_width = width if token_width is None else token_width
        projects = self.token_width != width
        self.projection = nn.Linear(self.token_width, width) if projects else nn.Identity()
        self.norm = nn.LayerNorm(width, eps) if norm else None
        self.start = start
        self.mode = mode
        self.backend = backend

    def forward(
        self,
        stream: Tensor,
        tokens: Tensor,
        labels: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor | Injected:
        """Inject tokens.

        Args:
            stream: Visual tokens. Shape (B, S, W).
            tokens: M semantic tokens of each class, shape (C, M, token_width); without labels of
                each image (C = B) or of all images (C = 1).
            labels: Class of each image. Shape (B,), int64 in [0, C).
            positions: Added to the result. Shape (S_out, W).

        Returns:
            Tokens, shape (B, S_out, W), S_out = S + M where the mode is "insert", else S. With
            the norm, `Injected`: the tokens (the residual stream) and the normalised tokens.
        """
        require_shape("TokenInjection", "tokens", tokens, ("C", "M", self.token_width))
        source = TokenSource(self.projection(tokens), self.start, labels, self.mode)
        norm = None
        if self.norm is not None:
            norm = TokenNorm(self.norm.weight, self.norm.bias, self.norm.eps)
        # Under autocast the projection may leave tokens of fewer bits than the stream.
        source = source._replace(tokens=source.tokens.to(stream.dtype))
        return inject_tokens(stream, [source], positions=positions, norm=norm, backend=self.backend)
