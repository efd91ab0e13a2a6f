"""What a report is about: the features, who queries whom, and the results on them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.protocol import Metric, Permutations, Protocol
from vireid_fast.retrieval.results import EvaluationResult, RerankParameters
from vireid_fast.retrieval.right_ranks import RightRanks, right_ranks
from vireid_fast.retrieval.searches import Search, Setting, Trial, plan_searches


@dataclass(frozen=True)
class Judged:
    """Features under a protocol: one set that queries itself, or a query and a gallery set.

    Attributes:
        rules: The protocol.
        query: The set that queries are taken from.
        gallery: The set that galleries are taken from; the same object for one set.
        permutations: Stored galleries, for sysu/official.
    """

    rules: Protocol
    query: FeatureSet
    gallery: FeatureSet
    permutations: Permutations | None = None

    @property
    def paired(self) -> bool:
        """Whether query and gallery were given apart."""
        return self.query is not self.gallery

    def searches(self, settings: Sequence[Setting]) -> list[Search]:
        """Queries, gallery rows and trials of some settings; of a pair there is one setting."""
        if not self.paired:
            return plan_searches(self.query, self.rules, settings, self.permutations)
        kept = (~self.rules.is_junk(self.gallery.person_ids)).nonzero().flatten()
        return [Search(torch.arange(len(self.query)), kept, [Trial(settings[0])])]

    def sides(self, search: Search) -> tuple[FeatureSet, FeatureSet]:
        """Queries and gallery rows of a search."""
        return self.query.ascending(search.query), self.gallery.ascending(search.gallery)

    def first_trial(self, setting: Setting) -> "FirstTrial":
        """The first trial of a setting."""
        (search,) = self.searches([setting])
        trial = search.trials[0]
        asking = search.query if trial.query is None else search.query[trial.query]
        ranked = search.gallery if trial.gallery is None else search.gallery[trial.gallery]
        return FirstTrial(asking, ranked, search, trial)


@dataclass(frozen=True)
class FirstTrial:
    """One ranked gallery.

    Attributes:
        query: Rows of the query set that ask. Shape (Q,), int64.
        gallery: Rows of the gallery set, in the order that breaks ties. Shape (G,), int64.
        search: The search that it belongs to.
        trial: The same, as positions in the search.
    """

    query: Tensor
    gallery: Tensor
    search: Search
    trial: Trial


def setting_of(result: EvaluationResult) -> Setting:
    """Mode and shots of a result, as `plan_searches` takes them."""
    return Setting(result.mode or "", result.shots or 1)


def ranks_by_result(
    judged: Judged, results: Mapping[str, EvaluationResult]
) -> Iterator[tuple[str, list[RightRanks]]]:
    """Ranks of the right items of every trial, for each result in turn; shared work is shared.

    Yields:
        Name of the result, and the ranks of its trials.
    """
    groups: dict[tuple[Metric, RerankParameters | None], list[str]] = {}
    for name, result in results.items():
        groups.setdefault((result.metric, result.rerank), []).append(name)
    for (metric, parameters), names in groups.items():
        settings = {setting_of(results[name]): name for name in names}
        found: dict[str, list[RightRanks]] = {name: [] for name in names}
        for search in judged.searches(list(settings)):
            ranks = right_ranks(
                judged.rules, *judged.sides(search), search.trials, metric, parameters
            )
            for trial, own in zip(search.trials, ranks, strict=True):
                found[settings[trial.setting]].append(own)
        yield from found.items()
