"""Commands that train: `vireid pretrain`, `vireid train`."""

from typing import Annotated

import typer

from vireid_fast.cli.app import app
from vireid_fast.cli.options import (
    ConfigOption,
    DataRootOption,
    Overrides,
    ResumeOption,
    RunOption,
    SkipOption,
    configuration,
    is_first_process,
    once_per_machine,
    resumable,
    say,
)


@app.command()
def pretrain(
    config: ConfigOption,
    run: RunOption,
    overrides: Overrides = None,
    data_root: DataRootOption = None,
    skip_bad_images: SkipOption = False,
    resume: ResumeOption = False,
) -> None:
    """Align the image and text encoder of a small CLIP; writes RUN/weights.safetensors."""
    from vireid_fast.engine.pretraining import pretrain as work

    chosen = configuration(config, overrides, data_root, skip_bad_images)
    # Without its configuration a pre-training cannot be resumed.
    with resumable("pretrain", run, f"--config {config} ... --resume"):
        weights = work(chosen, run, resume=resume)
    say(f"weights: {weights}")


@app.command()
def train(
    run: RunOption,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="YAML file, or a preset such as csdn/scene_regions."),
    ] = None,
    overrides: Overrides = None,
    method: Annotated[
        str | None, typer.Option("--method", help="With --data: the preset METHOD/DATA.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="See --method.")] = None,
    data_root: DataRootOption = None,
    skip_bad_images: SkipOption = False,
    resume: ResumeOption = False,
) -> None:
    """Train a method through all its stages."""
    from vireid_fast.engine.run_folder import configuration_source
    from vireid_fast.engine.workflow import train as work

    with once_per_machine():
        source = configuration_source(config, method, data, run if resume else None)
        chosen = configuration(source, overrides, data_root, skip_bad_images)
    with resumable("train", run):
        result = work(chosen, run, resume=resume)
    if is_first_process():
        say(f"run: {result.path}  next: vireid eval --run {result.path}")
