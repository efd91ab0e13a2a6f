"""Evaluation of a run's own model: on validation identities while it trains, on test ones after."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vireid_fast._checks import require
from vireid_fast.config import Config, ConfigError
from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.permutations import read_permutations
from vireid_fast.data.table import INFRARED, UNKNOWN_CAMERA
from vireid_fast.engine.data_setup import Table, frame_sampling
from vireid_fast.engine.evaluation_files import EACH
from vireid_fast.engine.extraction import Extraction, extract_features
from vireid_fast.engine.method_setup import processing_words
from vireid_fast.engine.methods import Method
from vireid_fast.engine.progress import say
from vireid_fast.retrieval.evaluation import EvaluationResult, evaluate_modes
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.protocols import PROTOCOLS

CHOSEN_BY = ("R1", "mAP", "mINP")


def modes(config: Config) -> tuple[str, ...]:
    """The modes that a run is evaluated in."""
    own = config.evaluation
    return tuple(PROTOCOLS[own.protocol].modes) if own.mode == EACH else (own.mode,)


def require_evaluation(config: Config, table: Table) -> None:
    """Refuse, before anything is computed, an evaluation that could not take place."""
    own, options = config.evaluation, sorted(PROTOCOLS)
    require(own.protocol in PROTOCOLS, "config", "evaluation.protocol", f"be one of {options}",
            repr(own.protocol), error=ConfigError)  # fmt: skip
    rules = PROTOCOLS[own.protocol]
    require(own.mode in (*rules.modes, EACH), "config", "evaluation.mode",
            f"be one of {sorted(rules.modes)} or {EACH!r} for {rules.name}", repr(own.mode),
            error=ConfigError)  # fmt: skip
    file = table.root / "exp" / "rand_perm_cam.mat"
    require(
        not rules.needs_permutations or file.is_file(), "config", "evaluation.protocol",
        f"be one without stored permutations where {file} is absent", repr(own.protocol),
        "Put the file there, as SYSU-MM01 publishes it, or choose sysu/agw.", ConfigError,
    )  # fmt: skip
    unknown = np.count_nonzero(table.camera_ids[table.rows("val+test")] == UNKNOWN_CAMERA)
    require(
        not rules.needs_cameras or not unknown, "config", "evaluation.protocol",
        f"be one without cameras where {table.root} has {unknown} validation or test rows of an "
        "unknown one", repr(own.protocol),
        "Give the cameras, or choose one without, such as regdb/agw.", ConfigError,
    )  # fmt: skip
    sides = [side for mode in rules.modes.values() for side in (mode.query, mode.gallery)]
    require(
        table.roles is not None or all(side.role is None for side in sides),
        "config", "evaluation.protocol",
        f"be one without fixed queries where {table.root} does not say who queries",
        repr(own.protocol),
        "Name queries and gallery in the manifest, or choose another, such as regdb/agw.",
        ConfigError,
    )  # fmt: skip


def validation(
    config: Config, table: Table, method: Method
) -> Callable[[], dict[str, float]] | None:
    """Metrics on the validation identities; None where these are trained on, or there are none.

    A protocol of several modes is represented by the first. Where a protocol has fixed queries,
    the infrared validation rows query and the visible ones are the gallery.
    """
    if "val" in config.data.train_split or not len(table.identities("val")):
        say("no validation identities are left out of training: the last epoch is kept")
        return None

    def validate() -> dict[str, float]:
        features = extract(config, table, method, "val").features
        assert features.modality is not None
        features = replace(features, roles=(features.modality == INFRARED).long())
        mode = modes(config)[0]
        result = _evaluate(config, table, method, features, (mode,), rerank=False)[mode]
        return {name: result.mean[name] for name in CHOSEN_BY}

    return validate


def extract(config: Config, table: Table, method: Method, split: str) -> Extraction:
    """Test-time features of a split; the model returns to the mode that it was in."""
    training = method.model.training
    method.model.eval()
    try:
        with method.runtime.precision.autocast():
            return extract_features(
                method.encode,
                table,
                table.rows(split),
                method.size,
                method.augmentation,
                sampling=frame_sampling(config) if method.video else None,
                batch_size=config.evaluation.batch_size,
                device=config.device,
                skip_bad=config.data.skip_bad_images,
                description=f"extracting {split}",
            )
    finally:
        method.model.train(training)


def evaluate_features(
    config: Config,
    table: Table,
    method: Method | type[Method],
    extraction: Extraction,
    *,
    rerank: bool,
) -> dict[str, EvaluationResult]:
    """Results of every configured mode, plain and, if asked, re-ranked.

    Returns:
        "plain" and "reranked" for one mode; for several the names of the modes, and
        "<mode>, reranked".
    """
    names = modes(config)
    kinds = (False, True) if rerank else (False,)
    found = {again: _evaluate(config, table, method, extraction.features, names, rerank=again)
             for again in kinds}  # fmt: skip
    results = {}
    for mode in names:
        for again in kinds:
            name = ("reranked" if again else "plain") if len(names) == 1 else (
                f"{mode}, reranked" if again else mode)  # fmt: skip
            results[name] = found[again][mode]
    return results


def _evaluate(
    config: Config,
    table: Table,
    method: Method | type[Method],
    features: FeatureSet,
    names: Sequence[str],
    *,
    rerank: bool,
) -> dict[str, EvaluationResult]:
    """Results of the modes `names`, which share the distances that they share."""
    own = config.evaluation
    permutations = None
    if PROTOCOLS[own.protocol].needs_permutations:
        permutations = read_permutations(table.root / "exp" / "rand_perm_cam.mat")
    return evaluate_modes(
        features, own.protocol, names, own.shots,
        permutations=permutations, rerank=own.rerank_parameters if rerank else None,
        processing=processing_words(config, method), split=numbered_split(config),
    )  # fmt: skip


def numbered_split(config: Config) -> int | None:
    """The split of the run, where the data set has several."""
    return config.data.split if DATASETS[config.data.name].splits else None
