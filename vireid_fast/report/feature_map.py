"""The two-dimensional map of features as shapes that filters of the page can touch."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from vireid_fast.report.content import FeatureMap

SIZE, MARGIN = 620, 14
NAMES = {0: "visible", 1: "infrared"}
UNKNOWN = "unknown"
HUES = 10


@dataclass(frozen=True)
class Point:
    """A feature on the map.

    Attributes:
        x: Pixels; y alike.
        y: See x.
        identity: Its person.
        camera: Its camera; empty where unknown.
        modality: "visible", "infrared" or "unknown".
        hue: Colour of its identity; several identities share one.
    """

    x: float
    y: float
    identity: int
    camera: str
    modality: str
    hue: int


@dataclass(frozen=True)
class DrawnMap:
    """The map, ready for the template.

    Attributes:
        method: How features were projected.
        note: How rows were chosen.
        points: Those with finite places.
        identities: Ascending, with how many points each modality has.
        modalities: Those that occur, with their points.
        ids: The identities.
        width: Pixels; height alike.
        height: See width.
        left_out: Points without a finite place.
    """

    method: str
    note: str
    points: tuple[Point, ...]
    identities: tuple[tuple[int, dict[str, int]], ...]
    modalities: dict[str, int]
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
            round(float(x), 1), round(float(y), 1), identity, str(camera) if camera >= 0 else "",
            NAMES.get(kind, UNKNOWN), hues[identity],
        )
        for (x, y), identity, camera, kind in zip(places, ids, cameras, kinds, strict=True)
    )  # fmt: skip
    counts = {identity: Counter() for identity in hues}
    for point in drawn:
        counts[point.identity][point.modality] += 1
    total = Counter(point.modality for point in drawn)
    modalities = {name: total[name] for name in (*NAMES.values(), UNKNOWN) if total[name]}
    identities = tuple((identity, dict(counts[identity])) for identity in hues)
    return DrawnMap(
        content.method, content.note, drawn, identities, modalities,
        frozenset(hues), SIZE, height, int((~finite).sum()),
    )  # fmt: skip
