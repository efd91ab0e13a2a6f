"""Progress on the terminal: bars where a person looks, single lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)

Advance = Callable[[int, int], None]


@contextmanager
def progress_bar(description: str, *, enabled: bool = True) -> Iterator[Advance]:
    """A bar driven by calls `advance(done, total)`; transient, and silent without a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    live = enabled and console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not live) as progress:
        task = progress.add_task(description, total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield advance


@contextmanager
def silent(enabled: bool) -> Iterator[None]:
    """Within it, where `enabled`, there are no bars and no lines: another process shows them."""
    before, console.quiet = console.quiet, console.quiet or enabled
    try:
        yield
    finally:
        console.quiet = before


def say(message: str) -> None:
    """One line for the person who started the command, on standard error."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)
