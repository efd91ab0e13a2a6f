"""Metrics of the trials of a search: blocks of distances are counted for all of them at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from vireid_fast.ops import (
    GalleryIndex,
    RankStatistics,
    rank_statistics,
    ranking_distances,
    row_lengths,
    wide_rank_statistics,
)
from vireid_fast.ops.rank_statistics import DropRule
from vireid_fast.retrieval.batched import iterate_galleries, iterate_query_sets
from vireid_fast.retrieval.distance_rows import DistanceRows, FeatureRows, MatrixRows
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.metrics import Metrics, metrics_from_ranks
from vireid_fast.retrieval.protocol import Metric, Protocol
from vireid_fast.retrieval.reranked_rows import RerankedRows
from vireid_fast.retrieval.results import RerankParameters
from vireid_fast.retrieval.searches import Trial
from vireid_fast.retrieval.streaming import (
    WORKSPACE,
    block_statistics,
    blocks_of,
    joined,
    streamed_rank_statistics,
)

# Queries whose distances are counted between two reports of progress.
_QUERY_BLOCK = 256

Progress = Callable[[int, int], None]


class Reporter:
    """Counts the steps of an evaluation and tells the caller's `progress`."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def step(self) -> None:
        """Report one more step."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def steps(num_query: int, trials: Sequence[Trial], blocks: bool) -> int:
    """Steps that `score` reports: blocks of queries, unless distances are re-ranked, and trials."""
    return len(trials) + (-(-num_query // _QUERY_BLOCK) if blocks else 0)


def score(
    rules: Protocol,
    query: FeatureSet,
    gallery: FeatureSet,
    trials: Sequence[Trial],
    metric: Metric,
    parameters: RerankParameters | None,
    report: Reporter,
) -> list[Metrics]:
    """Metrics of each trial under the protocol's drop and CMC rules.

    Args:
        rules: The protocol.
        query: All queries of the search.
        gallery: All its gallery rows.
        trials: Which queries rank which gallery rows.
        metric: Distance between features, in float64.
        parameters: Of re-ranking, whose distances replace those; None without.
        report: Told of each step.

    Memory: 256 rows of distances where there are several galleries; features in float64 where they
    are float64 or not on the CPU. With re-ranking, which works in the dtype of the features as
    published, see `rerank`.

    Raises:
        ValueError: No query of a trial has a correct item, or a distance is NaN.
    """
    if parameters is not None:
        return _reranked(rules, query, gallery, trials, metric, parameters, report)
    distances = exact_distances(query, gallery, metric)
    if all(trial.gallery is None for trial in trials):
        whole = _of_whole_gallery(rules, distances, query, gallery, report)
        statistics = [whole] * len(trials)
    else:
        statistics = _of_galleries(rules, distances, query, gallery, trials, report)
    found = []
    for trial, part in zip(trials, statistics, strict=True):
        if trial.query is not None:
            part = RankStatistics(*(column[trial.query] for column in part))
        size = len(gallery) if trial.gallery is None else len(trial.gallery)
        found.append(metrics_from_ranks(part, size, rules.cmc))
        report.step()
    return found


def exact_distances(
    query: FeatureSet, gallery: FeatureSet, metric: Metric
) -> "_WideDistances | _Float64Distances":
    """Blocks of distances of queries to gallery rows that rank right items as float64 ones do.

    Args:
        query: All queries.
        gallery: What they rank.
        metric: Distance between features.

    Returns:
        An object with `block(begin, end)`: distances of some queries. Shape (end - begin, G).
    """
    wide = _is_wide(query.features) and _is_wide(gallery.features)
    return (_WideDistances if wide else _Float64Distances)(query, gallery, metric)


def _is_wide(features: Tensor) -> bool:
    """Whether float32 tiles may decide what float64 distances would, and do so faster.

    They do on the CPU, for features that float32 holds exactly.
    """
    return features.dtype != torch.float64 and features.device.type == "cpu"


class _WideDistances:
    """Ranks by float64 distances of features that float32 holds, without a copy in float64."""

    def __init__(self, query: FeatureSet, gallery: FeatureSet, metric: Metric) -> None:
        self._query, self._gallery = query.features.float(), gallery.features.float()
        self._ids = query.person_ids
        self._index = GalleryIndex.build(gallery.person_ids)
        self._metric, self._lengths = metric, row_lengths(self._gallery)

    def block(self, begin: int, end: int) -> Tensor:
        """Distances that rank like the float64 ones. Shape (end - begin, G)."""
        return ranking_distances(
            self._query[begin:end], self._gallery, self._ids[begin:end], self._index,
            metric=self._metric, gallery_lengths=self._lengths,
        )  # fmt: skip

    def statistics(
        self, begin: int, ids: Tensor, index: GalleryIndex, groups: Tensor, drop: DropRule
    ) -> RankStatistics:
        """Rank statistics of the block of queries from `begin` on."""
        return wide_rank_statistics(
            self._query[begin : begin + len(ids)], self._gallery, ids, index, groups,
            drop=drop, first_row=begin, metric=self._metric, gallery_lengths=self._lengths,
        )  # fmt: skip


class _Float64Distances:
    """Ranks by the distances of features converted to float64."""

    def __init__(self, query: FeatureSet, gallery: FeatureSet, metric: Metric) -> None:
        self._rows = FeatureRows(query.features.double(), gallery.features.double(), metric)

    def block(self, begin: int, end: int) -> Tensor:
        """Distances. Shape (end - begin, G), float64."""
        return self._rows.block(begin, end)

    def statistics(
        self, begin: int, ids: Tensor, index: GalleryIndex, groups: Tensor, drop: DropRule
    ) -> RankStatistics:
        """Rank statistics of the block of queries from `begin` on."""
        return block_statistics(self._rows, begin, ids, index, groups, drop)


def _of_whole_gallery(
    rules: Protocol, distances: _WideDistances | _Float64Distances, query: FeatureSet,
    gallery: FeatureSet, report: Reporter,
) -> RankStatistics:  # fmt: skip
    """Statistics of all queries, each with the whole gallery."""
    groups = rules.groups(query.camera_ids)
    index = GalleryIndex.build(gallery.person_ids, rules.groups(gallery.camera_ids))
    parts = []
    for begin, end in blocks_of(len(query), _QUERY_BLOCK):
        ids = query.person_ids[begin:end]
        parts.append(distances.statistics(begin, ids, index, groups[begin:end], rules.drop))
        report.step()
    return joined(parts)


def _of_galleries(
    rules: Protocol, distances: _WideDistances | _Float64Distances, query: FeatureSet,
    gallery: FeatureSet, trials: Sequence[Trial], report: Reporter,
) -> list[RankStatistics]:  # fmt: skip
    """Statistics of all queries with the gallery of each trial; one block serves all trials."""
    groups, gallery_groups = rules.groups(query.camera_ids), rules.groups(gallery.camera_ids)
    indices = [
        GalleryIndex.build(gallery.person_ids[trial.gallery], gallery_groups[trial.gallery])
        for trial in trials
    ]
    parts: list[list[RankStatistics]] = [[] for _ in trials]
    for begin, end in blocks_of(len(query), _QUERY_BLOCK):
        block, ids = distances.block(begin, end), query.person_ids[begin:end]
        for trial, index, found in zip(trials, indices, parts, strict=True):
            found.append(
                rank_statistics(
                    block, ids, index, groups[begin:end], columns=trial.gallery,
                    drop=rules.drop, first_row=begin,
                )
            )  # fmt: skip
        report.step()
    return [joined(part) for part in parts]


def _reranked(
    rules: Protocol, query: FeatureSet, gallery: FeatureSet, trials: Sequence[Trial],
    metric: Metric, parameters: RerankParameters, report: Reporter,
) -> list[Metrics]:  # fmt: skip
    """Metrics of re-ranked trials."""
    found = []
    for rows, asking, ranked in reranked_trials(query, gallery, trials, metric, parameters):
        statistics = streamed_rank_statistics(
            rows,
            asking.person_ids,
            ranked.person_ids,
            rules.groups(asking.camera_ids),
            rules.groups(ranked.camera_ids),
            drop=rules.drop,
            workspace=max(WORKSPACE, len(ranked) * rows.dtype.itemsize),
        )
        found.append(metrics_from_ranks(statistics, len(ranked), rules.cmc))
        report.step()
    return found


def reranked_trials(
    query: FeatureSet,
    gallery: FeatureSet,
    trials: Sequence[Trial],
    metric: Metric,
    parameters: RerankParameters,
) -> Iterator[tuple[DistanceRows, FeatureSet, FeatureSet]]:
    """Re-ranked distances of each trial, which share the neighbours on the side that they share.

    Args:
        query: All queries of the search.
        gallery: All its gallery rows.
        trials: Which queries rank which gallery rows.
        metric: Distance between features; "cosine" normalises them first.
        parameters: Of re-ranking.

    Yields:
        Distances, queries and gallery of a trial. Memory: see `RerankedRows`; of several trials
        one matrix of distances at a time.
    """
    if metric == "cosine":
        query, gallery = _normalised(query), _normalised(gallery)
    queries = [query if t.query is None else query.subset(t.query) for t in trials]
    galleries = [gallery if t.gallery is None else gallery.subset(t.gallery) for t in trials]
    all_rows: Iterable[DistanceRows]
    if len(trials) == 1:
        all_rows = [RerankedRows(queries[0].features, galleries[0].features, *parameters)]
    elif all(trial.query is None for trial in trials):
        parts = iterate_galleries(query.features, [g.features for g in galleries], *parameters)
        all_rows = map(MatrixRows, parts)
    else:
        parts = iterate_query_sets([q.features for q in queries], gallery.features, *parameters)
        all_rows = map(MatrixRows, parts)
    yield from zip(all_rows, queries, galleries, strict=True)


def _normalised(features: FeatureSet) -> FeatureSet:
    values = features.features
    dtype = torch.promote_types(values.dtype, torch.float32)
    return replace(features, features=functional.normalize(values.double()).to(dtype))
