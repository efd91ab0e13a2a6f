"""Evaluation of a feature set under a protocol, over its drawn galleries or given files.

Features are converted to float64 and used as they are; the metric "cosine" normalises them.
Re-ranking replaces the distances by those of `retrieval.rerank`, whose neighbourhoods are
Euclidean: on L2-normalised features for "cosine", where both distances give one order; on the
features as they are for "euclidean" and also for "dot", because in the dot product of features
that are not normalised a point need not be its own nearest neighbour.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from vireid_fast._checks import require, require_choice, require_same_device
from vireid_fast.ops import pairwise_distance, rank_statistics
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.metrics import Metrics, metrics_from_ranks
from vireid_fast.retrieval.protocol import METRICS, Metric, Permutations, Protocol
from vireid_fast.retrieval.protocols import default_modes, get_protocol, require_cameras
from vireid_fast.retrieval.rerank import rerank as rerank_features
from vireid_fast.retrieval.results import EvaluationResult, RerankParameters

# Queries whose distances are computed between two reports of progress.
_QUERY_BLOCK = 512

Progress = Callable[[int, int], None]


@torch.no_grad()
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
        The result over the protocol's trials. Deterministic. Memory: O(Q U) for Q queries and U
        distinct gallery images, 8 bytes each.

    Raises:
        ValueError: A name is unknown, an argument is out of range, a column that the protocol
            needs is missing, a camera is unknown where it counts, query or gallery is empty, an
            image that the permutations name is missing, or no query has a correct gallery item.
        TypeError: A dtype does not fit.
    """
    rules = get_protocol(protocol)
    metric, parameters = _settings(rules, metric, rerank)
    splits = _splits(rules, split)
    draw = _draw(features.validate(), rules, mode, shots, permutations)
    report = _Reporter(progress, 0 if parameters else len(draw.query), len(draw.galleries))
    distances = None if parameters else _distances(draw.query, draw.gallery, metric, report)
    trials = []
    for columns in draw.galleries:
        query, gallery, ranked = draw.trial(columns, distances)
        if parameters is not None:
            ranked = _reranked(query, gallery, metric, parameters)
        trials.append(_score(rules, ranked, query, gallery))
        report.step()
    drawn = shots if rules.draw_gallery else None
    return EvaluationResult(
        protocol, mode, drawn, metric, parameters, tuple(trials), dict(processing or {}), splits
    )


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
    """Evaluate several modes of a protocol, one after the other.

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
        progress: See `evaluate`; counts from the start again for each mode.

    Returns:
        {mode: result} in the order of `modes`.

    Raises:
        ValueError: See `evaluate`.
        TypeError: See `evaluate`.
    """
    return {
        mode: evaluate(
            features, protocol, mode, shots, permutations=permutations, metric=metric,
            rerank=rerank, processing=processing, split=split, progress=progress,
        )
        for mode in (default_modes(protocol) if modes is None else modes)
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
    gallery = gallery.subset(~rules.is_junk(gallery.person_ids))
    _require_pair(rules, query, gallery)
    query, gallery = _as_float64(query), _as_float64(gallery)
    report = _Reporter(progress, 0 if parameters else len(query), 1)
    if parameters is None:
        distances = _distances(query, gallery, metric, report)
    else:
        distances = _reranked(query, gallery, metric, parameters)
    trial = _score(rules, distances, query, gallery)
    report.step()
    return EvaluationResult(
        protocol, None, None, metric, parameters, (trial,), dict(processing or {}), splits
    )


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


class _Reporter:
    """Counts the steps of one evaluation: blocks of queries, then trials."""

    def __init__(self, progress: Progress | None, num_query: int, trials: int) -> None:
        self._progress = progress
        self._total = -(-num_query // _QUERY_BLOCK) + trials
        self._done = 0

    def step(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _settings(
    rules: Protocol, metric: Metric | None, rerank: Sequence[float] | None
) -> tuple[Metric, RerankParameters | None]:
    """The protocol's default metric filled in, and the form of `rerank` checked."""
    metric = rules.metric if metric is None else metric
    require_choice(rules.name, "metric", metric, METRICS)
    if rerank is None:
        return metric, None
    require(len(rerank) == 3, rules.name, "rerank", "be (k1, k2, lambda_value)", tuple(rerank))
    return metric, RerankParameters(*rerank)


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


@dataclass(frozen=True)
class _Draw:
    """Queries, all rows that occur in any gallery, and each trial's rows of these (None: all)."""

    query: FeatureSet
    gallery: FeatureSet
    galleries: list[Tensor | None]
    swapped: bool

    def trial(
        self, columns: Tensor | None, distances: Tensor | None
    ) -> tuple[FeatureSet, FeatureSet, Tensor | None]:
        """Who queries, who is ranked, and the distances between them where they are given."""
        query, gallery = self.query, self.gallery
        if columns is not None:
            gallery = gallery.subset(columns)
            distances = None if distances is None else distances[:, columns]
        if self.swapped:
            return gallery, query, None if distances is None else distances.T
        return query, gallery, distances


def _draw(
    features: FeatureSet,
    rules: Protocol,
    mode: str,
    shots: int,
    permutations: Permutations | None,
) -> _Draw:
    """Take the sides of a mode, and draw the galleries.

    One distance matrix to all rows that are ever drawn serves every trial: with ten shots the
    galleries of SYSU-MM01 share most of their images.
    """
    require_choice(rules.name, "mode", mode, rules.modes)
    require(
        isinstance(shots, int) and not isinstance(shots, bool) and shots >= 1, rules.name, "shots",
        "be an integer of at least 1", shots,
    )  # fmt: skip
    _require_permutations(rules, permutations)
    require_cameras(rules, features.camera_ids)
    query = _as_float64(features.subset(rules.query_rows(features, mode)))
    swapped = rules.modes[mode].swapped
    if rules.draw_gallery is None:
        require(shots == 1, rules.name, "shots", "be 1, since no galleries are drawn", shots)
        gallery = features.subset(rules.gallery_rows(features, mode))
        return _Draw(query, _as_float64(gallery), [None], swapped)
    images = rules.gallery_images(features, mode)
    rows = [
        torch.tensor(rules.draw_gallery(images, trial, shots, permutations), dtype=torch.int64)
        for trial in range(rules.trials)
    ]
    used, inverse = torch.unique(torch.cat(rows), return_inverse=True)
    device = features.features.device
    draws = inverse.to(device).split([len(trial) for trial in rows])
    return _Draw(query, _as_float64(features.subset(used.to(device))), list(draws), swapped)


def _as_float64(features: FeatureSet) -> FeatureSet:
    return replace(features, features=features.features.double())


def _distances(query: FeatureSet, gallery: FeatureSet, metric: Metric, report: _Reporter) -> Tensor:
    """Distances of all queries to all gallery rows. Shape (Q, G), float64."""
    distances = query.features.new_empty((len(query), len(gallery)))
    for start in range(0, len(query), _QUERY_BLOCK):
        block = slice(start, start + _QUERY_BLOCK)
        distances[block] = pairwise_distance(query.features[block], gallery.features, metric=metric)
        report.step()
    return distances


def _reranked(
    query: FeatureSet, gallery: FeatureSet, metric: Metric, parameters: RerankParameters
) -> Tensor:
    """Re-ranked distances, see the head of this file. Shape (Q, G)."""
    points = [query.features, gallery.features]
    if metric == "cosine":
        points = [functional.normalize(values) for values in points]
    return rerank_features(*points, *parameters)


def _score(rules: Protocol, distances: Tensor, query: FeatureSet, gallery: FeatureSet) -> Metrics:
    """Metrics of one ranked gallery under the protocol's drop and CMC rules."""
    statistics = rank_statistics(
        distances,
        query.person_ids,
        gallery.person_ids,
        rules.groups(query.camera_ids),
        rules.groups(gallery.camera_ids),
        drop=rules.drop,
    )
    return metrics_from_ranks(statistics, len(gallery), rules.cmc)
