"""Evaluation of a feature set under a protocol, over its drawn galleries or given files.

Features are ranked by float64 distances and used as they are; the metric "cosine" normalises them.
Re-ranking replaces the distances by those of `retrieval.rerank` in their dtype. Neighbourhoods are
Euclidean: on L2-normalised features for "cosine", where both distances give one order; on the
features as they are for "euclidean" and also for "dot", because in the dot product of features
that are not normalised a point need not be its own nearest neighbour.

Distances are counted in blocks of queries and forgotten; no matrix of them exists.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import cast

import torch
from torch import Tensor

from vireid_fast._checks import require, require_choice, require_same_device, sentence
from vireid_fast.retrieval.distance_rows import DistanceRows
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.metrics import Metrics, metrics_from_ranks
from vireid_fast.retrieval.protocol import METRICS, Metric, Permutations, Protocol
from vireid_fast.retrieval.protocols import default_modes, get_protocol, require_cameras
from vireid_fast.retrieval.results import EvaluationResult, RerankParameters
from vireid_fast.retrieval.scoring import Progress, Reporter, score, steps
from vireid_fast.retrieval.searches import Setting, Trial, plan_searches
from vireid_fast.retrieval.sharded_scoring import score_sharded
from vireid_fast.retrieval.streaming import WORKSPACE, require_rows, streamed_rank_statistics


def evaluate(
    features: FeatureSet,
    protocol: str = "sysu/agw",
    mode: str = "all",
    shots: int = 1,
    *,
    permutations: Permutations | None = None,
    metric: Metric | None = None,
    rerank: Sequence[float] | None = None,
    processing: Mapping[str, str] | None = None,
    split: int | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Take or draw query and galleries from one set, score every gallery, average.

    Args:
        features: All images or tracklets of the evaluated identities. Without `image_indices` the
            rows of each camera and identity count as 1..n in their order.
        protocol: Key of `PROTOCOLS`.
        mode: Mode of the protocol (`protocol_modes`), e.g. "all" or "infrared-visible".
        shots: Gallery images of each identity and camera, at least 1; all where fewer exist. 1
            where the protocol draws no galleries.
        permutations: {(camera, identity): (trials, images)} of 1-based image indices, needed by
            "sysu/official" (`data.permutations.read_permutations`) and by no other protocol.
        metric: "euclidean", "cosine" (1 - cos) or "dot" (negative); None: that of the protocol.
        rerank: (k1, k2, lambda_value), or None to rank by the plain distances.
        processing: How the features were made, in words by name; carried into the result.
        split: Number of the data set's split whose model made the features, for protocols of data
            sets with several; carried into the result.
        progress: Called as progress(done, total) while the evaluation goes on.

    Returns:
        The result over the protocol's trials. Deterministic. Memory: the features once more (twice
        where float64 is computed from a copy, see `retrieval.scoring`) and 256 rows of distances;
        with re-ranking see `rerank`.

    Raises:
        ValueError: A name is unknown, an argument is out of range, a column that the protocol
            needs is missing, a camera is unknown where it counts, query or gallery is empty, an
            image that the permutations name is missing, or no query has a correct gallery item.
        TypeError: A dtype does not fit.
    """
    results = evaluate_settings(
        features, protocol, (mode,), (shots,), permutations=permutations, metric=metric,
        rerank=rerank, processing=processing, split=split, progress=progress,
    )  # fmt: skip
    return results[Setting(mode, shots)]


def evaluate_modes(
    features: FeatureSet,
    protocol: str = "sysu/agw",
    modes: Sequence[str] | None = None,
    shots: int = 1,
    *,
    permutations: Permutations | None = None,
    metric: Metric | None = None,
    rerank: Sequence[float] | None = None,
    processing: Mapping[str, str] | None = None,
    split: int | None = None,
    progress: Progress | None = None,
) -> dict[str, EvaluationResult]:
    """Evaluate several modes of a protocol, sharing the distances that they share.

    Args:
        features: As for `evaluate`, like all further arguments.
        protocol: Key of `PROTOCOLS`.
        modes: Modes to evaluate; None: "all" where the protocol has it, else both directions.
        shots: See `evaluate`.
        permutations: See `evaluate`.
        metric: See `evaluate`.
        rerank: See `evaluate`.
        processing: See `evaluate`.
        split: See `evaluate`.
        progress: See `evaluate`; counts over all modes.

    Returns:
        {mode: result} in the order of `modes`.

    Raises:
        ValueError: See `evaluate`, or no mode is given or one twice.
        TypeError: See `evaluate`.
    """
    results = evaluate_settings(
        features, protocol, modes, (shots,), permutations=permutations, metric=metric,
        rerank=rerank, processing=processing, split=split, progress=progress,
    )  # fmt: skip
    return {setting.mode: result for setting, result in results.items()}


@torch.no_grad()
def evaluate_settings(
    features: FeatureSet,
    protocol: str = "sysu/agw",
    modes: Sequence[str] | None = None,
    shots: Sequence[int] = (1,),
    *,
    permutations: Permutations | None = None,
    metric: Metric | None = None,
    rerank: Sequence[float] | None = None,
    processing: Mapping[str, str] | None = None,
    split: int | None = None,
    progress: Progress | None = None,
) -> dict[Setting, EvaluationResult]:
    """Evaluate every mode with every number of shots, computing each distance once.

    Args:
        features: As for `evaluate`, like all arguments that are not named here.
        protocol: Key of `PROTOCOLS`.
        modes: Modes to evaluate; None: "all" where the protocol has it, else both directions.
        shots: Numbers of gallery images of each identity and camera.
        permutations: See `evaluate`.
        metric: See `evaluate`.
        rerank: See `evaluate`.
        processing: See `evaluate`.
        split: See `evaluate`.
        progress: Called as progress(done, total), over all settings.

    Returns:
        {(mode, shots): result}; of each mode all shots follow each other.

    Raises:
        ValueError: See `evaluate`, or a list is empty or holds a value twice.
        TypeError: See `evaluate`.
    """
    rules = get_protocol(protocol)
    metric, parameters = _settings(rules, metric, rerank)
    splits = _splits(rules, split)
    modes = default_modes(protocol) if modes is None else tuple(modes)
    for mode in modes:
        require_choice(rules.name, "mode", mode, rules.modes)
    for name, values in (("mode", modes), ("shots", tuple(shots))):
        require(len(values) > 0, rules.name, name, "be given", "none")
        require(len(set(values)) == len(values), rules.name, name, "be distinct", list(values))
    settings = [Setting(*pair) for pair in product(modes, shots)]
    features = features.validate()
    _require_permutations(rules, permutations)
    require_cameras(rules, features.camera_ids)
    searches = plan_searches(features, rules, settings, permutations)
    report = Reporter(
        progress, sum(steps(len(s.query), s.trials, parameters is None) for s in searches)
    )
    trials: dict[Setting, list[Metrics]] = {setting: [] for setting in settings}
    for search in searches:
        sides = features.ascending(search.query), features.ascending(search.gallery)
        found = score(rules, *sides, search.trials, metric, parameters, report)
        for trial, metrics in zip(search.trials, found, strict=True):
            trials[trial.setting].append(metrics)
    drawn = rules.draw_gallery is not None
    return {
        setting: EvaluationResult(
            protocol, setting.mode, setting.shots if drawn else None, metric, parameters,
            tuple(found), dict(processing or {}), splits,
        )
        for setting, found in trials.items()
    }  # fmt: skip


@torch.no_grad()
def evaluate_pair(
    query: FeatureSet,
    gallery: FeatureSet,
    protocol: str = "sysu/agw",
    *,
    metric: Metric | None = None,
    rerank: Sequence[float] | None = None,
    processing: Mapping[str, str] | None = None,
    split: int | None = None,
    progress: Progress | None = None,
    shared: bool = False,
) -> EvaluationResult:
    """Rank a given gallery for given queries: one trial, with the protocol's drop and CMC rules.

    Args:
        query: Queries; every row counts, whatever its camera.
        gallery: Gallery of the same feature width, on the same device; every row counts but those
            of the protocol's junk identities.
        protocol: Key of `PROTOCOLS`, but none that leaves out part of what the lists name.
        metric: As for `evaluate`.
        rerank: As for `evaluate`.
        processing: As for `evaluate`.
        split: As for `evaluate`.
        progress: Called as progress(done, total) while the evaluation goes on.
        shared: Whether all processes of the default `torch.distributed` group call this with the
            same arguments, and share the gallery's rows among them.

    Returns:
        A result of one trial whose mode and shots are None.

    Raises:
        ValueError: A name is unknown, a set is empty, the widths differ, a camera is unknown where
            it counts, or no query has a correct gallery item.
        TypeError: A dtype does not fit.
    """
    rules = get_protocol(protocol)
    metric, parameters = _settings(rules, metric, rerank)
    splits = _splits(rules, split)
    query.validate("query")
    gallery = gallery.validate("gallery")
    gallery = gallery.ascending((~rules.is_junk(gallery.person_ids)).nonzero().flatten())
    _require_pair(rules, query, gallery)
    trials = [Trial(Setting("", 1))]
    report = Reporter(progress, steps(len(query), trials, parameters is None))
    if shared:
        found = [score_sharded(rules, query, gallery, metric, parameters)]
    else:
        found = score(rules, query, gallery, trials, metric, parameters, report)
    return EvaluationResult(
        protocol, None, None, metric, parameters, tuple(found), dict(processing or {}), splits
    )


@torch.no_grad()
def evaluate_rows(
    rows: DistanceRows,
    query_ids: Tensor,
    gallery_ids: Tensor,
    query_cameras: Tensor | None = None,
    gallery_cameras: Tensor | None = None,
    protocol: str = "market1501",
    *,
    workspace: int = WORKSPACE,
) -> Metrics:
    """Metrics of a given gallery from any distances, with a protocol's drop and CMC rules.

    The distances may be a matrix, features, or re-ranked ones that are made block by block, so that
    a gallery of a million is evaluated in megabytes beyond the features.

    Args:
        rows: Distances of Q queries to G gallery items (`MatrixRows`, `FeatureRows`,
            `RerankedRows`, ...).
        query_ids: Identity of each query. Shape (Q,), int64, device of `rows`.
        gallery_ids: Identity of each gallery item. Shape (G,), int64. Every item is ranked, also
            those of the protocol's junk identities: leave these out before.
        query_cameras: Camera of each query, where the protocol drops by camera. Shape (Q,), int64.
        gallery_cameras: Camera of each gallery item. Shape (G,), int64.
        protocol: Key of `PROTOCOLS`.
        workspace: Bytes that a block of distances may take.

    Returns:
        The metrics; they do not depend on the workspace.

    Raises:
        ValueError: A name is unknown, a shape does not fit, cameras are missing or unknown, the
            workspace is too small (says what is needed), a distance is NaN, or no query has a
            correct gallery item.
        TypeError: `rows` is no `DistanceRows`, or a dtype does not fit.
    """
    rules = get_protocol(protocol)
    require_rows("evaluate_rows", rows)
    groups: list[Tensor | None] = []
    for name, cameras in (("query", query_cameras), ("gallery", gallery_cameras)):
        if rules.drop == "none":
            groups.append(None)
            continue
        if cameras is None:
            raise ValueError(sentence(rules.name, f"{name}_cameras",
                                      "be given, since it drops by camera", None))  # fmt: skip
        require_cameras(rules, cameras, name)
        groups.append(rules.groups(cameras))
    statistics = streamed_rank_statistics(
        rows, query_ids, gallery_ids, *groups, drop=rules.drop, workspace=workspace
    )
    return metrics_from_ranks(statistics, rows.num_gallery, rules.cmc)


def _require_pair(rules: Protocol, query: FeatureSet, gallery: FeatureSet) -> None:
    """Raise ValueError unless a given query and gallery can be judged by a protocol."""
    require(
        not rules.visible_block, rules.name, "features", "come in one set, since it leaves rows "
        "out", "query and gallery apart", "Give one set with roles and modality, or use bupt/full.",
    )  # fmt: skip
    for name, features in (("query", query), ("gallery", gallery)):
        require(len(features) > 0, rules.name, name, "hold at least one row", 0)
        require_cameras(rules, features.camera_ids, name)
    require(
        query.features.shape[1] == gallery.features.shape[1], rules.name, "gallery",
        f"have features of width {query.features.shape[1]} like the query",
        gallery.features.shape[1], "Extract both with one model.",
    )  # fmt: skip
    require_same_device(rules.name, query=query.features, gallery=gallery.features)


def _settings(
    rules: Protocol, metric: Metric | None, rerank: Sequence[float] | None
) -> tuple[Metric, RerankParameters | None]:
    """The protocol's default metric filled in, and the form of `rerank` checked."""
    metric = rules.metric if metric is None else metric
    require_choice(rules.name, "metric", metric, METRICS)
    if rerank is None:
        return metric, None
    require(len(rerank) == 3, rules.name, "rerank", "be (k1, k2, lambda_value)", tuple(rerank))
    k1, k2, lambda_value = rerank
    # `rerank` refuses k1 and k2 that are no integers.
    return metric, RerankParameters(cast(int, k1), cast(int, k2), lambda_value)


def _splits(rules: Protocol, split: int | None) -> tuple[int, ...]:
    """The split as a result holds it."""
    if split is None:
        return ()
    require(
        rules.splits > 0, rules.name, "split", "be None, since its data set has one split", split
    )
    require(1 <= split <= rules.splits, rules.name, "split", f"lie in 1..{rules.splits}", split)
    return (split,)


def _require_permutations(rules: Protocol, permutations: Permutations | None) -> None:
    if rules.needs_permutations:
        require(
            permutations is not None, rules.name, "permutations",
            "be given, since the galleries are stored", None,
            "Give --permutations rand_perm_cam.mat (data.permutations.read_permutations).",
        )  # fmt: skip
    else:
        require(
            permutations is None, rules.name, "permutations",
            "be None, since the galleries are drawn by seed", "a value",
            "Leave them out, or use sysu/official.",
        )  # fmt: skip
