"""Diagrams as plain shapes in a fixed field, which `_charts.html.j2` writes as inline SVG.

Text stays text, and colours stay names of the style sheet, so a diagram follows light and dark,
a screen reader and the browser's find.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vireid_fast._checks import require
from vireid_fast.report.content import Curve, Histogram
from vireid_fast.report.templating import number

LEFT, RIGHT, TOP, BOTTOM = 52, 412, 32, 236
# Line styles of the style sheet: colour and dashes.
STYLES = 12
# More points than the field has pixels draw nothing new.
MOST_POINTS = 400
# Few points are marked, so that one alone is seen; lines differ in the shape of their marks.
MOST_MARKS = 12
SHAPES = ("circle", "square", "triangle", "diamond")
MARK_SIZE = 3.5


@dataclass(frozen=True)
class Tick:
    """A label at a place of an axis, in pixels."""

    place: float
    label: str


@dataclass(frozen=True)
class Line:
    """One series.

    Attributes:
        name: In the legend.
        style: Of the style sheet, 0 to 11.
        path: SVG path of the line; empty where no value is finite.
        area: SVG path of the filled area; empty for none.
        marks: SVG path of the marked points; empty for none.
        sample: SVG path of one mark for the legend; empty without marks.
    """

    name: str
    style: int
    path: str
    area: str = ""
    marks: str = ""
    sample: str = ""


@dataclass(frozen=True)
class Chart:
    """A diagram, and what it says as text and as a table.

    Attributes:
        title: Heading.
        caption: What is drawn.
        x_title: Quantity and unit of the x axis; y_title alike.
        y_title: See x_title.
        x_ticks: Labels of the x axis; y_ticks alike.
        y_ticks: See x_ticks.
        lines: The series.
        columns: Head of the table.
        rows: Cells of the table.
    """

    title: str
    caption: str
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`, drawn from pixel `start` to pixel `end`."""

    low: float
    high: float
    start: float
    end: float

    def place(self, values: np.ndarray) -> np.ndarray:
        """Pixels of values; what is not finite stays so."""
        return self.start + (values - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, *, whole: bool = False) -> tuple[Tick, ...]:
        """Labels at multiples of 1, 2 or 5 times a power of ten; whole numbers if `whole`."""
        step = _step(self.low, self.high)
        if whole:
            step = max(1.0, round(step))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        places = [index * step for index in range(first, last + 1)]
        if whole and places and places[0] - self.low > 0.4 * step and self.low == round(self.low):
            # What is counted begins at one, which is a multiple of no longer step.
            places.insert(0, self.low)
        return tuple(
            Tick(round(float(self.place(np.float64(each))), 1), _label(each, digits))
            for each in places
        )


def line_chart(
    title: str,
    caption: str,
    curves: Sequence[Curve],
    *,
    x_title: str,
    y_title: str,
    table_at: Sequence[float],
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    whole_x: bool = False,
    digits: int = 3,
) -> Chart:
    """Lines over a common x axis; values that are not finite leave a gap.

    Args:
        title: Heading.
        caption: What is drawn.
        curves: The lines; x ascends.
        x_title: Quantity and unit; y_title alike.
        y_title: See x_title.
        table_at: Values of x that the table shows; those outside of a curve have a dash.
        x_range: Ends of the x axis; None: those of the values. y_range alike.
        y_range: See x_range.
        whole_x: x counts something.
        digits: Significant digits of the table.

    Raises:
        ValueError: x and y of a curve differ in length.
    """
    for curve in curves:
        require(
            len(curve.x) == len(curve.y), "report", f"curve {curve.name!r}",
            f"have {len(curve.x)} values of y as of x", len(curve.y),
        )  # fmt: skip
    x = Axis(*(x_range or _range([curve.x for curve in curves])), LEFT, RIGHT)
    y = Axis(*(y_range or _range([curve.y for curve in curves], air=0.05)), BOTTOM, TOP)
    lines = []
    for index, curve in enumerate(curves):
        curve_x, curve_y = _thinned(np.asarray(curve.x, float), np.asarray(curve.y, float))
        points = np.stack([x.place(curve_x), y.place(curve_y)], axis=1)
        marked = points[np.isfinite(points).all(axis=1)] if len(points) <= MOST_MARKS else ()
        kind = SHAPES[index % len(SHAPES)]
        marks = "".join(shape(kind, float(a), float(b), MARK_SIZE) for a, b in marked)
        sample = shape(kind, 14, 6, MARK_SIZE) if marks else ""
        lines.append(Line(curve.name, index % STYLES, path(points), marks=marks, sample=sample))
    rows = tuple(
        (f"{at:g}", *(number(_value_at(curve, at), digits) for curve in curves)) for at in table_at
    )
    return Chart(
        title, caption, x_title, y_title, x.ticks(whole=whole_x), y.ticks(), tuple(lines),
        (x_title, *(curve.name for curve in curves)), rows,
    )  # fmt: skip


def histogram_chart(histogram: Histogram, metric: str) -> Chart:
    """Two histograms over common bins: one identity as an area, two identities as a line."""
    same, different = np.asarray(histogram.same), np.asarray(histogram.different)
    edges = np.asarray(histogram.edges, float)
    highest = max(_highest(same), _highest(different), 1e-6)
    x = Axis(*_range([edges]), LEFT, RIGHT)
    y = Axis(0.0, 100 * highest * 1.05, BOTTOM, TOP)
    # The two are told apart by dashes and by the area below one of them, not by colour alone.
    lines = []
    names = ("same identity", "two identities")
    for style, (name, shares) in enumerate(zip(names, (same, different), strict=True)):
        outline = _steps(x.place(edges), y.place(100 * shares))
        corners = [(outline[0, 0], BOTTOM), *outline, (outline[-1, 0], BOTTOM)]
        area = f"{path(np.asarray(corners))}Z" if np.isfinite(shares).all() and not style else ""
        lines.append(Line(name, style, path(outline), area))
    same_pairs, different_pairs = histogram.pairs
    overlap = float(np.minimum(same, different).sum())
    rows = (
        ("pairs", f"{same_pairs:,}", f"{different_pairs:,}"),
        *(
            (f"{words} distance", *(number(_quantile(edges, s, at)) for s in (same, different)))
            for words, at in (("10 % quantile", 0.1), ("median", 0.5), ("90 % quantile", 0.9))
        ),
    )
    caption = "The less the two overlap, the better distances tell identities apart."
    if math.isfinite(overlap) and same_pairs and different_pairs:
        caption = f"{100 * overlap:.0f} % of the two areas overlap; the less, the better."
    return Chart(
        histogram.name, f"{caption} {histogram.note}".strip(), f"distance ({metric})",
        "share of the pairs in %", x.ticks(), y.ticks(), tuple(lines),
        ("", *names), rows,
    )  # fmt: skip


def path(points: np.ndarray) -> str:
    """SVG path through points of shape (n, 2); one that is not finite leaves a gap."""
    parts = []
    command = "M"
    for a, b in points:
        if not (math.isfinite(a) and math.isfinite(b)):
            command = "M"
            continue
        parts.append(f"{command}{_short(a)} {_short(b)}")
        command = "L"
    return "".join(parts)


def shape(kind: str, x: float, y: float, size: float) -> str:
    """SVG path of a mark of half the width `size` around a point.

    Args:
        kind: One of `SHAPES`.
        x: Pixels; y alike.
        y: See x.
        size: Pixels.
    """
    if kind == "circle":
        turn = f"a{size} {size} 0 1 0"
        return f"M{x - size:.1f} {y:.1f}{turn} {2 * size} 0{turn} {-2 * size} 0"
    if kind == "triangle":
        return f"M{x:.1f} {y - 1.2 * size:.1f}l{1.2 * size:.1f} {2.1 * size:.1f}h{-2.4 * size:.1f}z"
    if kind == "diamond":
        reach = round(1.3 * size, 1)
        return f"M{x:.1f} {y - reach:.1f}l{reach} {reach}l{-reach} {reach}l{-reach} {-reach}z"
    return f"M{x - size:.1f} {y - size:.1f}h{2 * size}v{2 * size}h{-2 * size}z"


def _short(value: float) -> str:
    # A zero may carry a sign that means nothing.
    return f"{round(value, 1) + 0.0:g}"


def _range(values: Sequence[np.ndarray], air: float = 0.0) -> tuple[float, float]:
    """Lowest and highest finite value, with air around them; never empty."""
    flat = [np.asarray(each, float).reshape(-1) for each in values]
    joined = np.concatenate(flat or [np.empty(0)])
    # Beyond, the length of an axis would itself not be finite.
    finite = joined[np.abs(joined) < 1e150]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        half = abs(low) / 10 or 0.5
        return low - half, high + half
    return low - air * (high - low), high + air * (high - low)


def _step(low: float, high: float, most: int = 6) -> float:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _label(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or digits > 4:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.{digits}f}".replace("-", "−")


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) <= MOST_POINTS:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int))
    return x[kept], y[kept]


def _value_at(curve: Curve, at: float) -> float:
    x = np.asarray(curve.x, float)
    if not len(x) or not x[0] <= at <= x[-1]:
        return math.nan
    return float(np.interp(at, x, np.asarray(curve.y, float)))


def _steps(edges: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Outline of bars. Shape (2 B, 2)."""
    return np.stack([np.repeat(edges, 2)[1:-1], np.repeat(heights, 2)], axis=1)


def _highest(shares: np.ndarray) -> float:
    finite = shares[np.isfinite(shares)]
    return float(finite.max()) if len(finite) else 0.0


def _quantile(edges: np.ndarray, shares: np.ndarray, at: float) -> float:
    """Quantile of a histogram, linear within a bin; NaN where it is empty."""
    total = np.concatenate([[0.0], np.cumsum(shares)])
    if not math.isfinite(total[-1]) or total[-1] <= 0:
        return math.nan
    return float(np.interp(at * total[-1], total, edges))
