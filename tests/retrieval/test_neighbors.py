"""Re-ranking by neighbour lists from outside."""

import numpy as np
import pytest
import torch
from rerank_oracles import make_features

from vireid_fast.ops import knn
from vireid_fast.retrieval.distance_rows import DistanceRows
from vireid_fast.retrieval.neighbors import rerank_from_neighbors, rows_from_neighbors
from vireid_fast.retrieval.rerank import rerank

QUERY, GALLERY = make_features(9, 40, 12)
WHOLE = torch.from_numpy(np.concatenate([QUERY, GALLERY]))
EXACT = knn(WHOLE, WHOLE, 20)


def lists(columns: int = 10) -> np.ndarray:
    return EXACT.indices[:, :columns].numpy().copy()


@pytest.mark.parametrize("columns", [7, 10, 20])
@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint32, torch.int32, torch.int64])
def test_exact_lists_give_the_bits_of_rerank(kind, columns):
    expected = rerank(QUERY, GALLERY, 6, 3)
    given = lists(columns)
    given = (
        torch.from_numpy(given).to(kind) if isinstance(kind, torch.dtype) else given.astype(kind)
    )
    np.testing.assert_array_equal(rerank_from_neighbors(QUERY, GALLERY, given, 6, 3), expected)
    found = rerank_from_neighbors(QUERY, GALLERY, given, 6, 3, farthest=EXACT.farthest)
    np.testing.assert_array_equal(found, expected)
    rows = rows_from_neighbors(QUERY, GALLERY, given, 6, 3)
    assert isinstance(rows, DistanceRows)
    np.testing.assert_array_equal(rows.block(2, 7), expected[2:7])


def test_lists_of_all_items():
    everything = knn(WHOLE, WHOLE, 49).indices
    found = rerank_from_neighbors(QUERY, GALLERY, everything, 10**6, 50)
    np.testing.assert_array_equal(found, rerank(QUERY, GALLERY, 10**6, 50))


def test_lists_without_the_item_itself():
    expected = rerank(QUERY, GALLERY, 6, 3)
    given = lists()
    assert (given[:, 0] == np.arange(49)).all()
    for stated in (None, False):
        found = rerank_from_neighbors(QUERY, GALLERY, given[:, 1:], 6, 3, includes_self=stated)
        np.testing.assert_array_equal(found, expected)
    message = "not hold the item itself with includes_self=False, got it in the row of query 0"
    with pytest.raises(ValueError, match=message):
        rerank_from_neighbors(QUERY, GALLERY, given, 6, 3, includes_self=False)
    message = "in its own list, or none of them, got a list without it for query 0"
    with pytest.raises(ValueError, match=message):
        rerank_from_neighbors(QUERY, GALLERY, given[:, 1:], 6, 3, includes_self=True)
    given[13, :-1] = given[13, 1:]
    given[13, -1] = EXACT.indices[13, 10]
    with pytest.raises(ValueError, match="a list without it for gallery item 4"):
        rerank_from_neighbors(QUERY, GALLERY, given, 6, 3)


def test_coinciding_items_may_lack_themselves():
    gallery = GALLERY.copy()
    gallery[10:35] = gallery[3]
    whole = torch.from_numpy(np.concatenate([QUERY, gallery]))
    given = knn(whole, whole, 9).indices
    missing = ~(given == torch.arange(49)[:, None]).any(1)
    assert int(missing.sum()) > 10
    # Their lists end within a tie, where `rerank` takes the lower indices too.
    np.testing.assert_array_equal(
        rerank_from_neighbors(QUERY, gallery, given, 6, 3), rerank(QUERY, gallery, 6, 3)
    )


def test_an_index_may_round():
    # The order of a float16 search; differences of its rounding are put right.
    products = (WHOLE.half().double() @ WHOLE.half().double().T).half().double()
    norms = products.diagonal()
    rough = norms[:, None] + norms - 2 * products
    given = rough.fill_diagonal_(-1).argsort(dim=1, stable=True)[:, :49]
    exact = EXACT.indices
    assert not torch.equal(given[:, :20], exact)
    with pytest.raises(ValueError, match="be sorted, nearest first, got squared distance"):
        rerank_from_neighbors(QUERY, GALLERY, given, 6, 3)
    found = rerank_from_neighbors(QUERY, GALLERY, given, 6, 3, tolerance=0.01)
    np.testing.assert_array_equal(found, rerank(QUERY, GALLERY, 6, 3))


def test_float32_products_are_within_the_default_tolerance():
    query, gallery = (part + np.float32(3) for part in make_features(30, 200, 64))
    whole = torch.from_numpy(np.concatenate([query, gallery]))
    norms = whole.square().sum(1)
    order = (norms[:, None] + norms - 2 * whole @ whole.T).fill_diagonal_(-1).argsort(1)
    found = rerank_from_neighbors(query, gallery, order[:, :30], 20, 6)
    np.testing.assert_allclose(found, rerank(query, gallery, 20, 6), rtol=0, atol=1e-6)


def test_a_missed_neighbour_changes_little():
    given = lists()
    given[4, 5] = given[4, 9]  # as if the sixth had not been found
    given[4, 9] = EXACT.indices[4, 15]
    given[4, 5:9] = EXACT.indices[4, 6:10]
    found = rerank_from_neighbors(QUERY, GALLERY, given, 6, 3)
    expected = rerank(QUERY, GALLERY, 6, 3)
    assert found.shape == expected.shape and np.isfinite(found).all()
    assert not np.array_equal(found, expected)
    assert (found == expected).mean() > 0.5


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_farthest_of_huge_and_tiny_features(factor):
    query, gallery = (part.astype(np.float64) * factor for part in (QUERY, GALLERY))
    farthest = EXACT.farthest.double() * factor**2
    found = rerank_from_neighbors(query, gallery, lists(), 6, 3, farthest=farthest)
    expected = rerank(query, gallery, 6, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_refused_lists():
    def refused(given, message, error=ValueError, **options):
        with pytest.raises(error, match="rerank_from_neighbors: " + message):
            rerank_from_neighbors(QUERY, GALLERY, given, 6, 3, **options)

    refused(lists(6), "neighbor_indices must have at least 7 columns for k1 = 6 and k2 = 3, .*t 6")
    refused(lists()[:-1], r"neighbor_indices must have shape \(49, K\), got \(48, 10\)")
    refused(lists()[0], r"neighbor_indices must have shape \(49, K\), got \(10,\)")
    for value in (-1, 49):
        given = lists()
        given[12, 9] = value
        refused(given, rf"neighbor_indices must lie in \[0, 49\), got {value} in the row of "
                       "gallery item 3. Number queries first")  # fmt: skip
    given = lists()
    given[7, 4] = given[7, 2]
    refused(given, f"neighbor_indices must hold no item twice in a row, got {given[7, 2]} twice in "
                   "the row of query 7")  # fmt: skip
    given = lists()
    given[11, [1, 9]] = given[11, [9, 1]]
    refused(given, "neighbor_indices must be sorted, nearest first, .*in the row of gallery item 2")
    refused(lists()[:, ::-1], "neighbor_indices must be sorted")
    refused(lists().astype(float), "neighbor_indices must be integers, got float64", TypeError)
    refused(torch.zeros(49, 9), "neighbor_indices must be integers", TypeError)
    refused(lists().tolist(), "neighbor_indices must be a torch.Tensor, got list", TypeError)
    refused(torch.from_numpy(lists()).to("meta"), "query_features and neighbor_indices must be on "
                                                  "one device")  # fmt: skip


def test_refused_farthest():
    def refused(farthest, message):
        with pytest.raises(ValueError, match="rerank_from_neighbors: " + message):
            rerank_from_neighbors(QUERY, GALLERY, lists(), 6, 3, farthest=farthest)

    refused(EXACT.farthest[1:], r"farthest must have shape \(49,\), got \(48,\)")
    refused(EXACT.farthest * np.nan, "farthest must be finite")
    short = EXACT.farthest.clone()
    short[3] = EXACT.distances[3, 5]
    refused(short, "farthest must be at least the largest listed squared distance, .*of query 3")
    with pytest.raises(TypeError, match="farthest must be float16, float32 or float64, got int64"):
        rerank_from_neighbors(QUERY, GALLERY, lists(), 6, 3, farthest=np.arange(49))
    # Rounding of an index is put right.
    found = rerank_from_neighbors(
        QUERY, GALLERY, lists(), 6, 3, farthest=EXACT.farthest * (1 - 1e-7)
    )
    np.testing.assert_allclose(found, rerank(QUERY, GALLERY, 6, 3), rtol=0, atol=1e-6)


def test_coinciding_items_give_nan_and_a_warning():
    same = np.ones((3, 4), np.float32)
    given = np.tile(np.arange(6), (6, 1))
    with pytest.warns(RuntimeWarning, match="_neighbors: all distances of query 0 are 0"):
        assert np.isnan(rerank_from_neighbors(same, same, given, 2, 2)).all()
