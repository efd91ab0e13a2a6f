"""Lengths of sequences, run-length coded, and the blocks of equal sequences they form."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

Run = tuple[int, int]
"""How many sequences in a row have one length, and that length."""


class Block(NamedTuple):
    """Equally long sequences, consecutive among the query and the key list entries."""

    first_query: int
    first_key: int
    sequences: int
    query_length: int
    key_length: int


def run_lengths(lengths: Sequence[int]) -> tuple[Run, ...]:
    """Run-length code: (3, 3, 5) -> ((2, 3), (1, 5))."""
    runs: list[Run] = []
    for length in lengths:
        number = runs.pop()[0] if runs and runs[-1][1] == length else 0
        runs.append((number + 1, length))
    return tuple(runs)


def zip_runs(first: Iterable[Run], second: Iterable[Run]) -> Iterator[tuple[int, int, int]]:
    """Number of sequences, first length and second length of each common run."""
    others = iter(second)
    left, other = 0, 0
    for number, length in first:
        while number > 0:
            if left == 0:
                left, other = next(others)
            common = min(number, left)
            yield common, length, other
            number, left = number - common, left - common


def make_blocks(
    query_runs: Iterable[Run], key_runs: Iterable[Run], first_query: int = 0, first_key: int = 0
) -> tuple[Block, ...]:
    """Blocks of query and key sequences that follow each other from the given list entries."""
    blocks = []
    for number, query_length, key_length in zip_runs(query_runs, key_runs):
        blocks.append(Block(first_query, first_key, number, query_length, key_length))
        first_query += number * query_length
        first_key += number * key_length
    return tuple(blocks)
