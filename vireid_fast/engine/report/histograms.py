"""Distances of pairs of one identity and of two, within and across modalities."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vireid_fast.report.content import Histogram
from vireid_fast.retrieval.distance_rows import FeatureRows
from vireid_fast.retrieval.feature_set import INFRARED, VISIBLE, FeatureSet
from vireid_fast.retrieval.protocol import Metric

BINS = 60
EXACT_PAIRS = 5_000_000
SAMPLED_PAIRS = 200_000
_BLOCK_ELEMENTS = 1 << 22
_SAMPLE_BLOCK = 4096
_LARGEST = 1e15
_SEED = 0

Side = tuple[Tensor, Tensor]
"""Features (n, D) and identities (n,)."""


def distance_histograms(
    shown: FeatureSet,
    query: FeatureSet,
    gallery: FeatureSet,
    metric: Metric,
    *,
    exact_pairs: int = EXACT_PAIRS,
) -> tuple[Histogram, ...]:
    """Histograms of distances in float32, or float64 for float64 or huge features, common bins.

    Where modalities are known, of all pairs of distinct rows of `shown`: visible with visible,
    infrared with infrared, visible with infrared. Else of queries with gallery items.

    Args:
        shown: Every row that queries or is in a gallery, once.
        query: The queries.
        gallery: Every item of a gallery.
        metric: The distance that ranks.
        exact_pairs: Kinds of more pairs are sampled: `SAMPLED_PAIRS` pairs of one identity and as
            many of two, drawn with replacement by a fixed seed.

    Returns:
        A histogram for each kind of pairs that there are.
    """
    found = {}
    for name, first, second in _groups(shown, query, gallery):
        pairs = _distances(first, second, metric, exact_pairs)
        if len(pairs[0]) + len(pairs[1]):
            found[name] = pairs
    parts = [part for same, different, _ in found.values() for part in (same, different)]
    if not found:
        return ()
    edges = _edges([part for part in parts if len(part)])
    return tuple(
        Histogram(
            name, edges, _shares(same, edges), _shares(different, edges),
            (len(same), len(different)), note,
        )
        for name, (same, different, note) in found.items()
    )  # fmt: skip


def _groups(
    shown: FeatureSet, query: FeatureSet, gallery: FeatureSet
) -> list[tuple[str, Side, Side | None]]:
    """Names and sides of the kinds of pairs; one side alone stands for pairs within it."""
    if shown.modality is None:
        first, second = _side(query), _side(gallery)
        dtype = torch.promote_types(first[0].dtype, second[0].dtype)
        sides = [(values.to(dtype), people) for values, people in (first, second)]
        return [("query to gallery", sides[0], sides[1])]
    values, people = _side(shown)
    parts = [shown.modality == modality for modality in (VISIBLE, INFRARED)]
    visible, infrared = ((values[part], people[part]) for part in parts)
    return [
        ("within visible", visible, None),
        ("within infrared", infrared, None),
        ("across modalities", visible, infrared),
    ]


def _side(features: FeatureSet) -> Side:
    values = features.features
    # Squares of larger values, and sums of such squares, would overflow float32.
    large = values.numel() > 0 and float(values.abs().max()) > _LARGEST
    dtype = torch.float64 if large else torch.promote_types(values.dtype, torch.float32)
    return values.to(dtype), features.person_ids


def _distances(
    first: Side, second: Side | None, metric: Metric, exact_pairs: int
) -> tuple[np.ndarray, np.ndarray, str]:
    """Distances of the pairs of one identity and of two, and how they were chosen."""
    count = len(first[1])
    total = count * (count - 1) // 2 if second is None else count * len(second[1])
    if total <= exact_pairs:
        return *_every_pair(first, second, metric), ""
    same, different = _sampled_pairs(first, second, metric)
    note = (
        f"A sample, drawn with replacement by a fixed seed: {len(same):,} pairs of one identity "
        f"and {len(different):,} of two, from {total:,} pairs."
    )
    return same, different, note


def _every_pair(first: Side, second: Side | None, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    within = second is None
    (x, ids), (y, other_ids) = first, first if second is None else second
    if not len(ids) or not len(other_ids):
        return np.empty(0, np.float32), np.empty(0, np.float32)
    rows = FeatureRows(x, y, metric)
    step = max(1, _BLOCK_ELEMENTS // len(other_ids))
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for begin in range(0, len(ids), step):
        end = min(begin + step, len(ids))
        block, same = rows.block(begin, end), ids[begin:end, None] == other_ids
        places = torch.arange(begin, end)[:, None] < torch.arange(len(other_ids))
        counted = places if within else torch.ones_like(places)
        for part, chosen in zip(parts, (same & counted, ~same & counted), strict=True):
            part.append(block[chosen].numpy())
    return np.concatenate(parts[0]), np.concatenate(parts[1])


def _sampled_pairs(
    first: Side, second: Side | None, metric: Metric
) -> tuple[np.ndarray, np.ndarray]:
    (x, ids), (y, other_ids) = first, first if second is None else second
    if metric == "cosine":
        x, y = F.normalize(x), F.normalize(y)
    generator = np.random.default_rng(_SEED)
    measured = []
    for same in (True, False):
        drawn = _draw(ids.numpy(), other_ids.numpy(), same, second is None, generator)
        rows, columns = (torch.from_numpy(part).split(_SAMPLE_BLOCK) for part in drawn)
        parts = [_pair_distance(x[i], y[j], metric) for i, j in zip(rows, columns, strict=True)]
        measured.append(torch.cat(parts).numpy())
    return measured[0], measured[1]


def _draw(
    ids: np.ndarray, other_ids: np.ndarray, same: bool, within: bool, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of one identity, or of two, all of them equally likely; never a row with itself.

    Returns:
        Rows and their partners. Shape (SAMPLED_PAIRS,) each, or (0,) where there is no pair.
    """
    order = np.argsort(other_ids, kind="stable")
    start, end = (np.searchsorted(other_ids[order], ids, side) for side in ("left", "right"))
    own = end - start
    partners = own - int(within) if same else len(other_ids) - own
    total = partners.sum()
    if not total:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    rows = generator.choice(len(ids), SAMPLED_PAIRS, p=partners / total)
    offset = (generator.random(SAMPLED_PAIRS) * partners[rows]).astype(np.int64)
    if not same:
        # The other identities lie before and behind the own one.
        return rows, order[offset + np.where(offset >= start[rows], own[rows], 0)]
    if within:
        # Counted on from the row itself, around the end of its identity.
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        offset = (place[rows] - start[rows] + 1 + offset) % own[rows]
    return rows, order[start[rows] + offset]


def _pair_distance(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    """Distance of each row of x from the same row of y; rows of unit length for "cosine"."""
    if metric == "euclidean":
        return (x - y).norm(dim=1)
    products = (x * y).sum(1)
    return 1 - products if metric == "cosine" else -products


def _edges(parts: list[np.ndarray]) -> np.ndarray:
    """Edges of bins that hold all values. Shape (BINS + 1,), float64."""
    low = min(float(part.min()) for part in parts)
    high = max(float(part.max()) for part in parts)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, BINS + 1)


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of the values in each bin; zeros for no value. Shape (BINS,)."""
    counts = np.histogram(values, edges)[0]
    return counts / max(1, len(values))
