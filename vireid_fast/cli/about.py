"""`vireid info` and `vireid demo`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vireid_fast.cli.app import app
from vireid_fast.cli.options import (
    ResumeOption,
    console,
    resumable,
    say,
)


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Versions, the kernels in use, and what to run to get the others."""
    from vireid_fast.engine.info import fact_lines, kernel_lines, report

    values = report()
    if as_json:
        print(json.dumps(values, indent=1))  # noqa: T201
        return
    for line in fact_lines(values):
        say(line)
    table = Table("op", "CPU", "GPU", title="kernels in use", title_justify="left")
    for kernel in kernel_lines():
        table.add_row(kernel.op, kernel.cpu, kernel.cuda)
    console.print(table)
    for line in values["advice"]:
        say(line)


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--run", "-r", help="Folder.")] = Path("runs/demo"),
    identities: Annotated[int, typer.Option(help="Persons to draw.")] = 200,
    short: Annotated[bool, typer.Option(help="Only show that everything works.")] = False,
    resume: ResumeOption = False,
) -> None:
    """Draw a data set, train a small CSDN, evaluate it without and with re-ranking."""
    from vireid_fast.engine.demo import demo as work
    from vireid_fast.engine.tables import results_table

    with resumable("demo", run):
        finished, results = work(run, identities=identities, short=short, resume=resume)
    console.print(results_table(results))
    say(f"run: {finished.path}  results: {finished.results_file}")
    say(f"report: {finished.path / 'report.html'}")
