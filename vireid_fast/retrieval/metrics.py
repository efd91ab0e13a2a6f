"""CMC, mAP and mINP from rank statistics, and their mean and deviation over trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vireid_fast._checks import require, require_choice
from vireid_fast.ops import RankStatistics

METRIC_NAMES = ("R1", "R5", "R10", "R20", "mAP", "mINP")


class NoValidQuery(ValueError):
    """No query has a right gallery item, so that there is nothing to average."""


@dataclass(frozen=True)
class Metrics:
    """Retrieval metrics as fractions, averaged over the valid queries.

    Attributes:
        R1: Share of queries whose first correct item is at rank 1; R5, R10 and R20 alike.
        R5: See R1.
        R10: See R1.
        R20: See R1.
        mAP: Mean average precision.
        mINP: Mean inverse negative penalty (Ye et al., 2021).
        valid_queries: Queries with at least one correct gallery item.
        total_queries: All queries; those that are not valid count in no metric.
        gallery_size: Number of gallery items.
        cmc: Share of queries whose first correct item is at rank r + 1 or nearer. Shape
            (gallery_size,), float64.
    """

    R1: float
    R5: float
    R10: float
    R20: float
    mAP: float
    mINP: float
    valid_queries: int
    total_queries: int
    gallery_size: int
    cmc: Tensor


class MetricsSummary(NamedTuple):
    """Mean and population standard deviation over trials, by the names of `METRIC_NAMES`."""

    mean: dict[str, float]
    std: dict[str, float]


def metrics_from_ranks(
    stats: RankStatistics, gallery_size: int, cmc: Literal["identity", "image"] = "identity"
) -> Metrics:
    """Metrics of one gallery.

    Args:
        stats: Statistics of `rank_statistics`, fields of shape (Q,).
        gallery_size: Number of gallery items, at least 1; the length of the CMC curve. Beyond its
            end the curve stays at its last value, so that R20 exists for five items too.
        cmc: Ranks of the CMC count distinct identities ("identity", as SYSU-MM01's evaluator) or
            images ("image").

    Returns:
        Fractions, averaged over the queries that have a correct item.

    Raises:
        NoValidQuery: No query has a correct item in the gallery.
        ValueError: An argument does not fit.
    """
    what = "metrics_from_ranks"
    require_choice(what, "cmc", cmc, ("identity", "image"))
    require(gallery_size >= 1, what, "gallery_size", "be at least 1", gallery_size)
    ranks = stats.first_identity_rank if cmc == "identity" else stats.first_rank
    valid = stats.num_positives > 0
    num_valid = int(valid.sum())
    require(
        num_valid > 0, "evaluation", "query", "hold at least one valid query",
        f"{len(valid)} queries without a correct gallery item",
        "Check that query and gallery share identities that the protocol does not drop.",
        NoValidQuery,
    )  # fmt: skip
    hits = torch.bincount(ranks[valid], minlength=gallery_size)
    curve = hits.cumsum(0).double().cpu() / num_valid
    at = {name: float(curve[min(int(name[1:]), gallery_size) - 1]) for name in METRIC_NAMES[:4]}
    return Metrics(
        **at,
        mAP=float(stats.average_precision[valid].mean()),
        mINP=float(stats.inverse_negative_penalty[valid].mean()),
        valid_queries=num_valid,
        total_queries=len(valid),
        gallery_size=gallery_size,
        cmc=curve,
    )


def average(trials: Sequence[Metrics]) -> MetricsSummary:
    """Mean and standard deviation of each metric over trials.

    Args:
        trials: Metrics of at least one trial.

    Returns:
        Mean and population standard deviation (0 for one trial) by metric name.

    Raises:
        ValueError: There is no trial.
    """
    require(len(trials) > 0, "average", "trials", "hold at least one trial", len(trials))
    table = torch.tensor(
        [[getattr(trial, name) for name in METRIC_NAMES] for trial in trials], dtype=torch.float64
    )
    mean, std = table.mean(0).tolist(), table.std(0, correction=0).tolist()
    return MetricsSummary(
        dict(zip(METRIC_NAMES, mean, strict=True)), dict(zip(METRIC_NAMES, std, strict=True))
    )
