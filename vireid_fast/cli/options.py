"""Options that several commands share, and printing."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vireid_fast.config import load_config

console = Console()

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help="YAML file, or a preset such as csdn/scene_regions.")
]
RunOption = Annotated[Path, typer.Option("--run", "-r", help="Folder of the run.")]
ModelOption = Annotated[
    Path | None, typer.Option(help="Or a model folder: model.safetensors and card.json.")
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue a stopped run; on the CPU bit for bit.")
]
DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of the data set (data.root).")
]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad-images", help="Leave damaged images out and count them.")
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        help="sysu/agw (default), sysu/official, regdb/agw, regdb/mpanet, llcm/paper, "
        "llcm/official-code, llcm/idkl, vcm/mitml, bupt/full, bupt/official-bs64, market1501."
    ),
]
ModeOption = Annotated[
    str | None,
    typer.Option(
        help="all or indoor (sysu), infrared-visible or visible-infrared (regdb, llcm, vcm, "
        "bupt), all (market1501), several with commas, or each. Left out: all, or both directions."
    ),
]


def integers(text: str) -> tuple[int, ...]:
    """Parse a list such as 1,10."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"must be integers such as 1,10, got {text!r}") from None


ShotsOption = Annotated[
    tuple | None,  # type: ignore[type-arg]  # of whatever `integers` gives
    typer.Option(
        parser=integers,
        metavar="N[,N]",
        help="Images per identity and camera, where drawn; default 1.",
    ),
]
PermutationsOption = Annotated[
    Path | None, typer.Option(help="rand_perm_cam.mat, for sysu/official.")
]
MetricOption = Annotated[
    str | None, typer.Option(help="euclidean, cosine or dot; the protocol's own otherwise.")
]
RerankOption = Annotated[str | None, typer.Option(help="k1,k2,lambda, e.g. 20,6,0.3.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Overrides such as seed=2 csdn.visual.epochs=10.", metavar="[KEY=VALUE]"),
]


def configuration(source: str, overrides: list[str] | None, root: Path | None, skip: bool) -> Any:
    """The configuration that the options name."""
    # Quoted, so that a folder called 2024 stays text.
    extra = [f"data.root={json.dumps(str(root))}"] if root is not None else []
    extra += ["data.skip_bad_images=true"] if skip else []
    return load_config(source, [*extra, *(overrides or [])])


def say(text: str) -> None:
    """One line as it is: never wrapped, and brackets in a path are no markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def resumable(command: str, run: Path, options: str = "--resume") -> Iterator[None]:
    """Ctrl-C and SIGTERM end a command with a line that says how to go on."""
    from vireid_fast.engine.interrupts import StoppedError, stoppable

    remedy = (
        f"Nothing is damaged: `vireid {command} --run {run} {options}` goes on after what is "
        "finished."
    )
    try:
        with stoppable(command, remedy):
            yield
    except StoppedError as error:
        error.shown_elsewhere = os.environ.get("LOCAL_RANK", "0") != "0"
        raise


def is_first_process() -> bool:
    """Whether this process speaks for all that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def once_per_machine() -> Iterator[None]:
    """torchrun starts equal processes; what is wrong before they meet, the first one tells."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        # By this the command line knows not to repeat it.
        setattr(error, "shown_elsewhere", os.environ.get("LOCAL_RANK", "0") != "0")  # noqa: B010
        raise


def show_results(results: dict[str, Any], path: Path | None, *, together: bool = False) -> None:
    """Print results as tables, and write them as JSON if `path` says where."""
    if not is_first_process():
        return
    from vireid_fast._files import atomic_write
    from vireid_fast.engine.evaluation_files import results_json
    from vireid_fast.engine.tables import results_table, settings_table

    console.print(settings_table(results) if together else results_table(results))
    if path is not None:
        with atomic_write(path) as temporary:
            temporary.write_text(results_json(results), encoding="utf-8")
        say(f"written: {path}")
