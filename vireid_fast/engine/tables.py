"""Tables for the terminal; metrics are fractions in files and percent here."""

from collections.abc import Mapping
from itertools import groupby

from rich.console import Group
from rich.table import Table
from rich.text import Text

from vireid_fast.retrieval.evaluation import EvaluationResult
from vireid_fast.retrieval.protocols import get_protocol

COLUMNS = ("R1", "R5", "R10", "R20", "mAP", "mINP")


def results_table(results: Mapping[str, EvaluationResult]) -> Group:
    """Tables of the mean over the trials in percent, with the standard deviation below.

    Results of the same conditions, re-ranking aside, share a table; these stand above it.

    Args:
        results: Name of the row -> result; rows that share a table follow each other.
    """
    groups = groupby(results.items(), key=lambda item: _conditions(item[1]))
    parts = []
    for conditions, rows in groups:
        shared = dict(rows)
        # Text is printed as it is: a bracket in the words of a feature file is no markup.
        parts += [Text(f"{conditions}\nre-ranking: {_common_reranking(shared)}"), _table(shared)]
    return Group(*parts)


def settings_table(results: Mapping[str, EvaluationResult]) -> Group:
    """One table of the settings of one evaluation, which differ in mode and shots alone.

    Args:
        results: Name of the row -> result.
    """
    first = next(iter(results.values()))
    lines = [
        ", ".join([first.protocol, *_runs(first), f"{first.metric} distance", "in %"]),
        _features(first),
        f"re-ranking: {_common_reranking(results)}",
        *(f"{name}{_executed(each)}: {', '.join(_sizes(each))}" for name, each in results.items()),
    ]
    return Group(Text("\n".join(lines)), _table(results))


def _conditions(result: EvaluationResult) -> str:
    """Everything that a result depends on but re-ranking; two lines."""
    parts = [result.protocol, f"mode {result.mode}" if result.mode else "given query and gallery"]
    parts[-1] += _executed(result)
    if result.shots is not None:
        parts.append(f"{result.shots}-shot")
    parts += [
        *_runs(result),
        *_sizes(result),
        f"{result.metric} distance",
        "in %",
    ]
    return f"{', '.join(parts)}\n{_features(result)}"


def _executed(result: EvaluationResult) -> str:
    """What a mode does that its name does not say."""
    if result.mode and get_protocol(result.protocol).modes[result.mode].swapped:
        return " (as executed: the drawn images query)"
    return ""


def _sizes(result: EvaluationResult) -> list[str]:
    return [
        f"{_span(result.valid_queries)} of {_span(result.total_queries)} queries valid",
        f"gallery {_span(result.gallery_size)}",
    ]


def _runs(result: EvaluationResult) -> list[str]:
    """How many runs, which splits, how many trials."""
    total = get_protocol(result.protocol).splits
    return [
        *([f"{result.runs} runs"] if result.runs > 1 else []),
        *([_splits(result, total)] if total else []),
        f"{len(result.trials)} trial{'s' if len(result.trials) > 1 else ''}",
    ]


def _features(result: EvaluationResult) -> str:
    made = ", ".join(f"{name} {words}" for name, words in result.processing.items())
    return f"features: {made or 'processing not stated'}"


def _span(count: int | list[int]) -> str:
    return str(count) if isinstance(count, int) else f"{min(count)} to {max(count)}"


def _splits(result: EvaluationResult, total: int) -> str:
    """Which of the data set's numbered splits the models belong to."""
    named = ", ".join(map(str, result.splits)) or "unknown"
    return f"split{'s' if len(result.splits) > 1 else ''} {named} of {total}"


def _reranking(result: EvaluationResult) -> str:
    if result.rerank is None:
        return "none"
    k1, k2, weight = result.rerank
    return f"({k1}, {k2}, {weight:g})"


def _common_reranking(results: Mapping[str, EvaluationResult]) -> str:
    kinds = {_reranking(result) for result in results.values()}
    return kinds.pop() if len(kinds) == 1 else "as each row says"


def _table(results: Mapping[str, EvaluationResult]) -> Table:
    table = Table("result")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for name, result in results.items():
        shown = name if result.rerank is None else f"{name} {_reranking(result)}"
        table.add_row(shown, *_percent(result.mean))
        if len(result.trials) > 1:
            table.add_row("  ± over trials", *_percent(result.std), style="dim")
    return table


def _percent(values: Mapping[str, float]) -> list[str]:
    return [f"{100 * values[name]:.2f}" for name in COLUMNS]
