"""The main job on an embedded synthetic data set, start to end in minutes."""

from dataclasses import replace
from pathlib import Path

from vireid_fast._checks import require
from vireid_fast._files import atomic_write
from vireid_fast._locks import exclusive
from vireid_fast.config import load_config
from vireid_fast.data.synthetic import contact_sheet, write_sysu_layout
from vireid_fast.engine.launch import require_one_process
from vireid_fast.engine.pages import write_run_page
from vireid_fast.engine.pretraining import pretrain
from vireid_fast.engine.progress import progress_bar, say
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.engine.workflow import evaluate_run, train
from vireid_fast.retrieval.evaluation import EvaluationResult

PRESET = "csdn/sysu_mm01_small"
SHORT = (
    "csdn.prompts.epochs=2", "csdn.fusion.epochs=2", "csdn.visual.epochs=1", "pretrain.epochs=1",
    "pretrain.steps=4", "pretrain.identities=24", "sampler.identities=4",
)  # fmt: skip
# Of fewer the training split holds less than the identities of a batch.
MIN_IDENTITIES, MIN_IDENTITIES_SHORT = 30, 14


def demo(
    path: Path, *, identities: int, short: bool, resume: bool
) -> tuple[RunFolder, dict[str, EvaluationResult]]:
    """Draw a data set, pre-train, train a small CSDN, extract, evaluate plain and re-ranked.

    Args:
        path: Folder for the data set and the runs.
        identities: Identities to draw.
        short: Only show that everything works; the result means nothing.
        resume: Continue a stopped demo.

    Returns:
        The training run and its results on the test identities.

    Raises:
        ValueError: Too few identities.
    """
    require_one_process("demo")
    fewest = MIN_IDENTITIES_SHORT if short else MIN_IDENTITIES
    require(identities >= fewest, "demo", "--identities", f"be at least {fewest}", identities)
    with exclusive(path, "demo"):
        return _demo(path, identities=identities, short=short, resume=resume)


def _demo(
    path: Path, *, identities: int, short: bool, resume: bool
) -> tuple[RunFolder, dict[str, EvaluationResult]]:
    root = path / "data"
    with progress_bar("drawing pedestrians") as advance:
        write_sysu_layout(root, identities=identities, views=2, progress=advance)
    with atomic_write(path / "contact_sheet.png") as temporary:
        contact_sheet(root).save(temporary, format="PNG")
    say(f"data set: {root}, pictures: {path / 'contact_sheet.png'}")
    overrides = [f"data.root={root}", *(SHORT if short else ())]
    config = load_config(PRESET, overrides)
    weights = pretrain(config, path / "pretrain", resume=resume)
    config = replace(config, clip=replace(config.clip, weights=str(weights)))
    run = train(config, path / "csdn", resume=resume)
    return run, evaluate_run(run, then=write_run_page)
