"""Ranked lists of the best, median and worst queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireid_fast.engine.report.judged import FirstTrial, Judged, setting_of
from vireid_fast.engine.report.shelf import Shelf
from vireid_fast.report.content import Match, RankedQuery
from vireid_fast.retrieval.distance_rows import FeatureRows
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.results import EvaluationResult
from vireid_fast.retrieval.right_ranks import RightRanks, dropped_items
from vireid_fast.retrieval.scoring import reranked_trials

LENGTH = 10
_GALLERY_BLOCK = 8192


def main_result(results: Mapping[str, EvaluationResult]) -> str:
    """Name of the result that is shown: infrared queries, without re-ranking where there is one."""
    plain = [name for name, result in results.items() if result.rerank is None] or list(results)
    infrared = [name for name in plain if results[name].mode == "infrared-visible"]
    return (infrared or plain)[0]


@dataclass(frozen=True)
class Partners:
    """A query and its nearest right gallery item, whatever its rank.

    Attributes:
        kind: "best", "median" or "worst".
        query: Row of the query set.
        gallery: Row of the gallery set.
    """

    kind: str
    query: int
    gallery: int


def ranked_queries(
    judged: Judged,
    results: Mapping[str, EvaluationResult],
    ranks: Mapping[str, RightRanks],
    shelves: tuple[Shelf, Shelf],
    count: int,
) -> tuple[tuple[RankedQuery, ...], tuple[Partners, ...]]:
    """Lists of the best, median and worst queries by AP, in the first trial of the main result.

    In each kind the queries are of different people where there are enough.

    Args:
        judged: What was evaluated.
        results: Results by name; the main one and those that differ in re-ranking alone are shown.
        ranks: First trial of each result.
        shelves: Items of the query set and of the gallery set.
        count: Queries of each kind, fewer where there are not three times as many valid ones.

    Returns:
        The lists, of the best ones first, then of median, then of worst ones; and for the first
        query of each kind its nearest right item without re-ranking.
    """
    main = main_result(results)
    setting = setting_of(results[main])
    names = [main, *(n for n in results if n != main and setting_of(results[n]) == setting)]
    trial = judged.first_trial(setting)
    precision = {name: ranks[name].average_precision().numpy() for name in names}
    first = {name: ranks[name].first().numpy() for name in names}
    people = judged.query.person_ids[trial.query].numpy()
    chosen = choose_queries(precision[main], people, count)
    lists: dict[str, Any] = {}
    nearest: list[Any] = []
    for name in names:
        lists[name], right = _lists(judged, results[name], trial, chosen, shelves[1])
        nearest = nearest or right
    ranked = tuple(
        RankedQuery(
            kind, shelves[0].item(int(trial.query[row])),
            {name: float(precision[name][row]) for name in names},
            {name: int(first[name][row]) + 1 for name in names},
            {name: lists[name][place] for name in names},
        )
        for place, (kind, row) in enumerate(chosen)
    )  # fmt: skip
    partners = [
        Partners(kind, int(trial.query[row]), item)
        for (kind, row), item in zip(chosen, nearest, strict=True)
    ]
    return ranked, tuple({own.kind: own for own in reversed(partners)}.values())[::-1]


def choose_queries(precision: np.ndarray, people: np.ndarray, count: int) -> list[tuple[str, int]]:
    """Kinds and rows of the queries to show; none twice.

    Args:
        precision: Average precision of each query, NaN where it is not valid. Shape (Q,).
        people: Identity of each query. Shape (Q,).
        count: Queries of each kind.
    """
    valid = np.flatnonzero(np.isfinite(precision))
    order = valid[np.argsort(-precision[valid], kind="stable")]
    count = min(count, max(1, len(order) // 3))
    middle = np.argsort(np.abs(np.arange(len(order)) - (len(order) - 1) / 2), kind="stable")
    found: dict[int, str] = {}
    for kind, rows in (("best", order), ("worst", order[::-1]), ("median", order[middle])):
        free = [row for row in rows.tolist() if row not in found]
        for row in _of_different_people(free, people, count):
            found[row] = kind
    kinds = ("best", "median", "worst")
    return sorted(((k, row) for row, k in found.items()), key=lambda pair: kinds.index(pair[0]))


def _of_different_people(rows: Sequence[int], people: np.ndarray, count: int) -> list[int]:
    """The first rows, passing over people that occurred, and then over nobody."""
    firsts: dict[int, int] = {}
    for row in rows:
        firsts.setdefault(int(people[row]), row)
        if len(firsts) == count:
            break
    chosen = list(firsts.values())
    rest = [row for row in rows if row not in chosen]
    return [*chosen, *rest[: count - len(chosen)]]


def _lists(
    judged: Judged,
    result: EvaluationResult,
    trial: FirstTrial,
    chosen: Sequence[tuple[str, int]],
    shelf: Shelf,
) -> tuple[list[tuple[Match, ...]], list[int]]:
    """The first matches of each chosen query, and the row of its nearest right item."""
    rows = torch.tensor([row for _, row in chosen], dtype=torch.int64)
    query = judged.query.subset(trial.query[rows])
    sides = judged.sides(trial.search)
    own = trial.trial
    # A gallery that is most of the set is not copied.
    gallery = sides[1] if own.gallery is None else sides[1].subset(own.gallery)
    if result.rerank is None:
        distances = _plain(query, gallery, result)
    else:
        ((found, _, _),) = reranked_trials(*sides, [own], result.metric, result.rerank)
        blocks = [found.block(row, row + 1) for row in rows.tolist()]
        distances = torch.cat(blocks) if blocks else torch.empty(0, len(gallery))
    dropped = dropped_items(judged.rules, query, gallery)
    lists, nearest = [], []
    for place, person in enumerate(query.person_ids.tolist()):
        order = distances[place].argsort(stable=True)
        if dropped is not None:
            order = order[~dropped[place][order]]
        right = gallery.person_ids[order] == person
        nearest.append(int(trial.gallery[order[right][0]]))
        lists.append(
            tuple(
                Match(
                    rank, shelf.item(int(trial.gallery[item])), float(distances[place, item]),
                    int(gallery.person_ids[item]) == person,
                )
                for rank, item in enumerate(order[:LENGTH].tolist(), start=1)
            )
        )  # fmt: skip
    return lists, nearest


def _plain(query: FeatureSet, gallery: FeatureSet, result: EvaluationResult) -> Tensor:
    """Distances in float64, of which the gallery's features need not be a copy as a whole."""
    asking = query.features.double()
    return torch.cat(
        [
            FeatureRows(asking, part.double(), result.metric).block(0, len(asking))
            for part in gallery.features.split(_GALLERY_BLOCK)
        ],
        dim=1,
    )
