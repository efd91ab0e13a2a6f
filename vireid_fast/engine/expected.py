"""Whether a result lies where other models of the same training lie: an expected range."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vireid_fast._checks import require, sentence
from vireid_fast.retrieval.metrics import METRIC_NAMES

RULES = ("protocol", "mode", "shots", "metric", "rerank")
"""What two results share when they measure the same."""

SIZES = ("valid_queries", "gallery_size")
"""What they share besides when they measure it on the same data."""

LARGEST_FILE = 64 << 20
"""Bytes; the file of a thousand trials has less than one million."""


@dataclass(frozen=True)
class Comparison:
    """One metric of a result beside those of other models; all values are fractions.

    Attributes:
        result: Name of the result, such as "plain".
        metric: Name of the metric.
        value: Of the result.
        low: Lower end of the range in which another model is expected.
        high: Its upper end.
        models: How many models give the range.
    """

    result: str
    metric: str
    value: float
    low: float
    high: float
    models: int

    @property
    def inside(self) -> bool:
        """Whether the value lies in the range."""
        return self.low <= self.value <= self.high


def compare_files(
    result: Path, expected: Sequence[Path], *, confidence: float = 0.95
) -> list[Comparison]:
    """Compare a result with those of other models, such as other seeds of the same command.

    The range is the prediction interval of a normal distribution (Student's t): with mean m and
    sample deviation s of n models, a mean over k further models lies within
    m +- t s sqrt(1/k + 1/n) with the given probability, t being the quantile of n - 1 degrees of
    freedom.

    Args:
        result: A run's folder or its results.json, a file of `vireid eval --json`, or one of
            benchmarks/results.
        expected: At least two of these, of one model each.
        confidence: Probability that a value lies inside although nothing is wrong; in (0, 1).

    Returns:
        One comparison for each metric of each result that all have in common.

    Raises:
        ValueError: A file holds no result or is damaged; there are fewer than two models; the files
            share no protocol, mode, shots, metric and re-ranking; or queries or galleries differ in
            size, so that the data differ.
    """
    require(0 < confidence < 1, "compare", "confidence", "lie between 0 and 1", confidence)
    require(len(expected) > 1, "compare", "EXPECTED", "be at least two results", len(expected),
            "One model has no spread that a range could be made of.")  # fmt: skip
    own = _read(result)
    others = [_read(path) for path in expected]
    found: list[Comparison] = []
    for name, value in own.items():
        same = [_counterpart(value, each) for each in others]
        if all(each is not None for each in same):
            known = [each for each in same if each is not None]
            _require_same_data(result, name, value, expected, known)
            found += _comparisons(name, value, known, confidence)
    require(bool(found), f"compare: {result}", "results",
            f"have one in common with all of EXPECTED: one {', '.join(RULES)}",
            " and ".join(_rules(value) for value in own.values()))  # fmt: skip
    return found


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The results of a file by name."""
    file = path / "results.json" if path.is_dir() else path
    what = f"compare: {file}"
    require(file.is_file(), what, "file", "exist", "no such file",
            "`vireid eval --run RUN` writes RUN/results.json.")  # fmt: skip
    size = file.stat().st_size
    require(size <= LARGEST_FILE, what, "file", f"have at most {LARGEST_FILE:,} bytes", f"{size:,}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(sentence(what, "file", "be JSON", str(error))) from error
    found = {name: _checked(what, name, value) for name, value in _results("", content)}
    require(bool(found), what, "file", "hold results of an evaluation", "none",
            "`vireid eval --run RUN` and `vireid eval --json FILE` write them.")  # fmt: skip
    return found


def _results(name: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The first result at the top level or not, the others beside it or below "results"."""
    if not isinstance(value, dict):
        return
    if "protocol" in value:
        yield name or str(value["mode"] if value.get("mode") else "result"), value
    if isinstance(value.get("results"), dict):
        value = value["results"]
    for inner, below in value.items():
        if isinstance(below, dict) and "protocol" in below:
            yield inner, below


def _checked(what: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
    for key in METRIC_NAMES:
        number = value.get(key)
        known = isinstance(number, (int, float)) and 0 <= number <= 1
        require(known, what, f"{name}.{key}", "be a fraction", repr(number))
    runs = value.get("runs", 1)
    require(isinstance(runs, int) and runs > 0, what, f"{name}.runs", "be a positive number",
            repr(runs))  # fmt: skip
    return value


def _counterpart(
    value: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    return next((each for each in others.values() if _rules(each) == _rules(value)), None)


def _rules(value: Mapping[str, Any]) -> str:
    return ", ".join(str(value.get(key)) for key in RULES)


def _require_same_data(
    result: Path, name: str, value: Mapping[str, Any], paths: Sequence[Path],
    known: Sequence[Mapping[str, Any]],
) -> None:  # fmt: skip
    for path, other in zip(paths, known, strict=True):
        for key in SIZES:
            require(value.get(key) == other.get(key), f"compare: {result}", f"{name}.{key}",
                    f"be {other.get(key)} as in {path}", value.get(key),
                    "Other queries or another gallery make another number.")  # fmt: skip
        require(other.get("runs", 1) == 1, f"compare: {path}", f"{name}.runs", "be 1",
                other.get("runs"), "Give the results of the single runs.")  # fmt: skip


def _comparisons(
    name: str, value: Mapping[str, Any], known: Sequence[Mapping[str, Any]], confidence: float
) -> list[Comparison]:
    from scipy.stats import t

    n = len(known)
    width = float(t.ppf(0.5 + confidence / 2, n - 1))
    width *= math.sqrt(1 / value.get("runs", 1) + 1 / n)
    found = []
    for metric in METRIC_NAMES:
        values = np.array([each[metric] for each in known], np.float64)
        mean, reach = float(values.mean()), width * float(values.std(ddof=1))
        # No metric leaves 0 to 1; equal models leave room for the rounding of their mean.
        low, high = max(0.0, mean - reach - 1e-12), min(1.0, mean + reach + 1e-12)
        found.append(Comparison(name, metric, float(value[metric]), low, high, n))
    return found
