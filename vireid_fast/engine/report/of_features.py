"""The report of feature files, of anyone's model."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from vireid_fast._checks import positive_int, require
from vireid_fast._version import __version__
from vireid_fast.data.feature_files import read_metadata
from vireid_fast.data.permutations import read_permutations
from vireid_fast.engine.evaluation_files import (
    read_identified,
    read_processing,
    requested_modes,
)
from vireid_fast.engine.report.facts import cmc_ranks
from vireid_fast.engine.report.feature_map import require_map
from vireid_fast.engine.report.judged import Judged
from vireid_fast.engine.report.sections import sections
from vireid_fast.engine.report.shelf import file_shelf, row_shelf
from vireid_fast.report.content import Report
from vireid_fast.retrieval.evaluation import evaluate_pair, evaluate_settings
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.metrics import NoValidQuery
from vireid_fast.retrieval.protocol import Metric
from vireid_fast.retrieval.protocols import get_protocol
from vireid_fast.retrieval.results import EvaluationResult
from vireid_fast.retrieval.searches import Setting

Source = Path | FeatureSet


def report_of_features(
    query: Source | None = None,
    gallery: Source | None = None,
    features: Source | None = None,
    *,
    protocol: str,
    mode: str | None = None,
    shots: int | Sequence[int] | None = None,
    permutations: Path | None = None,
    metric: Metric | None = None,
    rerank: Sequence[float] | None = None,
    map_method: str = "pca",
    queries: int = 3,
    root: Path | None = None,
) -> Report:
    """Everything a page shows of features alone; writes nothing.

    Args:
        query: Feature file, or set, of the queries, with `gallery`.
        gallery: Of the gallery.
        features: Of both.
        protocol: Name of the protocol.
        mode: As of `evaluate_files`.
        shots: As of `evaluate_files`.
        permutations: `rand_perm_cam.mat`, for sysu/official.
        metric: As of `evaluate`.
        rerank: As of `evaluate`; the results without it are in the report as well.
        map_method: "pca" or "tsne", see `feature_map`.
        queries: Ranked queries of each kind, at least 1.
        root: Folder of the images that the files name; None: the folder that they name, if it is
            on this machine.

    Returns:
        The report, the same for the same features. Without a valid query it has no results, and a
        note.

    Raises:
        ValueError: Neither or both ways are given, a file cannot be used, or see `evaluate`.
        RuntimeError: The map is t-SNE and scikit-learn is not installed.

    Memory: about three times the features, and 64 MB of distances at a time; with `rerank` what
    `RerankedRows` takes.
    """
    require_map(map_method)
    positive_int("report", "queries", queries)
    pair = query is not None and gallery is not None
    require(
        pair != (features is not None) and (query is None) == (gallery is None),
        "report", "source", "be a query with a gallery, or features",
        f"query {_name(query)}, gallery {_name(gallery)}, features {_name(features)}",
    )  # fmt: skip
    rules = get_protocol(protocol)
    sources = [s for s in (query, gallery, features) if s is not None]
    # Two objects, even of one set: `Judged` tells a pair by that.
    sets = [(s if isinstance(s, FeatureSet) else read_identified(s)).to("cpu") for s in sources]
    judged = Judged(
        rules, sets[0].validate(), sets[-1].validate(),
        None if permutations is None else read_permutations(permutations),
    )  # fmt: skip
    settings = _settings(judged, mode, shots)
    files = [s for s in sources if isinstance(s, Path)]
    processing, split = read_processing(*files) if files else ({}, None)
    notes: tuple[str, ...] = ()
    try:
        results = _results(judged, settings, metric, rerank, processing, split)
    except NoValidQuery as error:
        results, notes = {}, (f"No result: {error}",)
    shelves = tuple(
        file_shelf(source, own, root) if isinstance(source, Path) else row_shelf(own, _name(source))
        for source, own in zip(sources, sets, strict=True)
    )
    found, _ = sections(
        judged, results, (shelves[0], shelves[-1]), metric=metric or rules.metric,
        setting=next(iter(settings.values())), map_method=map_method, queries=queries,
    )  # fmt: skip
    facts = {
        "source": " and ".join(s.name if isinstance(s, Path) else _name(s) for s in sources),
        **_made_by(files),
        "protocol": protocol,
        "CMC ranks": cmc_ranks(rules),
        "features": ", ".join(f"{name} {words}" for name, words in processing.items()),
        "version": f"vireid_fast {__version__}",
    }
    return Report(
        title=f"Features under {protocol}", results=results,
        facts={name: words for name, words in facts.items() if words},
        **{**found, "notes": (*notes, *found["notes"])},
    )  # fmt: skip


def _name(source: Source | None) -> str:
    return str(source) if isinstance(source, Path | None) else f"{len(source):,} rows in memory"


def _made_by(files: Sequence[Path]) -> dict[str, str]:
    """What the last file says of the model; all agree on it."""
    notes = read_metadata(files[-1]) if files else {}
    return {name: notes.get(name, "") for name in ("method", "data", "checkpoint")}


def _settings(
    judged: Judged, mode: str | None, shots: int | Sequence[int] | None
) -> dict[str, Setting]:
    """What is evaluated, by name; one setting alone is called "plain"."""
    if judged.paired:
        for option, value in (("mode", mode), ("shots", shots)):
            require(value is None, "report", option, "be left out with query and gallery", value)
        return {"plain": Setting("", 1)}
    numbers = (1,) if shots is None else shots if isinstance(shots, Sequence) else (shots,)
    modes = requested_modes(judged.rules.name, mode)
    settings = [Setting(*pair) for pair in product(modes, numbers)]
    if len(settings) == 1:
        return {"plain": settings[0]}
    if len(numbers) == 1:
        return {setting.mode: setting for setting in settings}
    return {f"{mode}, {count}-shot": Setting(mode, count) for mode, count in settings}


def _results(
    judged: Judged,
    settings: Mapping[str, Setting],
    metric: Metric | None,
    rerank: Sequence[float] | None,
    processing: Mapping[str, str],
    split: int | None,
) -> dict[str, EvaluationResult]:
    """Results of each setting, without and, if asked, with re-ranking."""
    kinds = (None,) if rerank is None else (None, rerank)
    options: dict[str, Any] = {"metric": metric, "processing": processing, "split": split}
    protocol, sides = judged.rules.name, (judged.query, judged.gallery)
    if judged.paired:
        pairs = [evaluate_pair(*sides, protocol, rerank=kind, **options) for kind in kinds]
        return dict(zip(("plain", "reranked"), pairs, strict=False))
    modes, shots = (tuple(dict.fromkeys(column)) for column in zip(*settings.values(), strict=True))
    found = [
        evaluate_settings(
            judged.query, protocol, modes, shots, permutations=judged.permutations, rerank=kind,
            **options,
        )
        for kind in kinds
    ]  # fmt: skip
    results = {}
    for name, setting in settings.items():
        again = "reranked" if len(settings) == 1 else f"{name}, reranked"
        for own, result in zip((name, again), found, strict=False):
            results[own] = result[setting]
    return results
