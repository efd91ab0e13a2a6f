"""Evaluation of a feature set under a protocol, over its drawn galleries or given files.

Features are converted to float64 and used as they are; the metric "cosine" normalises them.
Re-ranking replaces the distances by those of `retrieval.rerank`, whose neighbourhoods are
Euclidean: on L2-normalised features for "cosine", where both distances give one order; on the
features as they are for "euclidean" and also for "dot", because in the dot product of features
that are not normalised a point need not be its own nearest neighbour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vireid_fast._checks import require, require_choice, require_same_device
from vireid_fast.ops import pairwise_distance, rank_statistics
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.metrics import (
    METRIC_NAMES,
    Metrics,
    average,
    metrics_from_ranks,
)
from vireid_fast.retrieval.protocols import METRICS, Metric, Permutations, Protocol, get_protocol
from vireid_fast.retrieval.rerank import rerank as rerank_features

# Queries whose distances are computed between two reports of progress.
_QUERY_BLOCK = 512

Progress = Callable[[int, int], None]


class RerankParameters(NamedTuple):
    """Parameters of k-reciprocal re-ranking (Zhong et al., CVPR 2017)."""

    k1: int
    k2: int
    lambda_value: float


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics of each trial and how they came about; all metrics are fractions.

    Attributes:
        protocol: Name of the protocol.
        mode: Mode of the protocol; None for given query and gallery files.
        shots: Gallery images of each identity and camera; None for given files.
        metric: Distance between features.
        rerank: Parameters of re-ranking; None without.
        trials: Metrics of each drawn gallery.
    """

    protocol: str
    mode: str | None
    shots: int | None
    metric: Metric
    rerank: RerankParameters | None
    trials: tuple[Metrics, ...]

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each metric over the trials."""
        return average(self.trials).mean

    @property
    def std(self) -> dict[str, float]:
        """Population standard deviation (divisor: trials) of each metric over the trials."""
        return average(self.trials).std

    @property
    def valid_queries(self) -> int | list[int]:
        """Queries with a correct gallery item; a list over the trials where these differ."""
        return _one_or_all([trial.valid_queries for trial in self.trials])

    @property
    def gallery_size(self) -> int | list[int]:
        """Items of the gallery; a list over the trials where these differ."""
        return _one_or_all([trial.gallery_size for trial in self.trials])

    def to_json(self) -> dict[str, object]:
        """Everything as plain values for a JSON file."""
        return {
            "protocol": self.protocol,
            "mode": self.mode,
            "shots": self.shots,
            "metric": self.metric,
            "rerank": None if self.rerank is None else self.rerank._asdict(),
            "trials": len(self.trials),
            **self.mean,
            "std": self.std,
            "valid_queries": self.valid_queries,
            "gallery_size": self.gallery_size,
            "per_trial": [
                {name: getattr(trial, name) for name in METRIC_NAMES} for trial in self.trials
            ],
        }


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
    progress: Progress | None = None,
) -> EvaluationResult:
    """Draw query and galleries from one set, score every gallery, average.

    Args:
        features: All images of the evaluated identities. Without `image_indices` the rows of each
            camera and identity count as 1..n in their order.
        protocol: Key of `PROTOCOLS`.
        mode: Mode of the protocol, e.g. "all" or "indoor".
        shots: Gallery images of each identity and camera, at least 1; all where fewer exist.
        permutations: {(camera, identity): (trials, images)} of 1-based image indices, needed by
            "sysu/official" (`data.permutations.read_permutations`) and by no other protocol.
        metric: "euclidean", "cosine" (1 - cos) or "dot" (negative); None: that of the protocol.
        rerank: (k1, k2, lambda_value), or None to rank by the plain distances.
        progress: Called as progress(done, total) while the evaluation goes on.

    Returns:
        The result over the protocol's trials. Deterministic. Memory: O(Q U) for Q queries and U
        distinct gallery images, 8 bytes each.

    Raises:
        ValueError: A name is unknown, an argument is out of range, query or gallery is empty, an
            image that the permutations name is missing, or no query has a correct gallery item.
        TypeError: A dtype does not fit.
    """
    rules = get_protocol(protocol)
    metric, parameters = _settings(rules, metric, rerank)
    query, gallery, draws = _draw(features.validate(), rules, mode, shots, permutations)
    report = _Reporter(progress, 0 if parameters else len(query), len(draws))
    distances = None if parameters else _distances(query, gallery, metric, report)
    trials = []
    for columns in draws:
        drawn = gallery.subset(columns)
        if parameters is None:
            ranked = distances[:, columns]
        else:
            ranked = _reranked(query, drawn, metric, parameters)
        trials.append(_score(rules, ranked, query, drawn))
        report.step()
    return EvaluationResult(protocol, mode, shots, metric, parameters, tuple(trials))


@torch.no_grad()
def evaluate_pair(
    query: FeatureSet,
    gallery: FeatureSet,
    protocol: str = "sysu/agw",
    *,
    metric: Metric | None = None,
    rerank: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Rank a given gallery for given queries: one trial, with the protocol's drop and CMC rules.

    Args:
        query: Queries; every row counts, whatever its camera.
        gallery: Gallery of the same feature width, on the same device.
        protocol: Key of `PROTOCOLS`.
        metric: As for `evaluate`.
        rerank: As for `evaluate`.
        progress: Called as progress(done, total) while the evaluation goes on.

    Returns:
        A result of one trial whose mode and shots are None.

    Raises:
        ValueError: A name is unknown, a set is empty, the widths differ, or no query has a correct
            gallery item.
        TypeError: A dtype does not fit.
    """
    rules = get_protocol(protocol)
    metric, parameters = _settings(rules, metric, rerank)
    for name, features in (("query", query), ("gallery", gallery)):
        features.validate(name)
        require(len(features) > 0, protocol, name, "hold at least one row", 0)
    require(
        query.features.shape[1] == gallery.features.shape[1], protocol, "gallery",
        f"have features of width {query.features.shape[1]} like the query",
        gallery.features.shape[1], "Extract both with one model.",
    )  # fmt: skip
    require_same_device(protocol, query=query.features, gallery=gallery.features)
    query, gallery = _as_float64(query), _as_float64(gallery)
    report = _Reporter(progress, 0 if parameters else len(query), 1)
    if parameters is None:
        distances = _distances(query, gallery, metric, report)
    else:
        distances = _reranked(query, gallery, metric, parameters)
    trial = _score(rules, distances, query, gallery)
    report.step()
    return EvaluationResult(protocol, None, None, metric, parameters, (trial,))


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


def _draw(
    features: FeatureSet,
    rules: Protocol,
    mode: str,
    shots: int,
    permutations: Permutations | None,
) -> tuple[FeatureSet, FeatureSet, list[Tensor]]:
    """Queries, all rows that occur in any gallery, and the rows of these in each trial's gallery.

    One distance matrix to all of these rows serves every trial: with ten shots the galleries of
    SYSU-MM01 share most of their images.
    """
    require_choice(rules.name, "mode", mode, rules.modes)
    require(
        isinstance(shots, int) and not isinstance(shots, bool) and shots >= 1, rules.name, "shots",
        "be an integer of at least 1", shots,
    )  # fmt: skip
    _require_permutations(rules, permutations)
    query = features.subset(rules.query_rows(features, mode))
    images = rules.gallery_images(features, mode)
    rows = [
        torch.tensor(rules.draw_gallery(images, trial, shots, permutations), dtype=torch.int64)
        for trial in range(rules.trials)
    ]
    used, inverse = torch.unique(torch.cat(rows), return_inverse=True)
    device = features.features.device
    draws = inverse.to(device).split([len(trial) for trial in rows])
    return _as_float64(query), _as_float64(features.subset(used.to(device))), list(draws)


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


def _one_or_all(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values
