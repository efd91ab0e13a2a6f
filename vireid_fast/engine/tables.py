"""Tables for the terminal; metrics are fractions in files and percent here."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vireid_fast.engine.expected import Comparison
from vireid_fast.report import words
from vireid_fast.retrieval.evaluation import EvaluationResult

COLUMNS = ("R1", "R5", "R10", "R20", "mAP", "mINP")


def results_table(results: Mapping[str, EvaluationResult]) -> Group:
    """Tables of the mean over the trials in percent, with the standard deviation below.

    Results of the same conditions, re-ranking aside, share a table; these stand above it.

    Args:
        results: Name of the row -> result; rows that share a table follow each other.
    """
    groups = groupby(results.items(), key=lambda item: _conditions(item[1]))
    parts: list[RenderableType] = []
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
        ", ".join([first.protocol, *words.runs(first), f"{first.metric} distance", "in %"]),
        words.features(first),
        f"re-ranking: {_common_reranking(results)}",
        *(
            f"{name}{words.executed(each)}: {', '.join(words.sizes(each))}"
            for name, each in results.items()
        ),
    ]
    return Group(Text("\n".join(lines)), _table(results))


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """A row for each metric of each result: its value, the range it is expected in, the verdict."""
    models = comparisons[0].models
    table = Table("result", "in %", "here", f"expected, from {models} models", "")
    for each in comparisons:
        expected = f"{100 * each.low:.2f} to {100 * each.high:.2f}"
        verdict = "inside" if each.inside else "outside"
        table.add_row(each.result, each.metric, f"{100 * each.value:.2f}", expected, verdict)
    return table


def _conditions(result: EvaluationResult) -> str:
    """Everything that a result depends on but re-ranking; two lines."""
    parts = [result.protocol, words.mode(result)]
    if result.shots is not None:
        parts.append(f"{result.shots}-shot")
    parts += [*words.runs(result), *words.sizes(result), f"{result.metric} distance", "in %"]
    return f"{', '.join(parts)}\n{words.features(result)}"


def _common_reranking(results: Mapping[str, EvaluationResult]) -> str:
    kinds = {words.reranking(result) for result in results.values()}
    return kinds.pop() if len(kinds) == 1 else "as each row says"


def _table(results: Mapping[str, EvaluationResult]) -> Table:
    table = Table("result")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for name, result in results.items():
        shown = name if result.rerank is None else f"{name} {words.reranking(result)}"
        table.add_row(shown, *_percent(result.mean))
        if len(result.trials) > 1:
            table.add_row("  ± over trials", *_percent(result.std), style="dim")
    return table


def _percent(values: Mapping[str, float]) -> list[str]:
    return [f"{100 * values[name]:.2f}" for name in COLUMNS]
