"""The command `vireid`: parses, calls, prints. No logic."""
# ruff: noqa: I001

import sys
import time
from typing import Annotated

import typer
from rich.console import Console

from vireid_fast._version import __version__

from vireid_fast.cli.app import app
from vireid_fast.cli.options import say

# Importing a module registers its commands, in the order of `vireid --help`.
from vireid_fast.cli import training  # noqa: F401
from vireid_fast.cli import features  # noqa: F401
from vireid_fast.cli import comparison  # noqa: F401
from vireid_fast.cli import search  # noqa: F401
from vireid_fast.cli import report  # noqa: F401
from vireid_fast.cli import interchange  # noqa: F401
from vireid_fast.cli import data  # noqa: F401
from vireid_fast.cli import about  # noqa: F401


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        say(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: errors of use and of files become one line and exit code 1."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (
        ValueError, TypeError, OSError, RuntimeError, NotImplementedError, MemoryError
    ) as error:  # fmt: skip
        # A signal that stopped the command is no error of it, and has a code of its own.
        stopped = getattr(error, "exit_code", None)
        if getattr(error, "shown_elsewhere", False):
            if stopped is None:
                # torchrun ends all processes when one has left; the one that shows it needs time.
                time.sleep(5)
            sys.exit(stopped or 1)
        text = str(error) if stopped else f"error: {_words(error)}"
        Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
        sys.exit(stopped or 1)


def _words(error: Exception) -> str:
    """What went wrong; the system's refusal of a file in a sentence of ours."""
    if not isinstance(error, OSError) or type(error).__str__ is not OSError.__str__:
        return str(error)
    if error.filename is None or error.strerror is None:
        return str(error)
    return (
        f"open: {error.filename} must be accessible, got {error.strerror}. "
        "Correct the name, or the permissions."
    )
