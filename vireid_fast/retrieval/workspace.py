"""Blocks of rows inside a budget of memory, made smaller where the machine has not got that much.

The budget of a call is its `workspace`, in bytes: no block is larger. Where an allocation for a
block fails, the rest of the call works on half as many rows, down to one, with a warning each time
and the same bits. Only where one row has no room, or what grows with all items (the output, lists,
sparse rows), an `OutOfMemoryError` says what was needed.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from vireid_fast import _checks

Result = TypeVar("Result")

_ALLOCATION = re.compile(
    r"DefaultCPUAllocator: can't allocate memory|DefaultCPUAllocator: not enough memory|bad_alloc|"
    r'"aten::(new_\w+|empty|contiguous|clone)".*API call failed',
    re.DOTALL,
)
"""What a RuntimeError says of an allocation that failed on the CPU; behind the stable ABI, through
which the kernels allocate, no more than which call it was."""


class OutOfMemoryError(MemoryError, RuntimeError):
    """The machine cannot give the memory that is needed at least; the message says how much."""


class Workspace:
    """Rows of distances that are worked on at once.

    Args:
        rows: Rows that fit the budget, at least 1.
        row_bytes: Bytes that each of them takes.
        what: Name of the caller, for warnings and errors.
    """

    def __init__(self, rows: int, row_bytes: int, what: str) -> None:
        self._rows, self._row_bytes, self._what = rows, row_bytes, what
        self._most: int | None = None

    @property
    def rows(self) -> int:
        """Rows that are worked on at once; fewer after memory ran out."""
        return self._rows if self._most is None else min(self._rows, self._most)

    def over(
        self,
        begin: int,
        end: int,
        work: Callable[[int, int], Result],
        *,
        at_once: int | None = None,
    ) -> list[Result]:
        """`work(first, last)` for consecutive blocks of the rows begin to end - 1.

        Args:
            begin: First row.
            end: Row behind the last one.
            work: Computes the rows first to last - 1; called again for a part of them where its
                memory could not be had, so it must write the same values again.
            at_once: Rows of a block where it is not `rows`.

        Returns:
            The results in order.

        Raises:
            OutOfMemoryError: There is no room for a single row.
        """
        results: list[Result] = []
        first = begin
        while first < end:
            size = at_once or self._rows
            last = min(first + (size if self._most is None else min(size, self._most)), end)
            reason = _attempt(work, first, last, results)
            if reason is None:
                first = last
            else:
                # Outside the handler, which would keep what the attempt had allocated.
                self._halve(last - first, reason)
        return results

    def _halve(self, rows: int, reason: str) -> None:
        if rows == 1:
            raise OutOfMemoryError(
                _checks.sentence(
                    self._what, "memory", f"hold one row of {self._row_bytes:,} bytes at a time",
                    f"a refusal ({reason})", "Free memory, or use a machine with more.",
                )
            )  # fmt: skip
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        self._most = rows // 2
        warnings.warn(
            f"{self._what}: memory ran out for {rows} rows at once "
            f"({rows * self._row_bytes:,} bytes); goes on with {self._most} "
            f"({self._most * self._row_bytes:,} bytes). The result is the same.",
            RuntimeWarning, stacklevel=5,
        )  # fmt: skip


@contextmanager
def stated(what: str, needs: Callable[[], str]) -> Iterator[None]:
    """Errors of allocations become an `OutOfMemoryError` that says what memory must hold.

    Args:
        what: Name of the caller.
        needs: The end of "memory must hold ...", asked for on failure only.
    """
    reason = None
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = _reason(error)
    if reason is not None:
        raise OutOfMemoryError(
            _checks.sentence(
                what, "memory", f"hold {needs()}", f"a refusal ({reason})",
                "Free memory, split the queries, or ask for lists instead of a matrix.",
            )
        )  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_ALLOCATION.search(str(error)))


def _attempt(
    work: Callable[[int, int], Result], first: int, last: int, results: list[Result]
) -> str | None:
    """Append the result of a block, or return why its memory could not be had."""
    try:
        results.append(work(first, last))
        return None
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _reason(error)


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
