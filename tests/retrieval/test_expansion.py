"""Query expansion and database augmentation against loops in float64."""

import math
import warnings

import numpy as np
import pytest
import torch

from vireid_fast.retrieval import (
    alpha_query_expansion,
    average_query_expansion,
    database_augmentation,
    expansion,
)
from vireid_fast.testing import limit_threads


def unit(row: list[float]) -> list[float]:
    largest = max(map(abs, row))
    if largest == 0:
        return row
    scaled = [value / largest for value in row]
    length = math.sqrt(math.fsum(value * value for value in scaled))
    return [value / length for value in scaled]


def expanded(row, items, k: int, alpha: float) -> list[float]:
    """unit(row + sum of its k nearest items, each times max(cosine, 0)^alpha), in plain Python."""
    nearest = sorted(range(len(items)), key=lambda i: (math.dist(row, items[i]), i))[:k]
    total = list(row)
    for i in nearest:
        cosine = math.fsum(x * y for x, y in zip(row, items[i], strict=True))
        weight = max(cosine, 0.0) ** alpha if any(row) and any(items[i]) else 0.0
        total = [t + weight * y for t, y in zip(total, items[i], strict=True)]
    return unit(total)


def oracle_queries(query, gallery, k, alpha):
    rows, items = ([unit(row) for row in part.tolist()] for part in (query, gallery))
    return np.array([expanded(row, items, k, alpha) for row in rows])


def oracle_gallery(gallery, k, alpha):
    items = [unit(row) for row in gallery.tolist()]
    return np.array(
        [expanded(row, items[:i] + items[i + 1 :], k, alpha) for i, row in enumerate(items)]
    )


def make_features(num_query, num_gallery, width, dtype=np.float64, seed=0):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(4, width))
    rows = centres[generator.integers(4, size=num_query + num_gallery)]
    rows = rows + 0.8 * generator.normal(size=rows.shape)
    rows = (rows * generator.uniform(0.1, 9, size=(len(rows), 1))).astype(dtype)
    return rows[:num_query], rows[num_query:]


# (Q, G, D, k)
CASES = [(7, 31, 16, 5), (1, 1, 3, 1), (3, 2, 5, 10), (11, 1, 1, 4), (1, 23, 2, 3), (0, 5, 4, 2)]


@pytest.mark.parametrize("alpha", [0, 1, 3.0, 2.7])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_loops(case, alpha):
    *sizes, k = case
    for dtype, tolerance in ((np.float64, 1e-13), (np.float32, 2e-6)):
        query, gallery = make_features(*sizes, dtype=dtype, seed=sum(case))
        expected = oracle_queries(query, gallery, k, alpha).reshape(query.shape)
        found = alpha_query_expansion(query, gallery, k, alpha)
        assert found.dtype == dtype and found.shape == query.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        if alpha == 0:
            np.testing.assert_array_equal(average_query_expansion(query, gallery, k), found)
        lengths = np.linalg.norm(found, axis=1)  # 0 where an opposite item cancels the query
        np.testing.assert_allclose(lengths[lengths > 0], 1, rtol=1e-6)
        augmented = database_augmentation(gallery, k, alpha)
        assert augmented.dtype == dtype and augmented.shape == gallery.shape
        expected = oracle_gallery(gallery, k, alpha)
        np.testing.assert_allclose(augmented, expected, rtol=0, atol=tolerance)


def test_defaults():
    query, gallery = make_features(6, 20, 8)
    found = alpha_query_expansion(query, gallery, 4)
    np.testing.assert_array_equal(found, alpha_query_expansion(query, gallery, 4, 3.0))
    found = database_augmentation(gallery, 4)
    np.testing.assert_array_equal(found, database_augmentation(gallery, 4, 0))


def test_expansion_moves_a_query_towards_its_identity():
    generator = np.random.default_rng(3)
    centre = generator.normal(size=(2, 32))
    gallery = centre[np.arange(20) % 2] + 0.5 * generator.normal(size=(20, 32))
    query = centre + generator.normal(size=(2, 32))
    own = lambda rows: (np.array([unit(r) for r in rows]) * [unit(c) for c in centre]).sum(1)  # noqa: E731
    for found in (
        average_query_expansion(query, gallery, 5),
        alpha_query_expansion(query, gallery, 5),
    ):
        assert (own(found.tolist()) > own(query.tolist()) + 0.05).all()


def test_duplicates_are_neighbours_by_the_lower_index():
    _, gallery = make_features(0, 12, 6)
    gallery[3:9] = gallery[3]  # more than a list of 3 holds
    # Every duplicate averages with duplicates alone and stays where it is.
    found = database_augmentation(gallery, 3)
    np.testing.assert_allclose(found, oracle_gallery(gallery, 3, 0), atol=1e-13)
    np.testing.assert_allclose(found[3:9], [unit(gallery[3].tolist())] * 6, atol=1e-14)
    # Of equally near items the first ones count: here they differ only by being mirrored.
    gallery = np.array([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    found = average_query_expansion(np.array([[1.0, 0.0]]), gallery, 1)
    np.testing.assert_allclose(found, [unit([1 + math.sqrt(0.5), math.sqrt(0.5)])], atol=1e-14)


def test_zero_rows_stay_zero_and_weigh_nothing():
    gallery = np.array([[0.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]])
    query = np.array([[0.0, 0.0], [1.0, 0.0]])
    for alpha in (0, 3):
        found = alpha_query_expansion(query, gallery, 2, alpha)
        assert not found[0].any()
        # The two zeros are nearer to the second query than anything else.
        np.testing.assert_array_equal(found[1], query[1])
        augmented = database_augmentation(gallery, 4, alpha)
        assert np.isfinite(augmented).all() and not augmented[[0, 3]].any()


def test_a_sum_of_zero_stays_zero():
    found = average_query_expansion(np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]]), 1)
    assert not found.any()


@pytest.mark.parametrize("scale", [1e-43, 1e-30, 1e25, 1e37])
def test_huge_and_subnormal_rows(scale):
    query, gallery = (part / np.abs(part).max() for part in make_features(5, 17, 6))
    query, gallery = ((part * scale).astype(np.float32) for part in (query, gallery))
    found = alpha_query_expansion(query, gallery, 4)
    expected = oracle_queries(query.astype(np.float64), gallery.astype(np.float64), 4, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_kinds_dtypes_and_strides(tmp_path):
    query, gallery = make_features(6, 25, 8, np.float32)
    expected = alpha_query_expansion(query, gallery, 4)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for q, g in (
            (query, mapped),
            (query[::-1][::-1], np.repeat(gallery, 2, axis=1)[:, ::2]),
            (torch.from_numpy(query), torch.from_numpy(gallery.T.copy()).T),
            (torch.from_numpy(query), gallery),
            (query, torch.from_numpy(gallery)),
        ):
            found = alpha_query_expansion(q, g, 4)
            assert type(found) is type(q)
            np.testing.assert_array_equal(np.asarray(found), expected)
    mixed = alpha_query_expansion(query, gallery.astype(np.float64), 4)
    assert mixed.dtype == np.float64
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=2e-6)
    for kind in (torch.float16, torch.bfloat16):
        q, g = (torch.from_numpy(part).to(kind) for part in (query, gallery))
        found = alpha_query_expansion(q, g, 4)
        assert found.dtype == torch.float32
        assert torch.equal(found, alpha_query_expansion(q.float(), g.float(), 4))


@pytest.mark.gpu
def test_runs_on_the_gpu():
    query, gallery = (torch.from_numpy(part) for part in make_features(9, 40, 16))
    found = alpha_query_expansion(query.cuda(), gallery.cuda(), 5)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), alpha_query_expansion(query, gallery, 5))
    torch.testing.assert_close(
        database_augmentation(gallery.cuda(), 5, 2).cpu(), database_augmentation(gallery, 5, 2)
    )


def test_threads_blocks_and_other_queries_change_no_bit(monkeypatch):
    query, gallery = make_features(70, 300, 33)
    run = lambda: alpha_query_expansion(query, gallery, 70, 2.7)  # noqa: E731
    expected, augmented = run(), database_augmentation(gallery, 9, 2.7)
    for threads in (1, 2):
        with limit_threads(threads):
            np.testing.assert_array_equal(run(), expected)
            np.testing.assert_array_equal(database_augmentation(gallery, 9, 2.7), augmented)
    monkeypatch.setattr(expansion, "_BLOCK_ELEMENTS", 100)
    np.testing.assert_array_equal(run(), expected)
    single = [alpha_query_expansion(row[None], gallery, 70, 2.7)[0] for row in query]
    np.testing.assert_array_equal(single, expected)


def test_errors():
    query, gallery = make_features(3, 8, 4)

    def refuses(error, match, *arguments):
        with pytest.raises(error, match=match):
            alpha_query_expansion(*arguments)

    refuses(ValueError, r"gallery must have shape \(G, 4\), got \(8, 3\)", query, gallery[:, :3], 2)
    refuses(ValueError, r"query must have shape \(Q, D\), got \(4,\)", query[0], gallery, 2)
    refuses(ValueError, "gallery must have at least one row", query, gallery[:0], 2)
    refuses(ValueError, "query must have at least one column", query[:, :0], gallery[:, :0], 2)
    refuses(ValueError, "query must be finite, got nan at row 0", query * np.nan, gallery, 2)
    refuses(ValueError, "gallery must be finite, got inf at row 0", query, abs(gallery) * np.inf, 2)
    refuses(ValueError, "k must be at least 1, got 0", query, gallery, 0)
    refuses(TypeError, "k must be an integer", query, gallery, 1.5)
    for alpha in (-1, float("nan"), float("inf")):
        refuses(ValueError, "alpha must be finite and at least 0", query, gallery, 2, alpha)
    refuses(TypeError, "alpha must be a number", query, gallery, 2, "three")
    refuses(TypeError, "query must be float16, float32 or float64", query.astype(int), gallery, 2)
    refuses(TypeError, r"gallery must be a torch\.Tensor, got list", query, gallery.tolist(), 2)
    learned = torch.from_numpy(query).requires_grad_()
    refuses(RuntimeError, "query must not require a gradient", learned, gallery, 2)
    elsewhere = torch.empty(8, 4, device="meta")
    refuses(ValueError, "must be on one device", torch.from_numpy(query), elsewhere, 2)
    with pytest.raises(ValueError, match="average_query_expansion: k must be at least 1"):
        average_query_expansion(query, gallery, 0)
    with pytest.raises(
        ValueError, match="database_augmentation: gallery must have at least one row"
    ):
        database_augmentation(gallery[:0], 1)
    with pytest.raises(ValueError, match="database_augmentation: alpha must be finite"):
        database_augmentation(gallery, 1, -0.5)
    with pytest.raises(ValueError, match="database_augmentation: k must be at least 1"):
        database_augmentation(gallery, 0)
