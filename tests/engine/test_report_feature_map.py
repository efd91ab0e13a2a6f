"""The map of features: PCA against the singular value decomposition, thinning, t-SNE."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vireid_fast.engine.report import report_of_features, report_of_run
from vireid_fast.engine.report.feature_map import feature_map
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.retrieval.feature_set import FeatureSet


def _set(count: int, width: int) -> FeatureSet:
    generator = torch.Generator().manual_seed(1)
    return FeatureSet(
        torch.randn(count, width, generator=generator) * torch.arange(1, width + 1),
        torch.arange(count) % 7,
        torch.full((count,), 3),
        torch.arange(count) % 2,
    )


@pytest.mark.parametrize(("count", "width"), [(30, 5), (6, 40)])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_pca_equals_the_singular_vectors(count, width, metric):
    features = _set(count, width)
    found = feature_map(features, metric)
    rows = features.features.double().numpy()
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows - rows.mean(0)
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    for axis in range(2):
        direction = directions[axis]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        assert np.allclose(found.points[:, axis], rows @ direction, atol=1e-8)
    share = (sizes[:2] ** 2).sum() / (sizes**2).sum()
    assert f"{share:.0%}" in found.method
    assert found.person_ids.tolist() == features.person_ids.tolist()
    assert found.modality.tolist() == features.modality.tolist() and found.note == ""
    assert (found.points == feature_map(features, metric).points).all()


@pytest.mark.parametrize("count", [1, 2])
def test_few_or_equal_rows_have_a_map(count):
    features = _set(count, 4)
    assert feature_map(features, "dot").points.shape == (count, 2)
    same = features.subset(torch.zeros(5, dtype=torch.int64))
    assert not feature_map(same, "dot").points.any()


def test_unknown_modality_is_minus_one():
    features = FeatureSet(torch.randn(4, 3), torch.arange(4), torch.full((4,), -1))
    assert feature_map(features, "dot").modality.tolist() == [-1] * 4


def test_thinning_takes_evenly_by_identity_and_modality():
    # Person 0 has most of the rows.
    ids = torch.tensor([0] * 80 + [1, 1, 2, 2, 2, 3])
    modality = torch.arange(len(ids)) % 2
    features = FeatureSet(torch.randn(len(ids), 3), ids, torch.full_like(ids, -1), modality)
    found = feature_map(features, "dot", points=12)
    assert len(found.points) == 12 and "12 of 86 rows" in found.note
    pairs = set(zip(found.person_ids.tolist(), found.modality.tolist(), strict=True))
    assert pairs == {*zip(ids.tolist(), modality.tolist(), strict=True)}
    assert (found.person_ids == 0).sum() <= 6
    assert (found.points == feature_map(features, "dot", points=12).points).all()


def test_more_identities_than_points():
    features = FeatureSet(torch.randn(50, 3), torch.arange(50), torch.full((50,), -1))
    found = feature_map(features, "dot", points=9)
    assert len(set(found.person_ids.tolist())) == 9


def test_tsne_is_deterministic():
    pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn")
    found = feature_map(_set(20, 4), "euclidean", "tsne")
    assert found.points.shape == (20, 2) and "t-SNE" in found.method
    assert (found.points == feature_map(_set(20, 4), "euclidean", "tsne").points).all()


def test_tsne_without_scikit_learn_names_the_remedy(monkeypatch):
    name = "vireid_fast.engine.report.feature_map.find_spec"
    monkeypatch.setattr(name, lambda package: None)
    match = r"map must be pca where scikit-learn is not installed.*vireid_fast\[tsne\]"
    with pytest.raises(RuntimeError, match=match):
        feature_map(_set(20, 4), "dot", "tsne")
    # Before the features are read.
    with pytest.raises(RuntimeError, match=match):
        report_of_features(protocol="sysu/agw", map_method="tsne")
    with pytest.raises(RuntimeError, match=match):
        report_of_run(RunFolder(Path("no run")), map_method="tsne")


def test_tsne_of_three_rows_is_refused():
    pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn")
    with pytest.raises(ValueError, match="map must be pca for fewer than 4 rows"):
        feature_map(_set(3, 4), "dot", "tsne")


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="map must be one of"):
        feature_map(_set(4, 3), "dot", "umap")
