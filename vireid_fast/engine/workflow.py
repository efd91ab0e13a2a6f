"""What the commands do: train, extract, evaluate a run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vireid_fast.config import Config
from vireid_fast.engine.data_setup import read_table, require_kind, training_data
from vireid_fast.engine.distributed import World
from vireid_fast.engine.extraction import Extraction
from vireid_fast.engine.feature_writing import row_paths, write_extraction
from vireid_fast.engine.method_setup import (
    card_of,
    facts,
    load_described,
    new_method,
    read_start,
)
from vireid_fast.engine.methods import METHODS
from vireid_fast.engine.progress import silent
from vireid_fast.engine.run_evaluation import (
    evaluate_features,
    extract,
    require_evaluation,
    validation,
)
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.engine.trainer import Trainer
from vireid_fast.nn import global_batch_norm
from vireid_fast.retrieval.results import EvaluationResult, combine

AfterEvaluation = Callable[[RunFolder, Extraction, dict[str, EvaluationResult]], object]


def train(
    config: Config, path: Path, *, resume: bool = False, timeout: float = 600.0
) -> RunFolder:
    """Train all stages of the configured method into a run folder.

    Under torchrun every process takes its part of each batch; the first one alone writes.

    Args:
        config: The configuration; saved with the run.
        path: Run folder; new, or an unfinished run with `resume`.
        resume: Continue after the last checkpoint.
        timeout: Seconds that a process waits for the tensors of another that is stuck; one that
            fails stops the others at once.

    Returns:
        The run.
    """
    run = RunFolder(path)
    world = World.from_environment(config.device, timeout=timeout)
    with world, silent(not world.is_main), run.held(take=world.is_main):
        run.require_startable(config, resume=resume)
        # Refused now, not by the stage in which batches are shared first.
        world.identity_slice(config.sampler.identities, config.sampler.instances)
        saved, config = config, replace(config, device=str(world.device))
        table = read_table(config)
        require_kind(config, table, video=METHODS[config.method].video)
        require_evaluation(config, table)
        data = training_data(config, table, world)
        identities = len(data.identities)
        fresh = not run.latest.exists()
        method = new_method(config, identities, load=fresh, world=world)
        if world.size > 1:
            # Heads see the gathered batch; the encoder alone sees a part of it.
            method.model.encoder = global_batch_norm(method.model.encoder)
        trainer = Trainer(
            method.model,
            method.stages(data),
            run,
            seed=config.seed,
            facts=facts(config, identities),
            description=card_of(method, identities).to_json(),
            world=world,
            accumulate=config.accumulate,
            validate=validation(config, table, method),
            validate_every=config.evaluation.every,
        )
        run_trainer(trainer, saved)
    return run


def run_trainer(trainer: Trainer, config: Config) -> None:
    """Train; the folder is written to only now that nothing is left that could be refused."""
    trainer.restore()
    # No process may look for a checkpoint after another has begun to write.
    trainer.world.barrier()
    if trainer.world.is_main:
        trainer.run.start(config, processes=trainer.world.size)
    trainer.train()


def evaluate_start(config: Config) -> dict[str, EvaluationResult]:
    """Evaluate, on the test identities, the weights that training starts from: a baseline."""
    table = read_table(config)
    require_evaluation(config, table)
    identities = 1
    if config.start_from:
        identities = read_start(config, None)[1].card["num_identities"]
    method = new_method(config, identities, load=True)
    extraction = extract(config, table, method, "test")
    return evaluate_features(config, table, method, extraction, rerank=False)


def extract_run(
    run: RunFolder,
    split: str = "test",
    *,
    out: Path | None = None,
    which: str = "best",
    dtype: str = "float32",
    skip_bad: bool = False,
) -> tuple[Path, Extraction]:
    """Extract a split with a run's model and write the feature file.

    A run may be read while it is trained; its own feature files are written by one process at a
    time.

    Args:
        run: The run.
        split: "train", "val" or "test".
        out: Feature file; None: `features/SPLIT.npz` of the run.
        which: See `load_method`.
        dtype: "float32" or "float16", in which the file holds the features.
        skip_bad: Leave damaged images out, also where the run's configuration stops at them.

    Returns:
        Path of the file and the extraction.

    Raises:
        InUseError: `out` is None, and another process writes features or results of the run.
    """
    with run.held(by="evaluation", take=out is None):
        target = out or run.features / f"{split}.npz"
        return _extract_run(run, split, target, which, dtype, skip_bad)


def _extract_run(
    run: RunFolder, split: str, out: Path, which: str, dtype: str, skip_bad: bool
) -> tuple[Path, Extraction]:
    config = run.config()
    if skip_bad:
        config = replace(config, data=replace(config.data, skip_bad_images=True))
    table = read_table(config)
    method, card = load_described(run, which)
    extraction = extract(config, table, method, split)
    write_extraction(
        out, extraction.features, card, dtype=dtype, root=table.root,
        paths=row_paths(table, extraction.rows),
        further={"split": split, "seed": str(config.seed)},
    )  # fmt: skip
    return out, extraction


def evaluate_run(
    run: RunFolder, *, skip_bad: bool = False, then: AfterEvaluation | None = None
) -> dict[str, EvaluationResult]:
    """Evaluate a run on the test identities, plain and, where configured, re-ranked.

    Writes features/test.npz and results.json.

    Args:
        run: The run.
        skip_bad: See `extract_run`.
        then: Called with the run, its test features and its results, as for a report.

    Raises:
        InUseError: Another process writes features or results of the run.
    """
    with run.held(by="evaluation"):
        extraction, results = _evaluate_run(run, skip_bad)
    if then is not None:
        then(run, extraction, results)
    return results


def _evaluate_run(
    run: RunFolder, skip_bad: bool
) -> tuple[Extraction, dict[str, EvaluationResult]]:
    config = run.config()
    table = read_table(config)
    require_evaluation(config, table)
    target = run.features / "test.npz"
    _, extraction = _extract_run(run, "test", target, "best", "float32", skip_bad)
    method = METHODS[config.method]
    results = evaluate_features(
        config, table, method, extraction, rerank=bool(config.evaluation.rerank)
    )
    run.write_json(run.results_file, {name: r.to_json() for name, r in results.items()})
    return extraction, results


def evaluate_runs(
    runs: Sequence[RunFolder], *, skip_bad: bool = False, then: AfterEvaluation | None = None
) -> dict[str, EvaluationResult]:
    """Evaluate several runs, each as `evaluate_run` does, and join their trials.

    So RegDB's published number is the mean over ten models, one for each split.

    Args:
        runs: At least one run.
        skip_bad: See `extract_run`.
        then: Called after each run, see `evaluate_run`.

    Raises:
        ValueError: The runs are not judged alike, or two have the same split.
    """
    each = [evaluate_run(run, skip_bad=skip_bad, then=then) for run in runs]
    if len(each) == 1:
        return each[0]
    return {name: combine([results[name] for results in each]) for name in each[0]}
