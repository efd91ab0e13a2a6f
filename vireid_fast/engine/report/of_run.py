"""The report of a run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vireid_fast._checks import positive_int, require
from vireid_fast.config import Config, ConfigError
from vireid_fast.data.permutations import read_permutations
from vireid_fast.data.table import INFRARED, VISIBLE
from vireid_fast.engine.data_setup import Table, read_table
from vireid_fast.engine.extraction import Extraction
from vireid_fast.engine.method_setup import load_described, processing_words
from vireid_fast.engine.methods import Method
from vireid_fast.engine.report.facts import json_object, run_facts
from vireid_fast.engine.report.feature_map import require_map
from vireid_fast.engine.report.judged import Judged, setting_of
from vireid_fast.engine.report.method_pictures import Pair, method_pictures
from vireid_fast.engine.report.ranked import Partners, main_result
from vireid_fast.engine.report.sections import sections
from vireid_fast.engine.report.shelf import table_shelf
from vireid_fast.engine.report.stored import stored_extraction
from vireid_fast.engine.report.training import training_curves
from vireid_fast.engine.run_evaluation import (
    evaluate_features,
    extract,
    modes,
    require_evaluation,
)
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.report.content import Report
from vireid_fast.retrieval.metrics import METRIC_NAMES, NoValidQuery
from vireid_fast.retrieval.protocols import PROTOCOLS
from vireid_fast.retrieval.results import EvaluationResult
from vireid_fast.retrieval.searches import Setting


def report_of_run(
    run: RunFolder,
    *,
    map_method: str = "pca",
    queries: int = 3,
    features: Extraction | None = None,
    results: Mapping[str, EvaluationResult] | None = None,
    skip_bad: bool = False,
) -> Report:
    """Everything a page shows of a run; writes nothing.

    Args:
        run: The run.
        map_method: "pca" or "tsne", see `feature_map`.
        queries: Ranked queries of each kind, at least 1.
        features: Test features, where they were just extracted; None: those of features/test.npz
            where that names the run's best checkpoint, else they are extracted.
        results: Of `evaluate_run`, where they are known; None: computed from the features.
        skip_bad: See `extract_run`.

    Returns:
        The report, the same for the same run. Without a valid query it has no results, and a note.

    Raises:
        ValueError: The run, its checkpoint or its data cannot be used, or an argument does not fit.
        RuntimeError: The map is t-SNE and scikit-learn is not installed.
    """
    require_map(map_method)
    positive_int("report", "queries", queries)
    config = run.config()
    if skip_bad:
        config = replace(config, data=replace(config.data, skip_bad_images=True))
    root = Path(config.data.root)
    require(
        root.exists(), "report", "data.root", "exist: the images are there, or their manifest",
        f"{config.data.root!r} in {run.config_file}", "Without it, `vireid report --features "
        f"{run.features / 'test.npz'}` shows what the features tell.", ConfigError,
    )  # fmt: skip
    table = read_table(config)
    require_evaluation(config, table)
    method, card = load_described(run)
    if features is None:
        features = stored_extraction(run, table, card.digest)
    if features is None:
        features = extract(config, table, method, "test")
    notes: list[str] = []
    if results is None:
        results = _evaluated(config, table, method, features, notes)
        notes += _stored_differ(run, results)
    judged = _judged(config, table, features)
    shelf = table_shelf(table, features.rows, features.features)
    metric = judged.rules.metric
    if results:
        setting = setting_of(results[main_result(results)])
    else:
        setting = Setting(modes(config)[0], config.evaluation.shots)
    found, partners = sections(
        judged, results, (shelf, shelf), metric=metric, setting=setting,
        map_method=map_method, queries=queries,
    )  # fmt: skip
    pairs = [pair for own in partners if (pair := _pair(table, features, own)) is not None]
    pictures, unseen = method_pictures(method, table, pairs)
    training, damaged = training_curves(run.metrics_file)
    if features.bad:
        notes.append(f"{len(features.bad)} damaged images were left out of the evaluation.")
    return Report(
        title=f"{config.method} on {config.data.name}",
        facts=run_facts(run, config, table, processing_words(config, method)),
        results=dict(results),
        training=training,
        method_pictures=pictures,
        **{**found, "notes": (*notes, *damaged, *found["notes"], *unseen)},
    )


def _pair(table: Table, features: Extraction, partners: Partners) -> Pair | None:
    """A query and its nearest right item as rows of the table; None within one modality."""
    rows = features.rows[[partners.query, partners.gallery]]
    modality = table.modality[rows].tolist()
    if sorted(modality) != [VISIBLE, INFRARED]:
        return None
    visible, infrared = (int(rows[modality.index(m)]) for m in (VISIBLE, INFRARED))
    return Pair(partners.kind, int(table.person_ids[visible]), visible, infrared)


def _evaluated(
    config: Config,
    table: Table,
    method: Method,
    features: Extraction,
    notes: list[str],
) -> dict[str, EvaluationResult]:
    """Results of the configured modes; none, and a note, where no query is valid."""
    try:
        return evaluate_features(
            config, table, method, features, rerank=bool(config.evaluation.rerank)
        )
    except NoValidQuery as error:
        notes.append(f"No result: {error}")
        return {}


def _judged(config: Config, table: Table, features: Extraction) -> Judged:
    rules = PROTOCOLS[config.evaluation.protocol]
    permutations = None
    if rules.needs_permutations:
        permutations = read_permutations(table.root / "exp" / "rand_perm_cam.mat")
    return Judged(rules, features.features, features.features, permutations)


def _stored_differ(run: RunFolder, results: Mapping[str, EvaluationResult]) -> list[str]:
    """A note where results.json holds other numbers than the features give."""
    stored = json_object(run.results_file)
    different = [
        name
        for name, result in results.items()
        if isinstance(stored.get(name), dict)
        and any(stored[name].get(key) != result.mean[key] for key in METRIC_NAMES)
    ]
    if not different:
        return []
    return [
        f"results.json holds other numbers for {', '.join(different)}: it was made with another "
        "checkpoint, data set, machine or version. Run vireid eval again."
    ]
