"""The protocols in plain Python loops, written from the published rules alone.

Nothing of the package is used: a row is a tuple, distances are float64 sums, the ranking is a sort
by (distance, place in the gallery).
"""

import math
import random
from typing import NamedTuple

VISIBLE, INFRARED = 0, 1
DIRECTIONS = ("infrared-visible", "visible-infrared")


class Row(NamedTuple):
    person: int
    camera: int
    modality: int
    index: int
    role: int
    point: tuple[float, ...]


# The rule table: what a query q ignores in the gallery, and what CMC ranks count.
DROPS = {
    "none": lambda q, g: False,
    "same person and camera": lambda q, g: q.person == g.person and q.camera == g.camera,
}
RULES = {
    "regdb/agw": ("none", "items"),
    "regdb/mpanet": ("none", "identities"),
    "llcm/paper": ("same person and camera", "identities"),
    "llcm/official-code": ("same person and camera", "identities"),
    "llcm/idkl": ("none", "identities"),
    "vcm/mitml": ("same person and camera", "items"),
    "bupt/full": ("none", "items"),
    "bupt/official-bs64": ("none", "items"),
    "market1501": ("same person and camera", "items"),
}
CASES = [
    (protocol, mode)
    for protocol in RULES
    for mode in (("all",) if protocol == "market1501" else DIRECTIONS)
]


def rows_of(features):
    """A feature set as a list of rows."""
    columns = [
        features.person_ids, features.camera_ids, features.modality, features.image_indices,
        features.roles,
    ]  # fmt: skip
    plain = [column.tolist() for column in columns]
    points = [tuple(point) for point in features.features.double().tolist()]
    return [Row(*values) for values in zip(*plain, points, strict=True)]


def drawn_gallery(rows, everybody, trial):
    """LLCM: one image of each person and each camera that saw it, after `random.seed(trial)`."""
    random.seed(trial)
    gallery = []
    for person in sorted(everybody):
        for camera in range(1, 10):
            folder = [row for row in rows if row.person == person and row.camera == camera]
            if folder:
                gallery.append(random.choice(sorted(folder, key=lambda row: row.index)))
    return gallery


def whole_batches(rows, size=64):
    """What BUPTCampus' sampler keeps of the visible rows: `rows[:-(n % size)]`."""
    return rows[: -(len(rows) % size)]


def trials_of(protocol, mode, rows):
    """(queries, gallery) of each trial."""
    of = {m: [row for row in rows if row.modality == m] for m in (VISIBLE, INFRARED)}
    asking = INFRARED if mode == "infrared-visible" else VISIBLE
    asked = VISIBLE if asking == INFRARED else INFRARED
    if protocol in ("regdb/agw", "regdb/mpanet", "llcm/idkl"):
        return [(of[asking], of[asked])]
    if protocol.startswith("llcm"):
        everybody = {row.person for row in rows}
        galleries = [drawn_gallery(of[asked], everybody, trial) for trial in range(10)]
        if protocol == "llcm/official-code" and mode == "visible-infrared":
            return [(gallery, of[asking]) for gallery in galleries]
        return [(of[asking], gallery) for gallery in galleries]
    listed = [row for row in rows if row.role == 1]
    others = [row for row in rows if row.role == 0]
    if protocol == "market1501":
        return [(listed, [row for row in others if row.person != -1])]
    if protocol == "vcm/mitml":
        return [(listed, others) if mode == "infrared-visible" else (others, listed)]
    queries = [row for row in listed if row.modality == asking]
    gallery = [row for row in others if row.modality == asked]
    if protocol == "bupt/official-bs64":
        if asking == VISIBLE:
            queries = whole_batches(queries)
        else:
            gallery = whole_batches(gallery)
    return [(queries, gallery)]


def distance(metric, first, second):
    """Distance of two points in float64."""
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    if metric == "dot":
        return -dot
    if metric == "cosine":
        return 1 - dot / math.hypot(*first) / math.hypot(*second)
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(first, second, strict=True)))


def metrics(queries, gallery, drop, cmc, metric):
    """R1, R5, R10, R20, mAP, mINP over the queries with a match, and the sizes."""
    found = {name: [] for name in ("R1", "R5", "R10", "R20", "mAP", "mINP")}
    for query in queries:
        kept = [row for row in gallery if not DROPS[drop](query, row)]
        near = {id(row): distance(metric, query.point, row.point) for row in kept}
        ranked = [row.person for row in sorted(kept, key=lambda row: near[id(row)])]
        hits = [rank for rank, person in enumerate(ranked, start=1) if person == query.person]
        if not hits:
            continue
        counted = list(dict.fromkeys(ranked)) if cmc == "identities" else ranked
        for k in (1, 5, 10, 20):
            found[f"R{k}"].append(query.person in counted[:k])
        found["mAP"].append(sum(n / rank for n, rank in enumerate(hits, start=1)) / len(hits))
        found["mINP"].append(len(hits) / hits[-1])
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return means | {
        "valid_queries": len(found["mAP"]), "total_queries": len(queries),
        "gallery_size": len(gallery),
    }  # fmt: skip


def evaluation(protocol, mode, features, metric):
    """Metrics of every trial of a protocol."""
    drop, cmc = RULES[protocol]
    return [
        metrics(queries, gallery, drop, cmc, metric)
        for queries, gallery in trials_of(protocol, mode, rows_of(features))
    ]
