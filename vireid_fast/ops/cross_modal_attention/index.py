"""`AttentionIndex`: which rows attend to which."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from vireid_fast._checks import positive_int, require, require_choice, sentence
from vireid_fast.ops.cross_modal_attention.blocks import (
    Block,
    Run,
    make_blocks,
    run_lengths,
    zip_runs,
)
from vireid_fast.ops.cross_modal_attention.rows import SequenceRows, contiguous_rows, listed_rows

Mode = Literal["cross", "joint", "self"]
MODES = get_args(Mode)


@dataclass(frozen=True)
class AttentionIndex:
    """Sequences of query rows and, for each, the sequence of key rows that it attends to.

    Made by `within`, `cross`, `joint`, `pairs`, `from_rows` or `uniform`. Everything is checked
    there; use costs no host sync. All but `from_rows` remember their last results, so that they
    can be called in every step; an index of `from_rows` should be kept.

    Attributes:
        queries: Rows of the query sequences.
        keys: Rows of the key sequences, as many sequences as `queries` has.
        blocks: All sequences in order, those of equal lengths that lie one after the other taken
            together.
    """

    queries: SequenceRows
    keys: SequenceRows
    blocks: tuple[Block, ...]

    @property
    def num_queries(self) -> int:
        """Nq, rows of the query tensor."""
        return self.queries.num_rows

    @property
    def num_keys(self) -> int:
        """Nk, rows of the key and value tensors."""
        return self.keys.num_rows

    @property
    def max_query(self) -> int:
        """Tokens of the longest query sequence."""
        return self.queries.longest

    @property
    def max_key(self) -> int:
        """Tokens of the longest key sequence."""
        return self.keys.longest

    @property
    def num_sequences(self) -> int:
        """Number of sequences."""
        return self.queries.start.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.queries.start.device

    def to(self, device: torch.device | str) -> "AttentionIndex":
        """The same index on another device."""
        return AttentionIndex(self.queries.to(device), self.keys.to(device), self.blocks)

    @staticmethod
    def within(lengths: Iterable[int], device: torch.device | str = "cpu") -> "AttentionIndex":
        """Self-attention: every sequence attends to itself.

        Args:
            lengths: Tokens of each sequence, at least 1; the sequences' rows follow each other.
            device: Where the tensors go.

        Raises:
            ValueError: There is no sequence, or one is empty. TypeError: A length is no integer.
        """
        runs = _runs("within", "lengths", lengths)
        return _remembered("self", runs, (), device)

    @staticmethod
    def cross(
        visible_lengths: Iterable[int],
        infrared_lengths: Iterable[int],
        device: torch.device | str = "cpu",
    ) -> "AttentionIndex":
        """Both directions at once: sequence b of each modality attends to b of the other.

        Rows are those of all visible sequences, then those of all infrared ones.

        Args:
            visible_lengths: Tokens of each visible sequence, at least 1.
            infrared_lengths: Tokens of each infrared sequence, at least 1; as many sequences.
            device: Where the tensors go.

        Raises:
            ValueError: There is no sequence, one is empty, or the numbers of sequences differ.
            TypeError: A length is no integer.
        """
        runs = _paired_runs("cross", visible_lengths, infrared_lengths)
        return _remembered("cross", *runs, device)

    @staticmethod
    def joint(
        visible_lengths: Iterable[int],
        infrared_lengths: Iterable[int],
        device: torch.device | str = "cpu",
    ) -> "AttentionIndex":
        """Self-attention of one sequence per pair: visible sequence b followed by infrared b.

        Rows are those of all visible sequences, then those of all infrared ones; arguments and
        errors as in `cross`.
        """
        runs = _paired_runs("joint", visible_lengths, infrared_lengths)
        return _remembered("joint", *runs, device)

    @staticmethod
    def pairs(
        query_lengths: Iterable[int],
        key_lengths: Iterable[int],
        device: torch.device | str = "cpu",
    ) -> "AttentionIndex":
        """Cross attention in one direction: query and key rows are those of separate tensors.

        Args:
            query_lengths: Tokens of each query sequence, at least 1.
            key_lengths: Tokens of each key sequence, at least 1; as many sequences.
            device: Where the tensors go.

        Raises:
            ValueError: There is no sequence, one is empty, or the numbers of sequences differ.
            TypeError: A length is no integer.
        """
        runs = _paired_runs("pairs", query_lengths, key_lengths, "query_lengths", "key_lengths")
        return _remembered("pairs", *runs, device)

    @staticmethod
    def uniform(
        mode: Mode,
        batch: int,
        visible_length: int,
        infrared_length: int,
        device: torch.device | str = "cpu",
    ) -> "AttentionIndex":
        """A batch of pairs with one length per modality; rows as in `cross`.

        Can be traced by torch.compile with symbolic sizes, and made under CUDA graph capture.

        Args:
            mode: "cross" and "joint" as the functions of these names; "self": every sequence of
                both modalities attends to itself.
            batch: Number of pairs, at least 1.
            visible_length: Tokens of each visible sequence, at least 1.
            infrared_length: Tokens of each infrared sequence, at least 1.
            device: Where the tensors go.

        Raises:
            ValueError: The mode is unknown, or a size is less than 1. TypeError: A size is no
                integer.
        """
        require_choice("AttentionIndex.uniform", "mode", mode, MODES)
        for name, size in (
            ("batch", batch), ("visible_length", visible_length),
            ("infrared_length", infrared_length),
        ):  # fmt: skip
            # Not through operator.index: a traced size may be symbolic and has to stay so.
            if not isinstance(size, (int, torch.SymInt)) or size < 1:
                positive_int("AttentionIndex.uniform", name, size)
        return _remembered(mode, ((batch, visible_length),), ((batch, infrared_length),), device)

    @staticmethod
    def from_rows(
        query_sequences: Iterable[Sequence[int] | Tensor],
        key_sequences: Iterable[Sequence[int] | Tensor] | None = None,
        *,
        num_queries: int | None = None,
        num_keys: int | None = None,
        device: torch.device | str = "cpu",
    ) -> "AttentionIndex":
        """Sequences of any rows: grouped attention, shifted patches, shared keys.

        A row that is a query several times gets the mean of its outputs, one that is none gets 0.

        Args:
            query_sequences: Rows of each query sequence, at least one row each.
            key_sequences: Rows of each key sequence; None for `query_sequences`.
            num_queries: Rows of the query tensor; up to the largest one used if None.
            num_keys: Rows of the key tensor; as `num_queries`.
            device: Where the tensors go.

        Raises:
            ValueError: There is no sequence, one is empty, a row is out of range, or the numbers
                of sequences differ. TypeError: A row is no integer.
        """
        target = _device(device)
        query_rows, query_lengths = _flat("query_sequences", query_sequences)
        if key_sequences is None:
            key_rows, key_lengths, key_name = query_rows, query_lengths, "query_sequences"
            num_keys = num_queries if num_keys is None else num_keys
        else:
            key_rows, key_lengths = _flat("key_sequences", key_sequences)
            key_name = "key_sequences"
        require(
            len(key_lengths) == len(query_lengths), "AttentionIndex.from_rows", key_name,
            f"hold {len(query_lengths)} sequences, as query_sequences does", len(key_lengths),
        )  # fmt: skip
        num_queries = _row_count("num_queries", "query_sequences", num_queries, query_rows)
        num_keys = _row_count("num_keys", key_name, num_keys, key_rows)
        return AttentionIndex(
            listed_rows(query_rows, query_lengths, num_queries, target),
            listed_rows(key_rows, key_lengths, num_keys, target),
            make_blocks(run_lengths(query_lengths), run_lengths(key_lengths)),
        )


def _runs(builder: str, argument: str, lengths: Iterable[int]) -> tuple[Run, ...]:
    what = f"AttentionIndex.{builder}"
    _require_iterable(what, argument, lengths, "integers")
    checked = [positive_int(what, f"{argument}[{i}]", n) for i, n in enumerate(lengths)]
    require(bool(checked), what, argument, "hold at least one sequence", "none")
    return run_lengths(checked)


def _paired_runs(
    builder: str,
    first: Iterable[int],
    second: Iterable[int],
    first_name: str = "visible_lengths",
    second_name: str = "infrared_lengths",
) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    first_runs = _runs(builder, first_name, first)
    second_runs = _runs(builder, second_name, second)
    first_count, second_count = (sum(n for n, _ in runs) for runs in (first_runs, second_runs))
    require(
        first_count == second_count, f"AttentionIndex.{builder}", second_name,
        f"hold {first_count} sequences, as {first_name} does", second_count,
    )  # fmt: skip
    return first_runs, second_runs


def _flat(argument: str, sequences: Iterable[Sequence[int] | Tensor]) -> tuple[Tensor, list[int]]:
    """The lists one after the other, shape (P,), int64, on the CPU, and their lengths."""
    what = "AttentionIndex.from_rows"
    _require_iterable(what, argument, sequences, "lists of rows")
    parts = []
    for i, rows in enumerate(sequences):
        try:
            parts.append(torch.as_tensor(rows, device="cpu"))
        except (TypeError, ValueError) as error:
            message = sentence(what, f"{argument}[{i}]", "hold integers", repr(rows))
            raise TypeError(message) from error
    require(bool(parts), what, argument, "hold at least one sequence", "none")
    for i, rows in enumerate(parts):
        require(
            rows.dim() == 1 and rows.shape[0] > 0, what, f"{argument}[{i}]",
            "hold at least one row, shape (L,)", tuple(rows.shape),
            "Leave empty sequences out, in both lists.",
        )  # fmt: skip
        require(
            rows.dtype in (torch.int64, torch.int32), what, f"{argument}[{i}]", "hold integers",
            rows.dtype, error=TypeError,
        )  # fmt: skip
    return torch.cat(parts).long(), [rows.shape[0] for rows in parts]


def _row_count(argument: str, source: str, number: int | None, rows: Tensor) -> int:
    """Checked number of rows of a tensor; just enough for the rows in use if None."""
    what = "AttentionIndex.from_rows"
    low, high = (int(row) for row in torch.aminmax(rows))
    number = max(high, 0) + 1 if number is None else positive_int(what, argument, number)
    wrong = low if low < 0 else high
    require(low >= 0 and high < number, what, source, f"hold rows in [0, {number})", wrong)
    return number


def _require_iterable(what: str, argument: str, value: object, of: str) -> None:
    require(
        isinstance(value, Iterable), what, argument, f"be a sequence of {of}", repr(value),
        error=TypeError,
    )  # fmt: skip


def _device(device: torch.device | str) -> torch.device:
    """The device with its number, so that "cuda" and "cuda:0" are one key."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _remembered(
    kind: str, first: tuple[Run, ...], second: tuple[Run, ...], device: torch.device | str
) -> AttentionIndex:
    """The index of a layout, from memory where that is safe."""
    if torch.compiler.is_compiling():
        return _build(kind, first, second, torch.device(device))
    device = _device(device)
    # What a graph capture allocates is overwritten by the graph's replays.
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _build(kind, first, second, device)
    return _build_once(kind, first, second, device)


@lru_cache(maxsize=64)
def _build_once(
    kind: str, first: tuple[Run, ...], second: tuple[Run, ...], device: torch.device
) -> AttentionIndex:
    # An inference tensor could not be saved for a later backward.
    with torch.inference_mode(False):
        return _build(kind, first, second, device)


def _build(
    kind: str, first: tuple[Run, ...], second: tuple[Run, ...], device: torch.device
) -> AttentionIndex:
    """Make an index on the device, by operations that neither sync nor copy from the host.

    Args:
        kind: "self": sequences `first`, then `second`, on their own. "cross", "joint", "pairs":
            as the builders of these names.
        first: Lengths of the visible or of the query sequences.
        second: Lengths of the infrared or of the key sequences.
        device: Where the tensors go.
    """
    if kind == "pairs":
        queries, keys = contiguous_rows(first, device), contiguous_rows(second, device)
        return AttentionIndex(queries, keys, make_blocks(first, second))
    rows = contiguous_rows((*first, *second), device)
    if kind == "self":
        return AttentionIndex(rows, rows, make_blocks((*first, *second), (*first, *second)))
    pairs = sum(number for number, _ in first)
    if kind == "cross":
        other = replace(rows, start=_swap(rows.start, pairs), length=_swap(rows.length, pairs))
        total = _total(first)
        forth = make_blocks(first, second, 0, total)
        return AttentionIndex(rows, other, forth + make_blocks(second, first, total, 0))
    return _joint(rows, first, second, pairs)


def _joint(
    rows: SequenceRows, first: tuple[Run, ...], second: tuple[Run, ...], pairs: int
) -> AttentionIndex:
    # Pieces in list order: visible 0, infrared 0, visible 1, infrared 1, ...
    piece_start = torch.stack([rows.start[:pairs], rows.start[pairs:]], 1).flatten()
    piece_length = torch.stack([rows.length[:pairs], rows.length[pairs:]], 1).flatten()
    shift = piece_start - (piece_length.cumsum(0) - piece_length)
    listed = torch.repeat_interleave(shift, piece_length, output_size=rows.num_rows)
    listed = listed + torch.arange(rows.num_rows, device=listed.device)
    length = piece_length.view(pairs, 2).sum(1)
    runs = [(number, a + b) for number, a, b in zip_runs(first, second)]
    joined = SequenceRows(
        length.cumsum(0) - length, length, rows.num_rows, max(size for _, size in runs), listed
    )
    return AttentionIndex(joined, joined, make_blocks(runs, runs))


def _swap(values: Tensor, pairs: int) -> Tensor:
    return torch.cat([values[pairs:], values[:pairs]])


def _total(runs: Iterable[Run]) -> int:
    return sum(number * length for number, length in runs)
