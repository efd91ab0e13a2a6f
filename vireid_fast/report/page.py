"""A report as one HTML page: what stands where; `templates/report.html.j2` writes it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vireid_fast._files import atomic_write
from vireid_fast.report import words
from vireid_fast.report.charts import Chart, histogram_chart, line_chart
from vireid_fast.report.content import Curve, RankedQuery, Report
from vireid_fast.report.feature_map import drawn_map
from vireid_fast.report.templating import render
from vireid_fast.report.training import training_stages
from vireid_fast.retrieval.metrics import METRIC_NAMES
from vireid_fast.retrieval.results import EvaluationResult

CMC_RANKS = (1, 2, 5, 10, 20, 50)
RECALLS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class ResultRow:
    """A result as the page shows it.

    Attributes:
        label: Name, with the parameters of re-ranking.
        conditions: What it depends on, in words.
        mean: Shares by name of the metric; std alike.
        std: See mean.
        trials: Metrics of each trial.
        queries: How many are valid; `gallery` and `features` in words too.
        gallery: See queries.
        features: See queries.
        chart: Metrics over the trials; None of one trial.
    """

    label: str
    conditions: str
    mean: Mapping[str, float]
    std: Mapping[str, float]
    trials: tuple[Mapping[str, float], ...]
    queries: str
    gallery: str
    features: str
    chart: Chart | None


@dataclass(frozen=True)
class Tile:
    """A headline number: percent, its spread, and what re-ranking makes of it."""

    name: str
    value: float
    spread: float | None
    reranked: float | None

    @property
    def gain(self) -> str:
        """What re-ranking adds, in points of a percent."""
        assert self.reranked is not None
        return f"{100 * (self.reranked - self.value):+.1f}".replace("-", "−")


@dataclass(frozen=True)
class QueryCard:
    """A query with its lists, and the fields that filters and orders read.

    Attributes:
        query: The query and its lists.
        lists: Label, average precision, first right rank and matches of each list.
        wrong: Whether the first match of a list is wrong.
        direction: Such as "infrared query, visible gallery"; without what is not known.
        precision: Average precision in the first list; -1 where unknown.
        first: Rank of the first right match in the first list; a large number where none is.
        change: What re-ranking did to the first right match; empty if nothing.
    """

    query: RankedQuery
    lists: tuple[tuple[str, float, int | None, tuple[Any, ...]], ...]
    wrong: bool
    direction: str
    precision: float
    first: int
    change: str

    @property
    def tables(self) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        """Label and matches of each list."""
        return tuple((label, matches) for label, _, _, matches in self.lists)


def write_page(report: Report, path: Path) -> None:
    """Write the page of a report; the file is replaced in one step.

    Args:
        report: What to show.
        path: The .html file.

    Raises:
        OSError: The file cannot be written.
        ValueError: See `render_page`.
    """
    text = render_page(report)
    with atomic_write(path) as temporary:
        # A file name may hold bytes that are no text.
        temporary.write_text(text, encoding="utf-8", errors="replace")


def render_page(report: Report) -> str:
    """One self-contained HTML page; the same text for the same report.

    Parts without content are left out, and one sentence each says so.

    Args:
        report: What to show. Words in it may be hostile: all are escaped.

    Returns:
        The page.

    Raises:
        ValueError: A curve or picture in the report is not well-formed.
    """
    rows = {name: _row(name, result) for name, result in report.results.items()}
    labels = {name: row.label for name, row in rows.items()}
    cards = tuple(_card(query, labels) for query in report.ranked)
    return render(
        "report.html.j2",
        report=report,
        rows=tuple(rows.values()),
        metrics=METRIC_NAMES,
        tiles=_tiles(report.results),
        headline=rows.get(_headline(report.results)),
        curves=_curves(report, labels),
        histograms=tuple(
            histogram_chart(each, _metric(report.results)) for each in report.histograms
        ),
        map=None if report.feature_map is None else drawn_map(report.feature_map),
        stages=training_stages(report.training),
        cards=cards,
        kinds=tuple(dict.fromkeys(card.query.kind for card in cards)),
        modalities=tuple(dict.fromkeys(card.query.query.modality or "unknown" for card in cards)),
        absent=_absent(report),
    )


def _row(name: str, result: EvaluationResult) -> ResultRow:
    trials = tuple({m: getattr(trial, m) for m in METRIC_NAMES} for trial in result.trials)
    parts = [result.protocol, words.mode(result)]
    if result.shots is not None:
        parts.append(f"{result.shots}-shot")
    parts += [
        *words.runs(result), f"{result.metric} distance",
        "without re-ranking" if result.rerank is None
        else f"re-ranking {words.reranking(result)}",
    ]  # fmt: skip
    label = name if result.rerank is None else f"{name} {words.reranking(result)}"
    return ResultRow(
        label, ", ".join(parts), result.mean, result.std, trials, words.span(result.valid_queries),
        words.span(result.gallery_size), words.features(result), _trial_chart(label, trials),
    )  # fmt: skip


def _trial_chart(label: str, trials: tuple[Mapping[str, float], ...]) -> Chart | None:
    if len(trials) < 2:
        return None
    x = np.arange(1, len(trials) + 1)
    curves = [
        Curve(name, x, np.array([100 * trial[name] for trial in trials]))
        for name in ("R1", "mAP", "mINP")
    ]
    return line_chart(
        f"Trials of {label}", "Each trial draws another gallery, or is another run.", curves,
        x_title="trial", y_title="in %", table_at=(), whole_x=True,
    )  # fmt: skip


def _headline(results: Mapping[str, EvaluationResult]) -> str:
    """Name of the result that the page opens with: the first one without re-ranking."""
    plain = (name for name, result in results.items() if result.rerank is None)
    return next(plain, next(iter(results), ""))


def _tiles(results: Mapping[str, EvaluationResult]) -> tuple[Tile, ...]:
    if not results:
        return ()
    first = results[_headline(results)]
    same = (
        each for each in results.values() if each.rerank is not None and each is not first
        and (each.protocol, each.mode, each.shots) == (first.protocol, first.mode, first.shots)
    )  # fmt: skip
    again = next(same, None)
    several = len(first.trials) > 1
    return tuple(
        Tile(
            name, first.mean[name], first.std[name] if several else None,
            None if again is None else again.mean[name],
        )
        for name in ("R1", "R10", "mAP", "mINP")
    )  # fmt: skip


def _metric(results: Mapping[str, EvaluationResult]) -> str:
    return next((result.metric for result in results.values()), "not stated")


def _curves(report: Report, labels: Mapping[str, str]) -> tuple[Chart, ...]:
    charts = []
    if report.cmc:
        curves = _in_percent(report.cmc, labels)
        lowest = min((float(np.nanmin(c.y)) for c in curves if np.isfinite(c.y).any()), default=0)
        last = max((int(c.x[-1]) for c in curves if len(c.x)), default=1)
        charts.append(line_chart(
            "Cumulative match (CMC)",
            "Share of queries that have a right match among the first so many.", curves,
            x_title="rank", y_title="queries in %", whole_x=True, digits=4,
            table_at=[rank for rank in CMC_RANKS if rank <= last],
            # The axis may begin above zero, at a labelled value, so that lines can be told apart.
            y_range=(min(20.0 * math.floor(lowest / 20), 80.0), 100.0),
        ))  # fmt: skip
    if report.precision_recall:
        charts.append(line_chart(
            "Precision and recall",
            "Of a list down to where so many of the right items are found: how much of it is "
            "right. Mean over the queries.",
            _in_percent(report.precision_recall, labels, both=True),
            x_title="recall in %", y_title="precision in %", digits=4,
            table_at=[100 * recall for recall in RECALLS],
            x_range=(0.0, 100.0), y_range=(0.0, 100.0),
        ))  # fmt: skip
    return tuple(charts)


def _in_percent(
    curves: tuple[Curve, ...], labels: Mapping[str, str], *, both: bool = False
) -> list[Curve]:
    return [
        Curve(
            labels.get(curve.name, curve.name),
            np.asarray(curve.x, float) * (100 if both else 1),
            100 * np.asarray(curve.y, float),
        )
        for curve in curves
    ]


def _card(ranked: RankedQuery, labels: Mapping[str, str]) -> QueryCard:
    firsts = {name: ranked.first_right.get(name) or None for name in ranked.lists}
    lists = tuple(
        (labels.get(name, name), ranked.precision.get(name, math.nan), firsts[name], matches)
        for name, matches in ranked.lists.items()
    )
    galleries = sorted({m.item.modality for each in ranked.lists.values() for m in each} - {""})
    sides = {"query": ranked.query.modality, "gallery": " and ".join(galleries)}
    precision = lists[0][1] if lists else math.nan
    ranks = list(firsts.values())
    change = ""
    if len(ranks) > 1 and None not in ranks and ranks[0] != ranks[1]:
        change = f"re-ranking moved the first right match from rank {ranks[0]} to {ranks[1]}"
    return QueryCard(
        query=ranked,
        lists=lists,
        wrong=any(rank != 1 for rank in ranks),
        direction=", ".join(f"{modality} {side}" for side, modality in sides.items() if modality),
        precision=precision if math.isfinite(precision) else -1.0,
        first=ranks[0] if ranks and ranks[0] else 10**9,
        change=change,
    )


def _absent(report: Report) -> tuple[str, ...]:
    """A sentence for each part that is left out."""
    parts = (
        (report.cmc, "CMC curves are left out: there are no ranks to draw them from."),
        (report.precision_recall, "Precision-recall curves are left out: there are no ranks to "
                                  "draw them from."),
        (report.histograms, "Distance histograms are left out: no distances were counted."),
        (report.feature_map, "The map is left out: no features were projected."),
        (report.training, "Training curves are left out: there is no record of a training."),
        (report.ranked, "Ranked lists are left out: no queries were chosen."),
        (report.method_pictures, "Pictures of what the method looked at are left out: the method "
                                 "makes none, or its model or images were not at hand."),
    )  # fmt: skip
    return tuple(sentence for value, sentence in parts if not value)
