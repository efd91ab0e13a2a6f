"""Re-ranked distances in blocks and as lists have the bits of the whole matrix."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from rerank_oracles import make_features

from vireid_fast.ops import smallest_k
from vireid_fast.retrieval.distance_rows import DistanceRows
from vireid_fast.retrieval.rerank import rerank, rerank_top_k
from vireid_fast.retrieval.reranked_rows import RerankedRows
from vireid_fast.testing import limit_threads


def row_bytes(query: np.ndarray, gallery: np.ndarray) -> int:
    return query.itemsize * (len(query) + len(gallery) + query.shape[1])


def test_blocks_are_rows_of_the_matrix():
    query, gallery = make_features(23, 70, 19, integer=True)
    expected = rerank(query, gallery, 9, 4)
    rows = RerankedRows(query, gallery, 9, 4)
    assert isinstance(rows, DistanceRows)
    assert (rows.num_query, rows.num_gallery) == (23, 70)
    assert (rows.dtype, rows.device) == (torch.float32, torch.device("cpu"))
    for begin, end in ((0, 23), (0, 1), (5, 17), (22, 23), (4, 4)):
        np.testing.assert_array_equal(rows.block(begin, end), expected[begin:end])
    small = RerankedRows(query, gallery, 9, 4, workspace=3 * row_bytes(query, gallery))
    np.testing.assert_array_equal(small.block(1, 23), expected[1:])
    wide = RerankedRows(query.astype(np.float64), gallery, 9, 4)
    assert wide.dtype == wide.block(0, 2).dtype == torch.float64


@pytest.mark.parametrize("k", [1, 7, 70, 500])
def test_lists_are_those_of_the_matrix(k):
    query, gallery = make_features(23, 70, 19, integer=True)
    expected = smallest_k(torch.from_numpy(rerank(query, gallery, 9, 4)), k)
    for rows in (1, 5, 100):
        workspace = rows * row_bytes(query, gallery)
        found = rerank_top_k(query, gallery, k, 9, 4, workspace=workspace)
        for value, other in zip(found, expected, strict=True):
            assert torch.equal(value, other)
    with limit_threads(1):
        again = rerank_top_k(query, gallery, k, 9, 4)
    assert torch.equal(again.distances, expected.distances)


def test_lists_of_coinciding_items_are_nan():
    same = np.ones((3, 4), np.float32)
    with pytest.warns(RuntimeWarning, match="rerank_top_k: all distances of query 0 are 0"):
        found = rerank_top_k(same, same, 2)
    assert bool(found.distances.isnan().all())
    assert found.indices.tolist() == [[0, 1]] * 3


def test_no_matrix_is_held():
    # 4000 x 16000 float32 distances would take 256 MB; the lists took 63 MB with the workspace.
    script = """
import resource, torch
from vireid_fast.retrieval.rerank import rerank_top_k
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.set_num_threads(1)
features = torch.rand(20000, 3)
rerank_top_k(features[:20], features[20:300], 5)
before = peak()
rerank_top_k(features[:4000], features[4000:], 5)
print((peak() - before) // 1024)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 150


def test_errors_name_the_caller():
    query, gallery = make_features(3, 5, 4)
    with pytest.raises(ValueError, match="RerankedRows: k1 must be at least 1, got 0"):
        RerankedRows(query, gallery, 0)
    with pytest.raises(ValueError, match="rerank_top_k: k2 must be at least 1, got 0"):
        rerank_top_k(query, gallery, 3, k2=0)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        rerank_top_k(query, gallery, 0)
    with pytest.raises(ValueError, match="RerankedRows: workspace must be at least 48 bytes"):
        RerankedRows(query, gallery, workspace=47)
    with pytest.raises(ValueError, match="RerankedRows: gallery_features must be finite"):
        RerankedRows(query, gallery * np.float32(np.nan))
