"""Input factories and the error-budget assertion, shared by tests and benchmarks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from vireid_fast.ops import AttentionIndex, TokenNorm, TokenSource
from vireid_fast.ops.prompt_injection import Mode
from vireid_fast.ops.sparse_rows import SparseRows


class PromptInputs(NamedTuple):
    """Arguments of `prompt_injection`."""

    template: Tensor
    positions: Tensor
    context: Tensor
    labels: Tensor
    start: int


def assert_error_budget(
    actual: Tensor, reference: Tensor, exact: Tensor, *, rounding: float = 4.0
) -> None:
    """Assert that a kernel errs no more than twice the plain implementation of its dtype does.

    max |actual - exact| <= 2 max |reference - exact| + rounding * eps * max |exact|

    Args:
        actual: Output of the kernel.
        reference: Output of the reference on the same inputs in the same dtype.
        exact: Output of the reference in float64.
        rounding: Units in the last place of the largest value, granted besides. The output's own
            rounding takes one; four leave room for another order of summation.

    Raises:
        AssertionError: The shape or dtype differs, a value is not finite, or the budget is
            exceeded.
    """
    if actual.shape != exact.shape or actual.dtype != reference.dtype:
        raise AssertionError(
            f"expected {tuple(exact.shape)} {reference.dtype}, "
            f"got {tuple(actual.shape)} {actual.dtype}"
        )
    if actual.numel() == 0:
        return
    exact = exact.double()
    error = (actual.double() - exact).abs()
    if not bool(torch.isfinite(error).all()):
        bad = torch.nonzero(~torch.isfinite(error))[0].tolist()
        raise AssertionError(f"value at {bad} is not finite: {actual[tuple(bad)].item()}")
    own = (reference.double() - exact).abs().max()
    term = rounding * torch.finfo(actual.dtype).eps * exact.abs().max()
    budget = 2 * own + term
    if not bool(error.max() <= budget):
        raise AssertionError(
            f"error {error.max():.3g} exceeds the budget {budget:.3g} = 2 x {own:.3g} (reference) "
            f"+ {term:.3g} (rounding)"
        )


def make_features(
    rows: int,
    width: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    distinct: int | None = None,
) -> Tensor:
    """Normal random features that are the same on every device.

    Args:
        rows: Number of rows.
        width: Number of columns.
        dtype: Floating dtype.
        device: Where the tensor goes.
        seed: Seed of the values.
        distinct: Number of different rows, repeated in turn; all differ if None.

    Returns:
        Shape (rows, width).
    """
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    if distinct is not None:
        values = values[torch.arange(rows) % distinct]
    return values.to(device=device, dtype=dtype)


def make_prompt_inputs(
    prompts: int,
    length: int,
    width: int,
    classes: int,
    context_length: int,
    start: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> PromptInputs:
    """Random arguments of `prompt_injection`; labels repeat where prompts exceed classes."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.to(device=device, dtype=dtype)

    labels = torch.randint(0, max(1, classes), (prompts,), generator=generator)
    return PromptInputs(
        random(length, width), random(length, width), random(classes, context_length, width),
        labels.to(device), start,
    )  # fmt: skip


def make_sparse_rows(
    num_items: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    density: float = 0.2,
    seed: int = 0,
) -> SparseRows:
    """Random sparse (num_items, num_items) rows, a positive diagonal included, that sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_items, num_items)
    dense = torch.rand(shape, generator=generator, dtype=torch.float64)
    dense[torch.rand(shape, generator=generator) > density] = 0
    dense.diagonal().fill_(0.5)
    dense /= dense.sum(1, keepdim=True)
    row, col = dense.nonzero(as_tuple=True)
    crow = torch.searchsorted(row, torch.arange(num_items + 1))
    weight = dense[row, col].to(dtype)
    return SparseRows(crow.to(device), col.to(device), weight.to(device))


@contextmanager
def limit_threads(number: int) -> Iterator[None]:
    """Run torch and the CPU kernels on `number` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class AttentionInputs(NamedTuple):
    """Arguments of `cross_modal_attention`."""

    query: Tensor
    key: Tensor
    value: Tensor
    index: AttentionIndex  # type: ignore[assignment]  # a field, above the method of tuples


def make_attention_inputs(
    index: AttentionIndex,
    heads: int,
    width: int,
    *,
    dtype: torch.dtype = torch.float32,
    packed: bool = False,
    seed: int = 0,
) -> AttentionInputs:
    """Normal random queries, keys and values for an index, on its device.

    Args:
        index: Which rows attend to which.
        heads: H.
        width: Head size D.
        dtype: Floating dtype.
        packed: Make the three views of one (N, 3, H, D) projection; needs as many keys as queries.
        seed: Seed of the values.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = (index.num_queries, index.num_keys, index.num_keys)
    query, key, value = (
        torch.randn(size, heads, width, generator=generator, dtype=torch.float64).to(
            device=index.device, dtype=dtype
        )
        for size in sizes
    )
    if packed:
        query, key, value = torch.stack((query, key, value), 1).unbind(1)
    return AttentionInputs(query, key, value, index)


def grouped_rows(
    clips: int, frames: int, rows: int, columns: int, groups: int
) -> tuple[list[list[int]], int]:
    """Row lists of spatial-temporal grouped attention, for `AttentionIndex.from_rows`.

    Tokens are (clip, frame, class token + rows x columns patches). A group is one horizontal
    stripe of all frames of a clip, and the class tokens of all these frames.

    Returns:
        One list per clip and group, and the number of tokens.
    """
    tokens = 1 + rows * columns
    stripe = rows * columns // groups
    sequences = []
    for clip in range(clips):
        firsts = [(clip * frames + frame) * tokens for frame in range(frames)]
        for group in range(groups):
            patches = range(1 + group * stripe, 1 + (group + 1) * stripe)
            sequences.append(firsts + [first + patch for first in firsts for patch in patches])
    return sequences, clips * frames * tokens


class InjectionCase(NamedTuple):
    """Sizes of one call of `inject_tokens`.

    `modes` names the sources in turn: the first has labels, the second differs per item, the third
    is shared by all items, the fourth has labels again.
    """

    batch: int
    length: int
    width: int
    modes: tuple[Mode, ...]
    shared_stream: bool = True

    def __str__(self) -> str:
        stream = "shared" if self.shared_stream else "per item"
        return f"{self.batch}x{self.length}x{self.width} {stream} {'+'.join(self.modes)}"


class InjectionInputs(NamedTuple):
    """Arguments of `inject_tokens`."""

    stream: Tensor
    sources: tuple[TokenSource, ...]
    positions: Tensor
    norm: TokenNorm

    def floats(self) -> list[Tensor]:
        """The tensors that may have a gradient: stream, positions, weight, bias, tokens."""
        tokens = [source.tokens for source in self.sources]
        return [self.stream, self.positions, *self.norm[:2], *tokens]

    def with_floats(self, floats: Sequence[Tensor]) -> "InjectionInputs":
        """The same arguments with other tensors, in the order of `floats()`."""
        stream, positions, weight, bias, *tokens = floats
        pairs = zip(self.sources, tokens, strict=True)
        sources = tuple(source._replace(tokens=values) for source, values in pairs)
        norm = self.norm._replace(weight=weight, bias=bias)
        return InjectionInputs(stream, sources, positions, norm)


def make_injection_inputs(
    case: InjectionCase,
    *,
    dtype: torch.dtype = torch.float32,
    source_dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> InjectionInputs:
    """Random arguments of `inject_tokens`; all but the stream have `source_dtype`."""
    generator = torch.Generator().manual_seed(seed)
    classes = 5

    def random(*shape: int, kind: torch.dtype | None = source_dtype) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.to(device=device, dtype=kind or dtype)

    def labels() -> Tensor:
        return torch.randint(0, classes, (case.batch,), generator=generator).to(device)

    shape = (case.length, case.width)
    stream = random(*(shape if case.shared_stream else (case.batch, *shape)), kind=dtype)
    rows = (classes, 2), (case.batch, 1), (1, 3), (classes, 1)
    starts = 1, 2, 0, 3
    sources = tuple(
        TokenSource(
            random(*rows[k], case.width), starts[k], None if k in (1, 2) else labels(), mode
        )
        for k, mode in enumerate(case.modes)
    )
    inserted = sum(rows[k][1] for k, mode in enumerate(case.modes) if mode == "insert")
    positions = random(case.length + inserted, case.width)
    return InjectionInputs(
        stream, sources, positions, TokenNorm(random(case.width), random(case.width), 1e-5)
    )
