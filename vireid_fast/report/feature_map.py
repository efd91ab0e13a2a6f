"""The two-dimensional map of features as shapes that filters of the page can touch."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from vireid_fast.report.charts import shape
from vireid_fast.report.content import FeatureMap
from vireid_fast.retrieval.feature_set import MODALITY_NAMES

SIZE, MARGIN = 620, 14
NAMES = dict(enumerate(MODALITY_NAMES))
UNKNOWN = "unknown"
SHAPES = {"visible": "circle", "infrared": "triangle", UNKNOWN: "square"}
HUES = 10
# Half the size of a mark in pixels, by the largest number of marks that have it.
SIZES = ((300, 4.5), (1000, 3.5), (float("inf"), 2.6))


@dataclass(frozen=True)
class Point:
    """A feature on the map.

    Attributes:
        identity: Its person.
        camera: Its camera; empty where unknown.
        modality: "visible", "infrared" or "unknown".
        hue: Colour of its identity; several identities share one.
        path: SVG path of its mark, whose shape tells the modality too.
    """

    identity: int
    camera: str
    modality: str
    hue: int
    path: str


@dataclass(frozen=True)
class DrawnMap:
    """The map, ready for the template.

    Attributes:
        method: How features were projected.
        note: How rows were chosen.
        points: Those with finite places.
        identities: Ascending, with how many points each modality has.
        modalities: Those that occur, with their points and a mark for the legend.
        ids: The identities.
        width: Pixels; height alike.
        height: See width.
        left_out: Points without a finite place.
    """

    method: str
    note: str
    points: tuple[Point, ...]
    identities: tuple[tuple[int, dict[str, int]], ...]
    modalities: dict[str, tuple[int, str]]
    ids: frozenset[int]
    width: int
    height: int
    left_out: int


def drawn_map(content: FeatureMap) -> DrawnMap:
    """Places of the points in pixels, at one scale in both directions."""
    points = np.asarray(content.points, float).reshape(-1, 2)
    finite = np.isfinite(points).all(axis=1)
    kept = points[finite]
    low = kept.min(axis=0) if len(kept) else np.zeros(2)
    extent = (kept.max(axis=0) if len(kept) else np.ones(2)) - low
    scale = (SIZE - 2 * MARGIN) / max(float(extent[0]), 1.25 * float(extent[1]), 1e-12)
    height = round(max(float(extent[1]) * scale, SIZE / 4) + 2 * MARGIN)
    size = next(size for most, size in SIZES if len(kept) <= most)
    # Centred, with y upwards.
    middle = low + extent / 2
    places = (kept - middle) * scale * (1, -1) + (SIZE / 2, height / 2)
    ids, cameras, kinds = (
        np.asarray(values)[finite].tolist()
        for values in (content.person_ids, content.camera_ids, content.modality)
    )
    hues = {identity: rank % HUES for rank, identity in enumerate(sorted(set(ids)))}
    drawn = tuple(
        Point(
            identity, str(camera) if camera >= 0 else "", NAMES.get(kind, UNKNOWN),
            hues[identity], shape(SHAPES[NAMES.get(kind, UNKNOWN)], float(x), float(y), size),
        )
        for (x, y), identity, camera, kind in zip(places, ids, cameras, kinds, strict=True)
    )  # fmt: skip
    counts: dict[int, Counter[str]] = {identity: Counter() for identity in hues}
    for point in drawn:
        counts[point.identity][point.modality] += 1
    total = Counter(point.modality for point in drawn)
    modalities = {
        name: (total[name], shape(SHAPES[name], 14, 6, 4.5))
        for name in (*NAMES.values(), UNKNOWN)
        if total[name]
    }
    identities = tuple((identity, dict(counts[identity])) for identity in hues)
    return DrawnMap(
        content.method, content.note, drawn, identities, modalities,
        frozenset(hues), SIZE, height, int((~finite).sum()),
    )  # fmt: skip
