"""The public re-ranking functions against the stored public results and a dense oracle in loops."""

import itertools
import warnings

import numpy as np
import pytest
import torch

from vireid_fast.retrieval import re_ranking, re_ranking_from_distances
from vireid_fast.testing import limit_threads

FIXTURES = ["basic_k20_6", "k1_gt_N", "odd_k7_3", "ties_int_k20"]
# Spacing of float16 between 1/2 and 1: how far one turned rounding moves a result.
HALF_STEP = 2.0**-11


def make_features(num_query: int, num_gallery: int, width: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    total = num_query + num_gallery
    centres = generator.normal(size=(1 + total // 6, width))
    rows = centres[generator.integers(len(centres), size=total)]
    rows = (rows + 0.7 * generator.normal(size=rows.shape)).astype(np.float32)
    return rows[:num_query], rows[num_query:]


def squared_distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(N, N), from the rows in float64."""
    rows = np.concatenate([query, gallery]).astype(np.float64)
    return np.array([[((x - y) ** 2).sum() for y in rows] for x in rows])


def oracle(
    distances: np.ndarray, num_query: int, k1: int, k2: int, lambda_value: float, half: bool = False
) -> np.ndarray:
    """Zhong et al. on an (N, N) matrix whose columns the items rank by, with dictionaries of
    weights; `half` rounds to float16 whatever CLIP-ReID's code keeps in float16."""
    num_items = len(distances)
    scaled = [
        [row[i] / max(r[i] for r in distances) for row in distances] for i in range(num_items)
    ]
    if half:
        scaled = np.array(scaled, np.float32)
    order = [
        sorted(range(num_items), key=lambda j, i=i: (scaled[i][j], j)) for i in range(num_items)
    ]

    def mutual(item: int, length: int) -> list[int]:
        return [j for j in order[item][:length] if item in order[j][:length]]

    half_length = round(k1 / 2) + 1
    rows = []
    for i in range(num_items):
        first = mutual(i, k1 + 1)
        members = set(first)
        for candidate in first:
            more = mutual(candidate, half_length)
            if 3 * len(set(more) & set(first)) > 2 * len(more):
                members |= set(more)
        columns = sorted(members)
        weights = np.exp(-np.array([scaled[i][j] for j in columns]))
        weights = weights / np.sum(weights)
        rows.append(dict(zip(columns, weights.astype(np.float16 if half else float), strict=True)))
    if k2 != 1:
        rows = [mean_row([rows[n] for n in order[i][:k2]], half) for i in range(num_items)]

    out = np.empty((num_query, num_items - num_query), np.float32 if half else np.float64)
    kind = np.float16 if half else np.float64
    for q, g in itertools.product(range(num_query), range(num_query, num_items)):
        overlap = kind(0)
        for column in sorted(rows[q]):
            if column in rows[g]:
                overlap = kind(overlap + min(rows[q][column], rows[g][column]))
        jaccard = kind(1) - overlap / (kind(2) - overlap)
        rest = (
            np.float32(jaccard * kind(1 - lambda_value)) if half else jaccard * (1 - lambda_value)
        )
        out[q, g - num_query] = rest + scaled[q][g] * type(scaled[q][g])(lambda_value)
    return out


def mean_row(rows: list[dict], half: bool) -> dict:
    kind = np.float32 if half else np.float64
    mean = {}
    for column in sorted(set().union(*rows)):
        total = kind(0)
        for row in rows:
            total += kind(row.get(column, 0))
        mean[column] = np.float16(total / kind(len(rows))) if half else total / len(rows)
    return mean


@pytest.mark.parametrize("name", FIXTURES)
def test_equals_the_public_results(name, shared_dir):
    with np.load(shared_dir / "fixtures" / "rerank" / f"rerank_{name}.npz") as stored:
        arrays = dict(stored)
    parameters = int(arrays["k1"]), int(arrays["k2"]), float(arrays["lam"])
    query, gallery = arrays["qf"], arrays["gf"]
    cross, within, among = arrays["qg"], arrays["qq"], arrays["gg"]

    def check(found, expected, tolerance):
        assert isinstance(found, np.ndarray) and found.dtype == np.float32
        np.testing.assert_allclose(found, arrays[expected], rtol=0, atol=tolerance)

    check(re_ranking(query, gallery, *parameters), "zhong_stable", 1e-6)
    check(re_ranking_from_distances(cross, within, among, *parameters), "zhong_stable", 1e-6)
    # A last bit of numpy's exponential may turn the rounding of few weights.
    found = re_ranking(query, gallery, *parameters, precision="float16")
    check(found, "transreid_stable", HALF_STEP)
    assert (np.abs(found - arrays["transreid_stable"]) > 1e-6).mean() < 0.01
    whole = np.block([[within, cross], [cross.T, among]]) ** 2
    alone = {"local_distmat": whole, "only_local": True}
    check(re_ranking(query, gallery, *parameters, **alone), "zhong_stable", 1e-6)
    found = re_ranking(query, gallery, *parameters, **alone, precision="float16")
    check(found, "transreid_stable", HALF_STEP)


# (Q, G, D, k1, k2, lambda)
CASES = [
    (9, 31, 8, 6, 3, 0.3),
    (5, 23, 3, 7, 1, 0.1),
    (4, 13, 5, 23, 4, 0.6),
    (3, 8, 4, 40, 50, 0.3),
    (1, 1, 2, 20, 6, 0.3),
    (1, 12, 2, 4, 2, 0.0),
    (7, 1, 2, 4, 2, 1.0),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_equals_the_oracle(case, precision):
    num_query, num_gallery, width, *parameters = case
    query, gallery = make_features(num_query, num_gallery, width, seed=sum(case[:3]))
    half = precision == "float16"
    squared = squared_distances(query, gallery)
    local = np.random.default_rng(1).random(squared.shape).astype(np.float32)  # not symmetric
    tolerance = HALF_STEP if half else 1e-6
    for distances, options in (
        (squared, {}),
        (squared + local, {"local_distmat": local}),
        (local, {"local_distmat": local, "only_local": True}),
    ):
        expected = oracle(distances, num_query, *parameters, half=half)
        found = re_ranking(query, gallery, *parameters, **options, precision=precision)
        assert found.shape == (num_query, num_gallery) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_float16_differs_from_float32_by_its_rounding_alone():
    query, gallery = make_features(20, 60, 16)
    plain = re_ranking(query, gallery, 8, 3, 0.3)
    half = re_ranking(query, gallery, 8, 3, 0.3, precision="float16")
    assert 1e-5 < np.abs(plain - half).max() < 1e-2


def test_kinds_dtypes_strides_and_memory_maps(tmp_path):
    query, gallery = make_features(6, 20, 5)
    expected = re_ranking(query, gallery, 5, 2, 0.3)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    wide = np.repeat(gallery, 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for q, g in (
            (torch.from_numpy(query), torch.from_numpy(gallery)),
            (torch.from_numpy(query), gallery),
            (query[::-1][::-1], mapped),
            (query, wide),
            (torch.from_numpy(query.T.copy()).T, torch.from_numpy(wide)),
        ):
            found = re_ranking(q, g, k1=5, k2=2, lambda_value=0.3)
            assert isinstance(found, np.ndarray)
            np.testing.assert_array_equal(found, expected)
    double = re_ranking(query, gallery.astype(np.float64), 5, 2, 0.3)  # mixed: the wider
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, expected, rtol=0, atol=1e-6)
    for kind in (torch.float16, torch.bfloat16):
        q, g = (torch.from_numpy(part).to(kind) for part in (query, gallery))
        widened = re_ranking(q.float(), g.float(), 5, 2, 0.3)
        np.testing.assert_array_equal(re_ranking(q, g, 5, 2, 0.3), widened)
        np.testing.assert_array_equal(re_ranking(q, g.float(), 5, 2, 0.3), widened)


@pytest.mark.gpu
def test_runs_on_the_gpu():
    query, gallery = make_features(30, 90, 16)
    local = squared_distances(query, gallery).astype(np.float32)
    on_gpu = [torch.from_numpy(part).cuda() for part in (query, gallery)]
    for precision, tolerance in (("float32", 1e-6), ("float16", HALF_STEP)):
        for options in ({}, {"local_distmat": local}):
            expected = re_ranking(query, gallery, 8, 3, 0.3, precision=precision, **options)
            found = re_ranking(*on_gpu, 8, 3, 0.3, precision=precision, **options)
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_blocks_and_threads_change_no_bit(monkeypatch):
    query, gallery = make_features(23, 50, 7)
    local = squared_distances(query, gallery)
    calls = [
        lambda: re_ranking(query, gallery, 6, 3, 0.3, precision="float16"),
        lambda: re_ranking(query, gallery, 6, 3, 0.3, local),
        lambda: re_ranking(query, gallery, 6, 3, 0.3, local, precision="float16"),
    ]
    expected = [call() for call in calls]
    for threads in (1, 2):
        with limit_threads(threads):
            for call, value in zip(calls, expected, strict=True):
                np.testing.assert_array_equal(call(), value)
    monkeypatch.setattr("vireid_fast.retrieval.half_jaccard._BLOCK_ELEMENTS", 150)
    monkeypatch.setattr("vireid_fast.retrieval.given_distances.fitting_rows", lambda size: 3)
    for call, value in zip(calls, expected, strict=True):
        np.testing.assert_array_equal(call(), value)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_duplicates_and_zero_rows(precision):
    query, gallery = make_features(8, 30, 4)
    gallery[3:12] = query[2]  # more equal items than a list holds
    gallery[20:24] = 0
    expected = oracle(squared_distances(query, gallery), 8, 5, 3, 0.3, precision == "float16")
    found = re_ranking(query, gallery, 5, 3, 0.3, precision=precision)
    tolerance = HALF_STEP if precision == "float16" else 1e-6
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("exponent", [-135, -70, 100])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_huge_and_subnormal_features(precision, exponent):
    # Whole numbers, which a power of two scales without rounding even below the normal range.
    query, gallery = (np.round(4 * part) for part in make_features(7, 25, 5))
    expected = re_ranking(query, gallery, 6, 3, 0.3, precision=precision)
    query, gallery = (np.ldexp(part, exponent) for part in (query, gallery))
    assert query.dtype == np.float32
    found = re_ranking(query, gallery, 6, 3, 0.3, precision=precision)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_coinciding_items_give_nan_and_a_warning(precision):
    same = np.ones((3, 4), np.float32)
    with pytest.warns(RuntimeWarning, match="all distances of query 0 are 0"):
        assert np.isnan(re_ranking(same, same, 2, 2, 0.3, precision=precision)).all()
    zeros = np.zeros((6, 6), np.float32)
    with pytest.warns(RuntimeWarning, match="all distances of query 0 are 0"):
        found = re_ranking(same, same, 2, 2, 0.3, zeros, True, precision=precision)
    assert np.isnan(found).all()


def test_local_distances_may_be_slightly_negative():
    query, gallery = make_features(6, 20, 5)
    local = squared_distances(query, gallery)
    local[np.diag_indices(26)] = -1e-7
    expected = oracle(local, 6, 5, 2, 0.3)
    found = re_ranking(query, gallery, 5, 2, 0.3, local, only_local=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"distances must have a positive maximum in each column"):
        re_ranking(query, gallery, 5, 2, 0.3, -local - 1, only_local=True)


def test_from_distances_takes_mixed_kinds():
    query, gallery = make_features(7, 18, 5)
    whole = np.sqrt(squared_distances(query, gallery))
    cross, within, among = whole[:7, 7:], whole[:7, :7], whole[7:, 7:]
    expected = oracle(whole**2, 7, 20, 6, 0.3)
    for matrices in (
        (cross, within, among),
        (cross.astype(np.float32), torch.from_numpy(within), among),
    ):
        found = re_ranking_from_distances(*matrices)
        assert isinstance(found, np.ndarray) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    found = re_ranking_from_distances(
        q_g=cross, q_q=within, g_g=among, k1=5, k2=2, lambda_value=0.1
    )
    expected = oracle(whole**2, 7, 5, 2, 0.1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_errors():
    query, gallery = make_features(4, 9, 3)
    local = np.zeros((13, 13), np.float32)

    def refuses(error, match, *arguments, **options):
        with pytest.raises(error, match=match):
            re_ranking(*arguments, **options)

    good = (query, gallery, 4, 2, 0.3)
    refuses(ValueError, "re_ranking: precision must be one of", *good, precision="half")
    refuses(ValueError, "local_distmat must be given for only_local=True", *good, only_local=True)
    refuses(
        ValueError, r"local_distmat must have shape \(13, 13\), got \(4, 9\)", *good, local[:4, 4:]
    )
    refuses(ValueError, "local_distmat must be finite, got nan at row 0", *good, local * np.nan)
    refuses(
        TypeError, "local_distmat must be float16, float32 or float64", *good, local.astype(int)
    )
    refuses(ValueError, r"gallery must have shape \(G, 3\)", query, gallery[:, :2], 4, 2, 0.3)
    refuses(ValueError, r"query must have shape \(Q, D\)", query[0], gallery, 4, 2, 0.3)
    refuses(ValueError, "query must have at least one row", query[:0], gallery, 4, 2, 0.3)
    refuses(ValueError, "gallery must have at least one row", query, gallery[:0], 4, 2, 0.3)
    refuses(
        TypeError, r"query must be a torch\.Tensor, got list", query.tolist(), gallery, 4, 2, 0.3
    )
    learned = torch.from_numpy(query).requires_grad_()
    refuses(RuntimeError, "query must not require a gradient", learned, gallery, 4, 2, 0.3)
    elsewhere = torch.empty(9, 3, device="meta")
    refuses(ValueError, "must be on one device", torch.from_numpy(query), elsewhere, 4, 2, 0.3)
    for options in ({}, {"precision": "float16"}, {"local_distmat": local + 1}):
        refuses(ValueError, "k1 must be at least 1", query, gallery, 0, 2, 0.3, **options)
        refuses(TypeError, "k2 must be an integer", query, gallery, 4, 2.5, 0.3, **options)
        refuses(
            ValueError, r"lambda_value must lie in \[0, 1\]", query, gallery, 4, 2, 2, **options
        )
        refuses(
            ValueError, "must be finite, got nan", query * np.nan, gallery, 4, 2, 0.3, **options
        )
    with pytest.raises(ValueError, match=r"query_query must have shape \(4, 4\)"):
        re_ranking_from_distances(local[:4, 4:], local, local[4:, 4:])
    with pytest.raises(TypeError, match="re_ranking_from_distances: q_g must be float16"):
        re_ranking_from_distances(local.astype(int), local, local)
