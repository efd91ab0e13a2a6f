"""Histograms of distances: exact ones against naive loops, sampled ones against exact ones."""

import dataclasses

import numpy as np
import pytest
import torch

from vireid_fast.engine.report import histograms
from vireid_fast.engine.report.histograms import distance_histograms
from vireid_fast.retrieval.feature_set import FeatureSet


def _set(count: int = 40, *, known: bool = True) -> FeatureSet:
    generator = torch.Generator().manual_seed(3)
    people = torch.randint(0, 5, (count,), generator=generator)
    return FeatureSet(
        torch.randn(count, 4, generator=generator) + people[:, None],
        people,
        torch.full((count,), -1),
        torch.arange(count) % 2 if known else None,
    )


def _naive_distance(x, y, metric):
    x, y = x.double().numpy(), y.double().numpy()
    if metric == "euclidean":
        return float(np.sqrt(((x - y) ** 2).sum()))
    if metric == "dot":
        return -float(x @ y)
    return 1 - float(x @ y) / float(np.linalg.norm(x) * np.linalg.norm(y))


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_every_pair_is_counted_once(metric):
    features = _set()
    found = {own.name: own for own in distance_histograms(features, features, features, metric)}
    names = ["within visible", "within infrared", "across modalities"]
    assert list(found) == names
    for name, wanted in zip(names, [{0}, {1}, {0, 1}], strict=True):
        own = found[name]
        pairs = {True: [], False: []}
        for i in range(len(features)):
            for j in range(i):
                if {int(features.modality[i]), int(features.modality[j])} == wanted:
                    same = bool(features.person_ids[i] == features.person_ids[j])
                    distance = _naive_distance(features.features[i], features.features[j], metric)
                    pairs[same].append(distance)
        assert own.pairs == (len(pairs[True]), len(pairs[False])) and own.note == ""
        assert (own.edges == found[names[0]].edges).all()
        for shares, values in ((own.same, pairs[True]), (own.different, pairs[False])):
            # A distance in float32 may fall on the other side of an edge.
            expected = np.histogram(np.clip(values, own.edges[0], own.edges[-1]), own.edges)[0]
            assert np.abs(shares.cumsum() - expected.cumsum() / len(values)).max() < 1.5 / len(
                values
            )
            assert shares.sum() == pytest.approx(1)


def test_unknown_modality_gives_queries_with_gallery_items():
    query, gallery = _set(6, known=False), _set(9, known=False)
    (own,) = distance_histograms(_set(15, known=False), query, gallery, "euclidean")
    same = int((query.person_ids[:, None] == gallery.person_ids).sum())
    assert own.name == "query to gallery" and own.pairs == (same, 54 - same)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_samples_look_like_all_pairs(metric, monkeypatch):
    monkeypatch.setattr(histograms, "SAMPLED_PAIRS", 20_000)
    features = _set()
    exact = distance_histograms(features, features, features, metric)
    sampled, again = (
        distance_histograms(features, features, features, metric, exact_pairs=100) for _ in range(2)
    )
    for own, other, twin in zip(exact, sampled, again, strict=True):
        assert other.pairs == (20_000, 20_000)
        assert "drawn with replacement by a fixed seed" in other.note
        assert f"from {sum(own.pairs):,} pairs" in other.note
        for name in ("same", "different"):
            gap = getattr(own, name).cumsum() - np.interp(
                own.edges[1:], other.edges[1:], getattr(other, name).cumsum()
            )
            assert np.abs(gap).max() < 0.05
            assert (getattr(other, name) == getattr(twin, name)).all()


def test_samples_never_pair_a_row_with_itself():
    ids = np.array([4, 4, 9, 4, 9, 2])
    rows, partners = histograms._draw(ids, ids, True, True, np.random.default_rng(0))
    assert (rows != partners).all() and (ids[rows] == ids[partners]).all()
    drawn, counts = np.unique(rows * 10 + partners, return_counts=True)
    # All 3 x 2 + 2 x 1 ordered pairs, about equally often; the single 2 has no partner.
    assert len(drawn) == 8 and counts.min() > 0.9 * counts.max()
    rows, partners = histograms._draw(ids, ids[:4], False, False, np.random.default_rng(0))
    assert (ids[rows] != ids[partners]).all()
    assert len(np.unique(rows * 10 + partners)) == sum((ids[:4] != p).sum() for p in ids)


def test_one_identity_has_no_pairs_of_two():
    features = FeatureSet(torch.randn(4, 3), torch.ones(4, dtype=torch.int64), torch.full((4,), -1))
    for limit in (100, 1):
        (own,) = distance_histograms(features, features, features, "dot", exact_pairs=limit)
        assert own.pairs[1] == 0 and not own.different.any()


def test_equal_distances_and_no_pairs():
    features = FeatureSet(torch.ones(1, 3), torch.ones(1, dtype=torch.int64), torch.zeros(1).long(),
                          torch.zeros(1).long())  # fmt: skip
    assert distance_histograms(features, features, features, "dot") == ()
    twice = features.subset(torch.tensor([0, 0]))
    (own,) = distance_histograms(twice, twice, twice, "euclidean")
    assert own.pairs == (1, 0) and own.same.sum() == 1


def test_huge_features_keep_finite_distances():
    features = _set()
    features = dataclasses.replace(features, features=features.features * 1e30)
    for own in distance_histograms(features, features, features, "dot"):
        assert np.isfinite(own.edges).all() and own.same.sum() == pytest.approx(1)
    mixed = dataclasses.replace(_set(6, known=False), features=torch.randn(6, 4).half())
    (own,) = distance_histograms(_set(15, known=False), mixed, _set(9, known=False), "euclidean")
    assert own.same.sum() == pytest.approx(1)
