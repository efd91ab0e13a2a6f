"""Training curves, in the order in which one reads them: loss, validation, then all the terms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vireid_fast.report.charts import Chart, line_chart
from vireid_fast.report.content import Curve, TrainingCurve
from vireid_fast.retrieval.metrics import METRIC_NAMES

LOSS, VALIDATION = "loss", "val_"


@dataclass(frozen=True)
class Stage:
    """A stage of a training.

    Attributes:
        name: Its name.
        main: The loss, and the metrics on validation identities.
        terms: Everything else that was recorded, one diagram each.
    """

    name: str
    main: tuple[Chart, ...]
    terms: tuple[Chart, ...]


def training_stages(curves: Sequence[TrainingCurve]) -> tuple[Stage, ...]:
    """The stages in the order of their training, with their diagrams."""
    return tuple(
        _stage(name, [curve for curve in curves if curve.stage == name])
        for name in dict.fromkeys(curve.stage for curve in curves)
    )


def _stage(name: str, curves: list[TrainingCurve]) -> Stage:
    validation = [c for c in curves if c.name.removeprefix(VALIDATION) in METRIC_NAMES]
    main = [_chart("Loss", "Mean over each epoch.", [_curve(c)], "loss")
            for c in curves if c.name == LOSS]  # fmt: skip
    if validation:
        lines = [_curve(c, c.name.removeprefix(VALIDATION), 100.0) for c in validation]
        main.append(_chart("Validation", "On identities that are held out.", lines, "in %"))
    rest = [c for c in curves if c.name != LOSS and c not in validation]
    terms = [_chart(c.name, "", [_curve(c)], "value") for c in rest]
    return Stage(name, tuple(main), tuple(terms))


def _curve(curve: TrainingCurve, name: str = "", factor: float = 1.0) -> Curve:
    return Curve(name or curve.name, np.array(curve.epochs), factor * np.array(curve.values))


def _chart(title: str, caption: str, lines: list[Curve], y_title: str) -> Chart:
    epochs = sorted({float(epoch) for line in lines for epoch in line.x})
    return line_chart(
        title, caption, lines, x_title="epoch", y_title=y_title, table_at=epochs, whole_x=True,
        digits=4,
    )  # fmt: skip
