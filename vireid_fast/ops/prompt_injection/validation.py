"""Validation of the arguments of `prompt_injection` and `inject_tokens`."""

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from vireid_fast._checks import (
    require,
    require_choice,
    require_class_labels,
    require_dtype,
    require_number,
    require_same_device,
    require_shape,
    require_tensor,
    sentence,
)
from vireid_fast.ops._registration import BACKENDS
from vireid_fast.ops.prompt_injection.sources import MAX_SOURCES, MODES, TokenNorm, TokenSource

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_ALLOWED = {dtype: (dtype, torch.float32) if dtype.itemsize == 2 else (dtype,) for dtype in _DTYPES}
"""Dtypes that tensors may have beside a result of each dtype."""


def validate(
    what: str,
    stream: Tensor,
    sources: Sequence[TokenSource],
    positions: Tensor | None,
    norm: TokenNorm | None,
    out_dtype: torch.dtype | None,
    backend: str,
) -> tuple[int, torch.dtype]:
    """Check all arguments of one call of `what`, but for the range of the labels.

    Returns:
        Number of items and dtype of the result.

    Raises:
        ValueError: A shape, range or device does not fit. TypeError: A dtype or type does not fit.
        NotImplementedError: Too many sources.
    """
    named = what == "prompt_injection"
    stream_name = "template" if named else "stream"
    require_choice(what, "backend", backend, BACKENDS)
    dtype = _check_stream(what, stream_name, stream, out_dtype, named)
    allowed = _ALLOWED[dtype]
    if len(sources) > MAX_SOURCES:
        remedy = "Inject the rest by a second call."
        most = f"be at most {MAX_SOURCES}"
        require(False, what, "sources", most, len(sources), remedy, NotImplementedError)
    length, width = stream.shape[-2:]
    items = {} if stream.dim() == 2 else {stream_name: stream.shape[0]}
    for k, source in enumerate(sources):
        if not isinstance(source, TokenSource):
            found = type(source).__name__
            require(False, what, f"sources[{k}]", "be a TokenSource", found, error=TypeError)
        prefix = "" if named else f"sources[{k}]."
        length = _check_source(what, prefix, source, length, width, allowed, items)
        tokens_name = "context" if named else f"{prefix}tokens"
        _check_device(what, stream_name, stream, tokens_name, source.tokens)
        if source.labels is not None:
            _check_device(what, stream_name, stream, f"{prefix}labels", source.labels)
    if positions is not None:
        require_dtype(what, "positions", positions, allowed)
        require_shape(what, "positions", positions, (length, width))
        _check_device(what, stream_name, stream, "positions", positions)
    if norm is not None:
        _check_norm(what, norm, width, allowed)
        _check_device(what, stream_name, stream, "norm.weight", norm.weight)
        _check_device(what, stream_name, stream, "norm.bias", norm.bias)
    return _common(what, items), dtype


def validate_labels(what: str, sources: Sequence[TokenSource]) -> None:
    """Check the range of all labels, which reads them back from the device.

    Raises:
        ValueError: A label lies outside the classes of its tokens.
    """
    remedy = "Labels count the classes of the tokens from 0."
    for k, source in enumerate(sources):
        if source.labels is not None:
            name = "labels" if what == "prompt_injection" else f"sources[{k}].labels"
            require_class_labels(what, name, source.labels, source.tokens.shape[0], remedy)


def _check_stream(
    what: str, name: str, stream: Tensor, out_dtype: torch.dtype | None, shared: bool
) -> torch.dtype:
    """Check the stream; returns the dtype of the result."""
    require_dtype(what, name, stream, _DTYPES)
    if out_dtype is not None:
        require_choice(what, "out_dtype", out_dtype, _DTYPES)
        require_dtype(what, name, stream, _ALLOWED[out_dtype])
    if shared:
        require_shape(what, name, stream, ("L", "W"))
    elif stream.dim() not in (2, 3):
        require(False, what, name, "have shape (L, W) or (B, L, W)", tuple(stream.shape))
    return stream.dtype if out_dtype is None else out_dtype


def _check_source(
    what: str,
    prefix: str,
    source: TokenSource,
    length: int,
    width: int,
    allowed: Sequence[torch.dtype],
    items: dict[str, int],
) -> int:
    """Check one source and enter its number of items; returns the new length of the stream."""
    tokens, start, labels, mode = source
    name = f"{prefix}tokens" if prefix else "context"
    require_dtype(what, name, tokens, allowed)
    require_shape(what, name, tokens, ("C", "M", width))
    if labels is not None:
        require_dtype(what, f"{prefix}labels", labels, (torch.int64,))
        require_shape(what, f"{prefix}labels", labels, ("B",))
        items[f"{prefix}labels"] = labels.shape[0]
    elif not prefix:
        require_tensor(what, "labels", labels)
    elif tokens.shape[0] != 1:
        items[name] = tokens.shape[0]
    require_choice(what, f"{prefix}mode", mode, MODES)
    slots = tokens.shape[1]
    if mode != "insert" and slots > length:
        require(False, what, name, f"have at most {length} tokens, as the stream", slots)
    last = length if mode == "insert" else length - slots
    try:
        start = operator.index(start)
    except TypeError:
        message = sentence(what, f"{prefix}start", "be an integer", repr(start))
        raise TypeError(message) from None
    if not 0 <= start <= last:
        window = f"be in [0, {last}], so that the tokens stay within the stream"
        require(False, what, f"{prefix}start", window, start)
    return length + slots if mode == "insert" else length


def _common(what: str, items: dict[str, int]) -> int:
    """The number of items that all per-item tensors agree on; 1 if there are none."""
    batch = None
    for count in items.values():
        if batch is not None and count != batch:
            found = ", ".join(f"{name} {count}" for name, count in items.items())
            require(False, what, " and ".join(items), "have one number of items", found)
        batch = count
    return 1 if batch is None else batch


def _check_device(what: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        require_same_device(what, **{name: tensor, other_name: other})


def _check_norm(
    what: str,
    norm: TokenNorm,
    width: int,
    allowed: Sequence[torch.dtype],
) -> None:
    require(
        isinstance(norm, TokenNorm), what, "norm", "be a TokenNorm", type(norm).__name__,
        error=TypeError,
    )  # fmt: skip
    require_dtype(what, "norm.weight", norm.weight, allowed)
    require_dtype(what, "norm.bias", norm.bias, (norm.weight.dtype,))
    require_shape(what, "norm.weight", norm.weight, (width,))
    require_shape(what, "norm.bias", norm.bias, (width,))
    require_number(what, "norm.eps", norm.eps)
    require(norm.eps >= 0, what, "norm.eps", "be at least 0", norm.eps)
