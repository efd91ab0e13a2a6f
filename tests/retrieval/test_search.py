"""Top-k lists against a sort of all distances."""

import math

import numpy as np
import pytest
import torch

from vireid_fast._extension import HAS_EXTENSION
from vireid_fast.ops import pairwise_distance, smallest_k
from vireid_fast.retrieval.distance_rows import ROW_METRICS, FeatureRows, MatrixRows
from vireid_fast.retrieval.search import search, search_rows


def naive_distance(metric, first, second):
    dot = math.fsum(a * b for a, b in zip(first, second, strict=True))
    squared = math.fsum((a - b) ** 2 for a, b in zip(first, second, strict=True))
    if metric == "cosine":
        lengths = math.hypot(*first) * math.hypot(*second)
        return 1 - dot / lengths if lengths else 1.0
    return {"dot": -dot, "euclidean": math.sqrt(squared), "squared_euclidean": squared}[metric]


@pytest.mark.parametrize("metric", ROW_METRICS)
@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 17, 3), (0, 4, 3)], ids=str)
@pytest.mark.parametrize("k", [1, 3, 40])
def test_equals_a_sort_in_plain_loops(metric, shape, k, device):
    num_query, num_gallery, width = shape
    query = torch.randn(num_query, width, dtype=torch.float64)
    gallery = torch.randn(num_gallery, width, dtype=torch.float64)
    query[:1] = 0
    if HAS_EXTENSION:  # a matrix product need not give equal rows equal bits
        gallery[-2:] = gallery[:1]  # equal items: the lower index first
    found = search(query.to(device), gallery.to(device), k, metric=metric)
    assert found.indices.shape == found.distances.shape == (num_query, min(k, num_gallery))
    lists = (part.tolist() for part in found)
    for row, distances, indices in zip(query.tolist(), *lists, strict=True):
        exact = [naive_distance(metric, row, item) for item in gallery.tolist()]
        assert distances == pytest.approx([exact[g] for g in indices], abs=1e-12)
        places = sorted(range(num_gallery), key=lambda g, d=exact: (round(d[g], 12), g))
        assert indices == places[:k]


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_result_does_not_depend_on_the_workspace(metric):
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    query, gallery = torch.randn(23, 5), torch.randn(61, 5)
    distances = pairwise_distance(query, gallery, metric=metric)
    expected = smallest_k(distances, 9)
    for workspace in (61 * 4, 1000, 1 << 20):
        for found in (
            search(query, gallery, 9, metric=metric, workspace=workspace),
            search_rows(FeatureRows(query, gallery, metric), 9, workspace=workspace),
            search_rows(MatrixRows(distances), 9, workspace=workspace),
        ):
            assert torch.equal(found.distances, expected.distances)
            assert torch.equal(found.indices, expected.indices)


@pytest.mark.parametrize("metric", ROW_METRICS)
def test_kinds_and_dtypes(metric):
    query, gallery = torch.randn(4, 6).half(), torch.randn(9, 6).half()
    expected = search(query.float(), gallery.float(), 3, metric=metric)
    mixed = search(query.numpy(), gallery.float().numpy()[:, ::1], 3, metric=metric)
    assert isinstance(mixed.indices, np.ndarray) and mixed.distances.dtype == np.float32
    strided = gallery.float().repeat(1, 2).reshape(18, 6)[::2]
    for found in (search(query, gallery, 3, metric=metric), mixed):
        assert np.array_equal(np.asarray(found.distances), expected.distances.numpy())
        assert np.array_equal(np.asarray(found.indices), expected.indices.numpy())
    other = search(query.float(), strided, 3, metric=metric)
    same = search(query.float(), strided.contiguous(), 3, metric=metric)
    assert torch.equal(other.indices, same.indices)


def test_error_messages():
    query, gallery = torch.randn(2, 3), torch.randn(5, 3)
    with pytest.raises(ValueError, match="search: metric must be one of"):
        search(query, gallery, 1, metric="l1")
    with pytest.raises(ValueError, match=r"gallery must have shape \(G, 3\), got \(5, 2\)"):
        search(query, gallery[:, :2], 1)
    with pytest.raises(ValueError, match="gallery must have at least one row"):
        search(query, gallery[:0], 1)
    with pytest.raises(ValueError, match="search: k must be at least 1, got 0"):
        search(query, gallery, 0)
    with pytest.raises(ValueError, match="workspace must be at least 20 bytes, one row of 5"):
        search(query, gallery, 1, metric="dot", workspace=19)
    gallery[3, 1] = torch.inf
    with pytest.raises(ValueError, match="search: gallery must be finite, got inf at row 3"):
        search(query, gallery, 1)
    with pytest.raises(TypeError, match="search_rows: rows must have num_query"):
        search_rows(gallery, 1)
    with pytest.raises(ValueError, match="search_rows: rows must have at least one column"):
        search_rows(MatrixRows(query[:, :0]), 1)
