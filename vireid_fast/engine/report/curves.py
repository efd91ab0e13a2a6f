"""CMC and precision-recall curves, counted as the protocol counts."""

from collections.abc import Sequence

import numpy as np

from vireid_fast.report.content import Curve
from vireid_fast.retrieval.results import EvaluationResult
from vireid_fast.retrieval.right_ranks import RightRanks

RANKS = 50
# The ranks that results quote, also where a gallery has fewer items.
_SHOWN_AT_LEAST = 20
LEVELS = 100


def cmc_curve(name: str, result: EvaluationResult) -> Curve:
    """Share of valid queries with a right item up to each rank, mean over the trials.

    What a rank counts, identities or images, is the protocol's; so the curve passes through the
    result's R1, R5, R10 and R20.

    Args:
        name: Of the result.
        result: Its trials hold the curve of each gallery.

    Returns:
        Ranks 1 to 50, or fewer where every gallery is smaller, but at least 20.
    """
    largest = max(trial.gallery_size for trial in result.trials)
    count = min(RANKS, max(largest, _SHOWN_AT_LEAST))
    rows = []
    for trial in result.trials:
        curve = trial.cmc.numpy()[:count]
        # Beyond its gallery a curve stays at its last value, as R20 does.
        rows.append(np.pad(curve, (0, count - len(curve)), mode="edge"))
    return Curve(name, np.arange(1, count + 1), np.mean(rows, axis=0))


def precision_recall_curve(name: str, trials: Sequence[RightRanks]) -> Curve:
    """Precision without interpolation, mean over the valid queries, then over the trials.

    A query with P right items at the ranks r_1 < ... < r_P has precision p / r_p on the recall
    ((p - 1) / P, p / P]; its area is the average precision. The value at recall k / 100 is the mean
    of that on ((k - 1) / 100, k / 100], so that the mean of these 100 values is the result's mAP.
    The value at recall 0 is the precision at the first right item.

    Args:
        name: Of the result.
        trials: Ranks of the right items of each trial; at least one query has some.

    Returns:
        Recall 0, 0.01, ..., 1 and the precision there. Shape (101,).
    """
    means = [_mean_precision(ranks) for ranks in trials]
    return Curve(name, np.arange(LEVELS + 1) / LEVELS, np.mean(means, axis=0))


def _mean_precision(ranks: RightRanks) -> np.ndarray:
    """The curve of one trial. Shape (101,)."""
    counts, starts = ranks.counts.cpu().numpy(), ranks.crow[:-1].cpu().numpy()
    precisions = ranks.precisions().cpu().numpy()
    levels = np.arange(LEVELS + 1) / LEVELS
    total = np.zeros(LEVELS + 1)
    for count in np.unique(counts[counts > 0]).tolist():
        own = starts[counts == count]
        # (queries, P): precision at each right item, then its integral over the recall.
        steps = precisions[own[:, None] + np.arange(count)]
        area = np.pad(np.cumsum(steps, axis=1) / count, ((0, 0), (1, 0))).sum(axis=0)
        cells = np.diff(np.interp(levels, np.arange(count + 1) / count, area))
        total += np.concatenate([steps[:, :1].sum(axis=0), cells * LEVELS])
    return total / np.count_nonzero(counts)
