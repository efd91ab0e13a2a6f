"""The command `vireid compare`."""

from pathlib import Path
from typing import Annotated

import typer

from vireid_fast.cli.app import app
from vireid_fast.cli.options import console, say


@app.command()
def compare(
    result: Annotated[
        Path, typer.Argument(help="Run or result file to judge.", metavar="RESULT")
    ],
    expected: Annotated[
        list[Path],
        typer.Argument(help="Two or more such of other seeds.", metavar="EXPECTED"),
    ],
    confidence: Annotated[
        float, typer.Option(help="Share of good results that count as inside.")
    ] = 0.95,
) -> None:  # fmt: skip
    """Tell whether a result lies where those of other seeds lie; exit code 1 if not.

    Files are those of `vireid eval --json`, a run's results.json, or of benchmarks/results.
    """
    from vireid_fast.engine.expected import compare_files
    from vireid_fast.engine.tables import comparison_table

    found = compare_files(result, expected, confidence=confidence)
    console.print(comparison_table(found))
    outside = [f"{each.result} {each.metric}" for each in found if not each.inside]
    if outside:
        say(f"outside: {', '.join(outside)}")
        raise typer.Exit(1)
    say("all inside")
