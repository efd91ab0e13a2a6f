"""Run folders of untrained methods, as training would leave them, made in a moment."""

from pathlib import Path

from method_cases import tiny_config

from vireid_fast.engine.checkpoint import Checkpoint, point_to, save_checkpoint
from vireid_fast.engine.method_setup import card_of, facts, new_method
from vireid_fast.engine.run_folder import RunFolder


def made_run(method: str, sets: Path, path: Path, *overrides: str) -> RunFolder:
    """A run of `method` with its first weights; `sets` is of `write_tiny_sets`."""
    config = tiny_config(method, sets, *overrides)
    made = new_method(config, 4, load=False)
    run = RunFolder(path)
    run.start(config)
    moment = {"stage": "made", "epoch": 1, "validation": {"mAP": 0.25}}
    card = {**card_of(made, 4).to_json(), **facts(config, 4), **moment}
    folder = run.checkpoints / "0-made-0001"
    save_checkpoint(folder, Checkpoint(made.model.state_dict(), card))
    for pointer in (run.best, run.latest):
        point_to(pointer, folder)
    return run
