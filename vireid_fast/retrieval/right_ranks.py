"""Where every right gallery item of each query stands, from which whole curves follow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vireid_fast.ops import count_nearer
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.protocol import Metric, Protocol
from vireid_fast.retrieval.results import RerankParameters
from vireid_fast.retrieval.scoring import exact_distances, reranked_trials
from vireid_fast.retrieval.searches import Trial
from vireid_fast.retrieval.streaming import WORKSPACE, blocks_of


@dataclass(frozen=True)
class RightRanks:
    """Ranks of the right items of the queries of one trial, after dropping.

    Attributes:
        crow: Where the ranks of each query begin. Shape (Q + 1,), int64.
        ranks: 0-based ranks, ascending in each query. Shape (P,), int64.
    """

    crow: Tensor
    ranks: Tensor

    @property
    def counts(self) -> Tensor:
        """Right items of each query. Shape (Q,), int64."""
        return self.crow.diff()

    def precisions(self) -> Tensor:
        """Precision at each right item: hits / rank, both from 1. Shape (P,), float64."""
        place = torch.arange(len(self.ranks), device=self.ranks.device)
        hits = place - torch.repeat_interleave(self.crow[:-1], self.counts) + 1
        return hits.double() / (self.ranks + 1)

    def average_precision(self) -> Tensor:
        """Mean of `precisions` of each query, NaN without a right item. Shape (Q,), float64."""
        total = torch.zeros(len(self.counts), dtype=torch.float64, device=self.ranks.device)
        of = torch.repeat_interleave(self.counts)
        return total.index_add_(0, of, self.precisions()) / self.counts

    def first(self) -> Tensor:
        """Rank of the first right item of each query, -1 without one. Shape (Q,), int64."""
        found = torch.full_like(self.counts, -1)
        valid = self.counts > 0
        found[valid] = self.ranks[self.crow[:-1][valid]]
        return found

    def take(self, queries: Tensor) -> "RightRanks":
        """The ranks of some queries. Positions of shape (q,), int64."""
        counts = self.counts[queries]
        crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        shift = torch.repeat_interleave(self.crow[queries] - crow[:-1], counts)
        return RightRanks(crow, self.ranks[shift + torch.arange(len(shift), device=shift.device)])


@torch.no_grad()
def right_ranks(
    rules: Protocol,
    query: FeatureSet,
    gallery: FeatureSet,
    trials: Sequence[Trial],
    metric: Metric,
    parameters: RerankParameters | None,
) -> Iterator[RightRanks]:
    """Ranks of the right items of each trial, ordered as `scoring.score` orders them.

    Args:
        rules: The protocol, whose drop rule holds.
        query: All queries of a search.
        gallery: All its gallery rows.
        trials: Which queries rank which gallery rows.
        metric: Distance between features.
        parameters: Of re-ranking; None without.

    Yields:
        The ranks of the next trial. Memory: 64 MB of distances at a time, or one row; with
        re-ranking see `reranked_trials`.
    """
    if parameters is not None:
        for rows, asking, ranked in reranked_trials(query, gallery, trials, metric, parameters):
            blocks = _blocks(len(asking), len(ranked))
            yield _joined([_of_block(rules, rows.block(*b), asking, ranked, b[0]) for b in blocks])
        return
    distances = exact_distances(query, gallery, metric)
    galleries = {id(t.gallery): t.gallery for t in trials}
    chosen = {
        key: gallery if columns is None else gallery.subset(columns)
        for key, columns in galleries.items()
    }
    parts: dict[int, list[RightRanks]] = {key: [] for key in galleries}
    for begin, end in _blocks(len(query), len(gallery)):
        block = distances.block(begin, end)
        for key, columns in galleries.items():
            own = block if columns is None else block[:, columns]
            parts[key].append(_of_block(rules, own, query, chosen[key], begin))
    joined = {key: _joined(part) for key, part in parts.items()}
    for trial in trials:
        found = joined[id(trial.gallery)]
        yield found if trial.query is None else found.take(trial.query)


def dropped_items(rules: Protocol, query: FeatureSet, gallery: FeatureSet) -> Tensor | None:
    """Which gallery items each query ignores. Shape (Q, G), bool; None where nothing is dropped."""
    if rules.drop == "none":
        return None
    groups = rules.groups(query.camera_ids), rules.groups(gallery.camera_ids)
    dropped = groups[0][:, None] == groups[1]
    if rules.drop == "same_group_and_id":
        dropped &= query.person_ids[:, None] == gallery.person_ids
    return dropped


def _blocks(num_query: int, num_gallery: int) -> Iterator[tuple[int, int]]:
    return blocks_of(num_query, max(1, WORKSPACE // (8 * max(1, num_gallery))))


def _of_block(
    rules: Protocol, distances: Tensor, query: FeatureSet, gallery: FeatureSet, begin: int
) -> RightRanks:
    """Ranks for the queries from `begin` on, one for each row of distances (q, G)."""
    asking = query.subset(torch.arange(begin, begin + len(distances), device=distances.device))
    right = asking.person_ids[:, None] == gallery.person_ids
    dropped = dropped_items(rules, asking, gallery)
    if dropped is not None:
        right &= ~dropped
        # Behind everything, so that nothing that is kept counts it.
        distances = distances.masked_fill(dropped, torch.inf)
    row, item = right.nonzero(as_tuple=True)
    crow = torch.cat([row.new_zeros(1), right.sum(1).cumsum(0)])
    ranks = count_nearer(distances.contiguous(), crow, distances[row, item], item)
    order = (row * (len(gallery) + 1) + ranks).argsort()
    return RightRanks(crow, ranks[order])


def _joined(parts: Sequence[RightRanks]) -> RightRanks:
    counts = torch.cat([part.counts for part in parts])
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return RightRanks(crow, torch.cat([part.ranks for part in parts]))
