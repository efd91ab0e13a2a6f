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
    return ", ".join([*parts, f"{result.metric} distance"])


def results_table(results: Mapping[str, EvaluationResult]) -> Table:
    """One row per result with mean and standard deviation over the trials, in percent."""
    first = next(iter(results.values()))
    table = Table(title=_describe(first), title_justify="left")
    table.add_column("features")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for name, result in results.items():
        cells = [f"{100 * result.mean[key]:.2f}" for key in COLUMNS]
        if len(result.trials) > 1:
            cells = [f"{cell} ± {100 * result.std[key]:.2f}"
                     for cell, key in zip(cells, COLUMNS, strict=True)]  # fmt: skip
        if result.rerank is not None:
            k1, k2, weight = result.rerank
            name = f"{name} (k1={k1}, k2={k2}, λ={weight})"
        table.add_row(name, *cells)
    return table
