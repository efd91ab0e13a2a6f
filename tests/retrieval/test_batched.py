"""Several galleries or query sets in one call equal separate calls in every bit."""

import numpy as np
import pytest
import torch
from rerank_oracles import make_features

from vireid_fast.retrieval import batched
from vireid_fast.retrieval.batched import rerank_galleries, rerank_query_sets
from vireid_fast.retrieval.rerank import rerank

# (shared, others, width): ordinary; a single item on either side; more new items than shared ones.
CASES = [(40, [13, 5, 60], 8), (1, [1, 7], 3), (5, [100, 2], 4), (50, [3], 300)]
# (k1, k2): ordinary, odd, long expansion, longer than everything.
PARAMETERS = [(20, 6), (7, 3), (3, 50), (10**6, 2)]


def make_parts(shared: int, others: list[int], width: int, *, integer: bool, dtype=np.float32):
    whole = np.concatenate(make_features(shared, sum(others), width, integer=integer))
    first, *rest = np.split(whole.astype(dtype), np.cumsum([shared, *others])[:-1])
    if integer:
        # Fresh integers where all items of a small case would coincide.
        first = first + np.arange(len(first), dtype=dtype)[:, None]
    return first, rest


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_separate_calls(case, integer, parameters):
    for dtype in (np.float32, np.float64):
        shared, others = make_parts(*case, integer=integer, dtype=dtype)
        for found, other in zip(rerank_galleries(shared, others, *parameters), others, strict=True):
            np.testing.assert_array_equal(found, rerank(shared, other, *parameters))
        for found, other in zip(
            rerank_query_sets(others, shared, *parameters), others, strict=True
        ):
            np.testing.assert_array_equal(found, rerank(other, shared, *parameters))


def test_the_shared_side_is_searched_once(monkeypatch):
    searched = []
    search = batched.knn

    def counting(query, database, k):
        searched.append(len(query))
        return search(query, database, k)

    monkeypatch.setattr(batched, "knn", counting)
    shared, others = make_parts(40, [13, 5, 30], 8, integer=False)
    rerank_galleries(shared, others, 6, 3)
    # The galleries are few enough to be measured against everything.
    assert searched == [40]
    monkeypatch.setattr(batched, "_FEW", 5)
    found = rerank_galleries(shared, others, 6, 3)
    assert sorted(searched) == [13, 30, 40, 40]
    for value, other in zip(found, others, strict=True):
        np.testing.assert_array_equal(value, rerank(shared, other, 6, 3))


def test_each_pair_keeps_its_own_dtype_and_scale():
    shared, others = make_parts(20, [9, 10, 11, 12], 8, integer=False)
    others[1] = others[1].astype(np.float64)
    others[2] = others[2] * np.float32(1e30)
    others[3] = others[3].astype(np.float16)
    for found, other in zip(rerank_galleries(shared, others, 6, 3), others, strict=True):
        expected = rerank(shared, other, 6, 3)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_workspace_and_kind():
    shared, others = make_parts(20, [9, 10], 8, integer=False)
    expected = rerank_galleries(shared, others, 6, 3)
    tensors = [torch.from_numpy(other) for other in others]
    found = rerank_galleries(torch.from_numpy(shared), tensors, 6, 3, workspace=4 * (30 + 8))
    for value, other in zip(found, expected, strict=True):
        assert isinstance(value, torch.Tensor)
        np.testing.assert_array_equal(value, other)
    message = "rerank_galleries: workspace must be at least 152 bytes, .* got 151"
    with pytest.raises(ValueError, match=message):
        rerank_galleries(shared, others, workspace=151)


def test_coinciding_items_of_one_gallery():
    same = np.ones((3, 4), np.float32)
    other = make_features(2, 2, 4)[0]
    with pytest.warns(RuntimeWarning, match="rerank_galleries: all distances of query 0 are 0"):
        alone, mixed = rerank_galleries(same, [same, other], 2, 2)
    assert np.isnan(alone).all()
    np.testing.assert_array_equal(mixed, rerank(same, other, 2, 2))


def test_errors():
    shared, others = make_parts(6, [4, 5], 8, integer=False)
    with pytest.raises(ValueError, match="rerank_galleries: galleries must hold at least one"):
        rerank_galleries(shared, [])
    with pytest.raises(TypeError, match="galleries must be a sequence of feature arrays, got nda"):
        rerank_galleries(shared, others[0])
    with pytest.raises(ValueError, match=r"galleries\[1\] must have shape \(G, 8\), got \(5, 7\)"):
        rerank_galleries(shared, [others[0], others[1][:, 1:]])
    with pytest.raises(ValueError, match=r"query_sets\[1\] must be finite, got nan at row 2"):
        others[1][2, 3] = np.nan
        rerank_query_sets(others, shared)
    with pytest.raises(ValueError, match=r"query_sets\[0\] must have at least one row"):
        rerank_query_sets([others[0][:0]], shared)
    with pytest.raises(ValueError, match="rerank_query_sets: k1 must be at least 1"):
        rerank_query_sets(others, shared, 0)
