"""Results of evaluations: what was measured under which rules, and means over several runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from vireid_fast._checks import require
from vireid_fast.retrieval.metrics import METRIC_NAMES, Metrics, average
from vireid_fast.retrieval.protocol import Metric
from vireid_fast.retrieval.protocols import get_protocol


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
        shots: Gallery images of each identity and camera; None where galleries are not drawn.
        metric: Distance between features.
        rerank: Parameters of re-ranking; None without.
        trials: Metrics of each drawn gallery, of all runs.
        processing: How the features were made before they came here, in words by name, e.g.
            {"flip": "concatenated", "L2": "each part"}; empty: not stated.
        splits: Numbered splits of the data set whose models gave the features; empty where the
            data set has one split or the split is unknown.
        runs: Runs whose trials these are.
    """

    protocol: str
    mode: str | None
    shots: int | None
    metric: Metric
    rerank: RerankParameters | None
    trials: tuple[Metrics, ...]
    processing: Mapping[str, str] = field(default_factory=dict)
    splits: tuple[int, ...] = ()
    runs: int = 1

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
    def total_queries(self) -> int | list[int]:
        """All queries, valid or not; a list over the trials where these differ."""
        return _one_or_all([trial.total_queries for trial in self.trials])

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
            "processing": dict(self.processing),
            "rerank": None if self.rerank is None else self.rerank._asdict(),
            "runs": self.runs,
            "splits": list(self.splits),
            "trials": len(self.trials),
            **self.mean,
            "std": self.std,
            "valid_queries": self.valid_queries,
            "total_queries": self.total_queries,
            "gallery_size": self.gallery_size,
            "per_trial": [
                {name: getattr(trial, name) for name in METRIC_NAMES} for trial in self.trials
            ],
        }


# What results must share for a mean over them to mean something.
_SHARED = ("protocol", "mode", "shots", "metric", "rerank", "processing")


def combine(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """One result whose trials are those of several runs, one after the other.

    So the published number of RegDB is the mean over ten models, one for each split, and the
    standard deviation that over the splits.

    Args:
        results: At least one, all of one protocol, mode, metric, re-ranking and processing. Where
            the protocol has numbered splits, each knows its split and no split occurs twice.

    Returns:
        The result over all trials; `runs` and `splits` add up.

    Raises:
        ValueError: There is none, two differ in more than their trials, a split is unknown, or one
            occurs twice.
    """
    require(len(results) > 0, "combine", "results", "hold at least one result", 0)
    first = results[0]
    for name in _SHARED:
        different = [other for other in results if getattr(other, name) != getattr(first, name)]
        require(
            not different, "combine", "results", f"have one {name}",
            " and ".join(repr(getattr(each, name)) for each in (first, *different[:1])),
            "Evaluate all runs in the same way.",
        )  # fmt: skip
    splits = tuple(split for result in results for split in result.splits)
    if get_protocol(first.protocol).splits:
        require(
            all(result.splits for result in results), "combine", "results",
            f"know their splits, since {first.protocol} has a model for each", "one without",
            "Give split= to evaluate, or data_split in the metadata of the feature file.",
        )  # fmt: skip
        twice = sorted({split for split in splits if splits.count(split) > 1})
        require(not twice, "combine", "splits", "be distinct", f"{twice} more than once")
    return replace(
        first,
        trials=tuple(trial for result in results for trial in result.trials),
        splits=splits,
        runs=sum(result.runs for result in results),
    )


def _one_or_all(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values
