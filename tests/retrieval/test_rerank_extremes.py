"""Re-ranking of what is awkward: scales, duplicates, zeros, strides, files, mixed dtypes."""

import warnings

import numpy as np
import pytest
import torch
from rerank_oracles import dense_oracle, dense_oracle_of_squares, make_features, matrices

from vireid_fast.retrieval.rerank import rerank, rerank_distances

TOLERANCE = 1e-6


def scaled(values: np.ndarray, exponent: int) -> np.ndarray:
    """Exactly the values times a power of two, where the result is not subnormal."""
    return np.ldexp(values, exponent)


@pytest.mark.parametrize("exponent", [-120, -60, -21, 0, 41, 60, 120])
def test_powers_of_two_change_no_bit(exponent):
    query, gallery = make_features(9, 40, 12)
    expected = rerank(query, gallery, 6, 3)
    found = rerank(scaled(query, exponent), scaled(gallery, exponent), 6, 3)
    np.testing.assert_array_equal(found, expected)
    given = [scaled(part, exponent) for part in matrices(query, gallery)]
    unscaled = rerank_distances(*matrices(query, gallery), 6, 3)
    np.testing.assert_array_equal(rerank_distances(*given, 6, 3), unscaled)


@pytest.mark.parametrize("factor", [1e-42, 1e-39, 1e-30, 1e30, 1e37])
def test_huge_and_subnormal_features(factor):
    query, gallery = (np.float32(part * factor) for part in make_features(9, 40, 12))
    assert np.isfinite(query).all() and np.abs(gallery).max() > 0
    # What subnormals have lost is lost for the oracle as well.
    expected = dense_oracle(np.float64(query) / factor, np.float64(gallery) / factor, 6, 3, 0.3)
    found = rerank(query, gallery, 6, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("factor", [1e-310, 1e-200, 1e200, 1e300])
def test_huge_and_subnormal_features_in_float64(factor):
    query, gallery = (part.astype(np.float64) for part in make_features(9, 40, 12))
    expected = dense_oracle(query, gallery, 6, 3, 0.3)
    found = rerank(query * factor, gallery * factor, 6, 3)
    # Subnormals keep as few digits as this.
    tolerance = 1e-12 if factor > 1e-300 else TOLERANCE
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_features_far_from_the_origin():
    query, gallery = make_features(9, 40, 12)
    query, gallery = query + np.float32(3000), gallery + np.float32(3000)
    expected = dense_oracle(query, gallery, 6, 3, 0.3)
    np.testing.assert_allclose(rerank(query, gallery, 6, 3), expected, rtol=0, atol=TOLERANCE)
    plain = rerank(query, gallery, 6, 3, 1.0)
    squared = ((query[:, None].astype(np.float64) - gallery[None]) ** 2).sum(-1)
    whole = np.concatenate([query, gallery]).astype(np.float64)
    largest = ((query[:, None] - whole[None]) ** 2).sum(-1).max(1)
    np.testing.assert_allclose(plain, squared / largest[:, None], rtol=0, atol=TOLERANCE)


def test_rows_of_very_different_lengths():
    query, gallery = make_features(9, 40, 12)
    gallery = gallery * np.logspace(-3, 3, 40, dtype=np.float32)[:, None]
    expected = dense_oracle(query, gallery, 6, 3, 0.3)
    np.testing.assert_allclose(rerank(query, gallery, 6, 3), expected, rtol=0, atol=TOLERANCE)


def test_zero_vectors():
    query, gallery = make_features(9, 40, 12)
    query[2] = 0
    gallery[[1, 7, 8, 30]] = 0
    expected = dense_oracle(query, gallery, 6, 3, 0.3)
    np.testing.assert_allclose(rerank(query, gallery, 6, 3), expected, rtol=0, atol=TOLERANCE)


def test_more_duplicates_than_lists_hold():
    query, gallery = make_features(6, 60, 8)
    gallery[10:45] = gallery[3]
    query[1] = query[4] = gallery[3]
    expected = dense_oracle(query, gallery, 6, 3, 0.3)
    np.testing.assert_allclose(rerank(query, gallery, 6, 3), expected, rtol=0, atol=TOLERANCE)


def test_one_query_and_one_item_that_coincide():
    same = np.ones((1, 5), np.float32)
    with pytest.warns(RuntimeWarning, match="rerank: all distances of query 0 are 0"):
        assert np.isnan(rerank(same, same)).all()


@pytest.mark.parametrize("k2", [1, 3])
def test_one_row_of_zeros_gives_nan_where_the_published_code_does(k2):
    cross, within, among = matrices(*make_features(7, 30, 12))
    cross[3] = within[3] = within[:, 3] = 0
    squared = np.block([[within, cross], [cross.T, among]]).astype(np.float64) ** 2
    with np.errstate(invalid="ignore"):
        expected = dense_oracle_of_squares(squared, 7, 6, k2, 0.3)
    with pytest.warns(RuntimeWarning, match=r"all distances of query 3 are 0 \(1 such rows\)"):
        found = rerank_distances(cross, within, among, 6, k2)
    # Query 3 is the nearest of all, so that its row enters every mean.
    assert np.isnan(expected).mean() == (1 / 7 if k2 == 1 else 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("arrange", [
    lambda a: np.asfortranarray(a),
    lambda a: np.repeat(a, 2, axis=0)[::2],
    lambda a: np.ascontiguousarray(a[::-1])[::-1],
    lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
])  # fmt: skip
def test_strides_change_nothing(arrange):
    query, gallery = make_features(9, 40, 12)
    expected = rerank(query, gallery, 6, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rerank(arrange(query), arrange(gallery), 6, 3)
    np.testing.assert_array_equal(found, expected)


def test_memory_mapped_files(tmp_path):
    query, gallery = make_features(9, 40, 12)
    expected = rerank(query, gallery, 6, 3)
    for name, part in (("query", query), ("gallery", gallery)):
        np.save(tmp_path / f"{name}.npy", part)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("query", "gallery")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rerank(*mapped, 6, 3)
    np.testing.assert_array_equal(found, expected)
    assert type(found) is np.ndarray


@pytest.mark.parametrize("pair", [
    (np.float16, np.float32), (np.float32, np.float16), (np.float64, np.float32),
    (np.float16, np.float64),
])  # fmt: skip
def test_mixed_dtypes_take_the_widest(pair):
    query, gallery = make_features(9, 40, 12)
    query, gallery = query.astype(pair[0]), gallery.astype(pair[1])
    wide = np.promote_types(np.promote_types(*pair), np.float32)
    found = rerank(query, gallery, 6, 3)
    assert found.dtype == wide
    np.testing.assert_array_equal(found, rerank(query.astype(wide), gallery.astype(wide), 6, 3))


def test_numpy_and_torch_mix():
    query, gallery = make_features(9, 40, 12)
    expected = rerank(query, gallery, 6, 3)
    found = rerank(torch.from_numpy(query), gallery, 6, 3)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found, expected)
    half = torch.from_numpy(gallery).bfloat16()
    found = rerank(query, half, 6, 3)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, rerank(query, half.float().numpy(), 6, 3))


def test_mixed_devices_are_refused():
    query, gallery = (torch.from_numpy(part) for part in make_features(3, 5, 4))
    with pytest.raises(ValueError, match="query_features and gallery_features must be on one dev"):
        rerank(query, gallery.to("meta"))
