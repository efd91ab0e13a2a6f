"""Peak memory of an item as galleries grow, drawn from the result files: docs/memory_per_item.svg.

Both axes are logarithmic. Points are bytes of one call above what was resident, inputs excluded and
outputs included, divided by the number of all items.
"""

import json
import math
import re
from pathlib import Path

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 24, 36, 52
_ITEMS = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
_EDGES = (1_700, 125_000)
# Group and operation of the records of a line -> its title and colour.
_LINES = {
    ("rerank", "peer"): ("dense N x N matrices, Q x G out", "#b5482a"),
    ("rerank", "fused"): ("rerank, Q x G out", "#6b8fb5"),
    ("large_galleries", "fused"): ("re-ranked and evaluated, no matrix", "#1f4e79"),
}
Points = list[tuple[int, float]]


def memory_figure(folder: Path) -> str:
    """The figure as SVG; its text says so where nothing is measured yet."""
    lines = {key: points for key in _LINES if (points := _points(folder, *key))}
    if not lines:
        return _svg([_text(_WIDTH / 2, _HEIGHT / 2, "not measured yet: run make bench")])
    values = [value for points in lines.values() for _, value in points]
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
    axes = _Axes(low, max(high, 10 * low))
    parts = axes.draw()
    for key, points in lines.items():
        title, colour = _LINES[key]
        places = [axes.place(*point) for point in points]
        parts += _line(places, colour)
        # The title stands where the line ends: behind the end, or below it near the edge.
        x, y = places[-1]
        if x < _WIDTH * 0.65:
            parts.append(_text(x + 10, y + 4, title, "start"))
        else:
            parts.append(_text(x, y + 20, title, "end"))
    return _svg(parts)


def _points(folder: Path, group: str, role: str) -> Points:
    """Items and bytes an item, ascending, of the records of a group that have both."""
    path = folder / group / "cpu.json"
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    points = {}
    for record in records:
        sizes = re.match(r"(\d+) x (\d+), D 512\b", record["shape"])
        if sizes and record["role"] == role and "memory_megabytes" in record:
            items = sum(map(int, sizes.groups()))
            points[items] = 1e6 * record["memory_megabytes"] / items
    return sorted(points.items())


class _Axes:
    """Logarithmic axes: items to the right, bytes from `low` to `high` upwards."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high

    def place(self, items: float, value: float) -> tuple[float, float]:
        """Position of a point in the drawing."""
        right = math.log(items / _EDGES[0]) / math.log(_EDGES[1] / _EDGES[0])
        up = math.log(value / self._low) / math.log(self._high / self._low)
        x = _LEFT + right * (_WIDTH - _LEFT - _RIGHT)
        return round(x, 1), round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1)

    def draw(self) -> list[str]:
        """Grid, numbers and names."""
        parts = []
        for items in _ITEMS:
            x, bottom = self.place(items, self._low)
            parts.append(_rule(x, bottom, x, _TOP))
            parts.append(_text(x, bottom + 18, f"{items:,}"))
        for exponent in range(round(math.log10(self._low)), round(math.log10(self._high)) + 1):
            left, y = self.place(_EDGES[0], 10**exponent)
            parts.append(_rule(left, y, _WIDTH - _RIGHT, y))
            parts.append(_text(left - 8, y + 4, _bytes(10**exponent), "end"))
        parts.append(_text(_WIDTH / 2, _HEIGHT - 12, "items, queries and gallery (D = 512)"))
        parts.append(_text(_LEFT, _TOP - 14, "peak memory of an item", "start"))
        return parts


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:g} {unit}"
        value /= 1000
    return f"{value:g} GB"


def _line(places: list[tuple[float, float]], colour: str) -> list[str]:
    path = " ".join(f"{x},{y}" for x, y in places)
    dots = [f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>' for x, y in places]
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#dddddd"/>'


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'


def _svg(parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="13" fill="#222222">'
    )
    back = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    return "\n".join([head, back, *parts, "</svg>"]) + "\n"
