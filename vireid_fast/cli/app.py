"""The application that the commands register with."""

import typer

app = typer.Typer(
    name="vireid",
    help="Visible-infrared person re-identification: train, extract, evaluate, re-rank.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
