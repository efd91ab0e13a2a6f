"""What is injected into a stream of tokens, and what comes out."""

from typing import Literal, NamedTuple, get_args

from torch import Tensor

Mode = Literal["replace", "insert", "add"]
MODES = get_args(Mode)
"""Names of the modes; the raw ops take their index in this list."""

MAX_SOURCES = 4


class TokenSource(NamedTuple):
    """Tokens to be injected into a stream.

    Attributes:
        tokens: M tokens for each of C classes. Shape (C, M, W).
        start: Token of the stream at which they go in. It counts in the stream as the sources
            before this one have left it.
        labels: Class of each item; repeats are allowed. Shape (B,), int64 in [0, C). None: one
            class per item (C = B), or one that all items share (C = 1).
        mode: "replace" puts them in the place of tokens start to start + M - 1, "insert" puts them
            before token `start`, so that the stream gets M tokens longer, "add" adds them to
            tokens start to start + M - 1.
    """

    tokens: Tensor
    start: int
    labels: Tensor | None = None
    mode: Mode = "replace"


class TokenNorm(NamedTuple):
    """Layer normalisation of the finished tokens over their width.

    Attributes:
        weight: Shape (W,).
        bias: Shape (W,), dtype of `weight`.
        eps: Added to the variance.
    """

    weight: Tensor
    bias: Tensor
    eps: float = 1e-5


class Injected(NamedTuple):
    """Tokens before and after layer normalisation, both of shape (B, L_out, W)."""

    tokens: Tensor
    normalized: Tensor
