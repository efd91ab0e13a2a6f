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


def _conditions(result: EvaluationResult) -> str:
    """Everything that a result depends on but re-ranking; two lines."""
    rules = get_protocol(result.protocol)
    parts = [result.protocol, f"mode {result.mode}" if result.mode else "given query and gallery"]
    if result.mode and rules.modes[result.mode].swapped:
        parts[-1] += " (as executed: the drawn images query)"
    if result.shots is not None:
        parts.append(f"{result.shots}-shot")
    if result.runs > 1:
        parts.append(f"{result.runs} runs")
    if rules.splits:
        parts.append(_splits(result, rules.splits))
    parts.append(f"{len(result.trials)} trial{'s' if len(result.trials) > 1 else ''}")
    parts += [
        f"{_span(result.valid_queries)} of {_span(result.total_queries)} queries valid",
        f"gallery {_span(result.gallery_size)}", f"{result.metric} distance", "in %",
    ]  # fmt: skip
    made = ", ".join(f"{name} {words}" for name, words in result.processing.items())
    return f"{', '.join(parts)}\nfeatures: {made or 'processing not stated'}"


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
