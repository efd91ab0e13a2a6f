"""Tables for the terminal; metrics are fractions in files and percent here."""

from collections.abc import Mapping

from rich.table import Table

from vireid_fast.retrieval.evaluation import EvaluationResult

COLUMNS = ("R1", "R5", "R10", "R20", "mAP", "mINP")


def _describe(result: EvaluationResult) -> str:
    parts = [result.protocol]
    if result.mode is not None:
        parts.append(f"{result.mode} search, {result.shots}-shot")
    trials = f"{len(result.trials)} trial{'s' if len(result.trials) > 1 else ''}"
    parts += [trials, f"{result.valid_queries} valid queries", f"gallery {result.gallery_size}"]
    return ", ".join([*parts, f"{result.metric} distance, in %"])


def results_table(results: Mapping[str, EvaluationResult]) -> Table:
    """The mean over the trials of each result in percent, and below it the standard deviation."""
    first = next(iter(results.values()))
    table = Table(title=_describe(first), title_justify="left")
    table.add_column("features")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for name, result in results.items():
        if result.rerank is not None:
            k1, k2, weight = result.rerank
            name = f"{name} ({k1}, {k2}, {weight:g})"
        table.add_row(name, *_percent(result.mean))
        if len(result.trials) > 1:
            table.add_row("  ± over trials", *_percent(result.std), style="dim")
    return table


def _percent(values: Mapping[str, float]) -> list[str]:
    return [f"{100 * values[name]:.2f}" for name in COLUMNS]
