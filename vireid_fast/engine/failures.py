"""What becomes of the other processes when one fails: they stop, name it, and one of them tells.

Processes talk through the store in which they met, which outlives their connections.
"""

import time
from collections.abc import Sequence
from typing import TypeVar

import torch.distributed as dist

from vireid_fast._checks import sentence
from vireid_fast._collectives import CollectiveError

FAILED = "failed"
"""Key under which the first process that fails says so."""

STOPPED = "stopped"
"""Key under which each process says that it no longer waits for the others."""

PATIENCE = 5.0
"""Seconds in which processes that are left alone find out who else is."""

Error = TypeVar("Error", bound=BaseException)


def left_alone(reason: str) -> CollectiveError:
    """The error of a process that cannot go on without another."""
    return CollectiveError(
        sentence(
            "distributed", "all processes", "go on to the end", reason.rstrip("."),
            "Repair that one; --resume continues after the last checkpoint.",
        )
    )  # fmt: skip


def report_failure(store: dist.Store, name: str, error: BaseException) -> None:
    """Tell the others of an error of this process; mark it if another has told the same one."""
    told = f" failed: {type(error).__name__}: {error}"
    own = f"{name}{told}"
    try:
        first = store.compare_set(FAILED, "", own).decode()
    except RuntimeError:
        # The store is gone where it was held by a process that ended; this one can only raise.
        return
    mark(error, shown_elsewhere=first != own and first.endswith(told))


def explain(
    store: dist.Store, rank: int, names: Sequence[str], error: CollectiveError
) -> CollectiveError:
    """The error of a process whose peers are gone: names the one that failed, was killed or hangs.

    Args:
        store: Where the processes met.
        rank: This process.
        names: How messages name each process.
        error: What went wrong here.

    Returns:
        An error to raise from `error`, marked where another process shows the cause.
    """
    others = set(range(len(names))) - {rank}
    stopped: set[int] = set()
    end = time.monotonic() + PATIENCE
    try:
        store.set(f"{STOPPED}/{rank}", "")
        while stopped != others and time.monotonic() < end:
            if store.check([FAILED]):
                named = left_alone(store.get(FAILED).decode())
                # The failed process shows its error, and the first one names it once more.
                return mark(named, shown_elsewhere=rank > 0)
            stopped |= {r for r in others - stopped if store.check([f"{STOPPED}/{r}"])}
            time.sleep(0.02)
        silent = ", ".join(names[other] for other in sorted(others - stopped))
        last = f" No sign of {silent}: killed, or stuck." if silent else ""
        # Who waits at the store, not for a connection, must stop as well.
        store.compare_set(FAILED, "", f"{names[rank]} gave up: {error}{last}")
    except RuntimeError:
        held = f"{names[0]} or torchrun, which held the store, has ended."
        return CollectiveError(f"{error} {held[0].upper()}{held[1:]}")
    return mark(CollectiveError(f"{error}{last}"), shown_elsewhere=any(r < rank for r in stopped))


def tell_loss(store: dist.Store, text: str) -> str:
    """Tell the others of a process that died; returns what was told first, that or its error."""
    try:
        return store.compare_set(FAILED, "", text).decode()
    except RuntimeError:
        return text


def mark(error: Error, *, shown_elsewhere: bool) -> Error:
    """Set `shown_elsewhere`, by which the command line knows not to repeat an error."""
    setattr(error, "shown_elsewhere", shown_elsewhere)  # noqa: B010
    return error
