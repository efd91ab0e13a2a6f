"""Ctrl-C and SIGTERM as errors that say what is left: a run that can be resumed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Terminated(BaseException):
    """This process was asked to end by SIGTERM; like KeyboardInterrupt, no Exception."""


class StoppedError(RuntimeError):
    """A command was stopped by a signal; the message says how to go on.

    Attributes:
        exit_code: What the shell expects: 128 + the number of the signal.
        shown_elsewhere: Whether another process of this machine shows it.
    """

    shown_elsewhere = False

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.exit_code = 128 + int(number)


@contextmanager
def stoppable(what: str, remedy: str) -> Iterator[None]:
    """Within it SIGINT and SIGTERM unwind the stack and end in a `StoppedError`.

    Files that are being written are given up and locks released on the way, as for any error.

    Args:
        what: The command.
        remedy: How to go on.

    Raises:
        StoppedError: One of the two signals came.
    """
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if in_main else None
    try:
        yield
    except KeyboardInterrupt:
        raise _stopped(what, remedy, signal.SIGINT) from None
    except Terminated:
        raise _stopped(what, remedy, signal.SIGTERM) from None
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _stopped(what: str, remedy: str, number: signal.Signals) -> StoppedError:
    return StoppedError(f"{what}: stopped by {number.name}. {remedy}", number)
