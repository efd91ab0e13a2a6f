"""Re-ranking against the published results and against a dense oracle in float64."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from rerank_oracles import dense_oracle, make_features, matrices

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops import k_reciprocal_sets, smallest_k
from vireid_fast.retrieval import squared_distances
from vireid_fast.retrieval.reciprocal_encoding import encode, rank_lists, require_parameters
from vireid_fast.retrieval.rerank import rerank, rerank_distances, top_k_lists
from vireid_fast.retrieval.squared_distances import FeatureDistances, MatrixDistances
from vireid_fast.retrieval.workspace import Workspace
from vireid_fast.testing import limit_threads

FIXTURES = ["basic_k20_6", "k1_gt_N", "odd_k7_3", "ties_int_k20"]
# Published code and ours both round weights, sums and the blend to float32.
TOLERANCE = 1e-6


@pytest.mark.parametrize("name", FIXTURES)
def test_equals_the_published_results(name, shared_dir):
    with np.load(shared_dir / "fixtures" / "rerank" / f"rerank_{name}.npz") as stored:
        arrays = dict(stored)
    parameters = int(arrays["k1"]), int(arrays["k2"]), float(arrays["lam"])
    expected = arrays["zhong_stable"]
    # In these files rounding decides no cut: the gap at the cuts is large, or the ties are exact.
    features = rerank(arrays["qf"], arrays["gf"], *parameters)
    np.testing.assert_allclose(features, expected, rtol=0, atol=TOLERANCE)
    given = rerank_distances(arrays["qg"], arrays["qq"], arrays["gg"], *parameters)
    np.testing.assert_allclose(given, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", FIXTURES)
def test_sets_and_weights_equal_the_published_ones(name, shared_dir):
    with np.load(shared_dir / "fixtures" / "rerank" / f"rerank_{name}.npz") as stored:
        arrays = dict(stored)
    parameters = require_parameters("test", *(arrays[key].item() for key in ("k1", "k2", "lam")))
    query, gallery = (torch.from_numpy(arrays[key]) for key in ("qf", "gf"))
    distances = FeatureDistances(query, gallery, block=7)
    num_items = distances.num_items
    candidates = distances.nearest(parameters.candidates(num_items))
    lists = rank_lists(distances, candidates, parameters.list_length(num_items))
    assert lists[:, : arrays["rank_stable"].shape[1]].tolist() == arrays["rank_stable"].tolist()
    crow, col = k_reciprocal_sets(lists, parameters.k1)
    assert crow.diff().tolist() == arrays["set_sizes"].tolist()
    row = torch.repeat_interleave(crow.diff())
    chosen = torch.zeros(num_items, num_items, dtype=torch.bool)
    chosen[row, col] = True
    assert torch.equal(chosen, torch.from_numpy(arrays["V64"]) != 0)
    rows = encode("test", distances, parameters).rows
    dense = torch.zeros(len(query), num_items)
    dense[torch.repeat_interleave(rows.crow.diff()), rows.col] = rows.weight
    expected = torch.from_numpy(arrays["Vqe64"])[: len(query)]
    torch.testing.assert_close(dense, expected, rtol=0, atol=1e-7)


# (Q, G, D, k1, k2, lambda): ordinary; odd halves; clipping lists; smallest sets; N = 2; extremes.
CASES = [
    (20, 81, 32, 20, 6, 0.3),
    (13, 47, 17, 7, 3, 0.1),
    (11, 53, 8, 5, 2, 0.7),
    (7, 31, 5, 23, 4, 0.3),
    (3, 9, 16, 20, 6, 0.3),
    (3, 9, 16, 12, 50, 0.3),
    (4, 11, 3, 11, 12, 0.2),
    (4, 11, 3, 10**6, 10**6, 0.2),
    (9, 20, 4, 1, 1, 0.3),
    (9, 20, 4, 1, 6, 0.3),
    (9, 20, 4, 6, 1, 0.3),
    (9, 20, 4, 2, 20, 0.3),
    (9, 20, 4, 8, 3, 0.0),
    (9, 20, 4, 8, 3, 1.0),
    (1, 1, 1, 20, 6, 0.3),
    (1, 1, 7, 1, 1, 0.5),
    (2, 29, 1, 6, 3, 0.3),
    (37, 2, 11, 6, 3, 0.3),
]


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_dense_oracle(case, integer):
    *sizes, k1, k2, lambda_value = case
    query, gallery = make_features(*sizes, integer=integer, seed=sum(sizes))
    if integer:
        # Fresh integers where all items of a small case would coincide.
        query = query + np.arange(len(query), dtype=np.float32)[:, None]
    expected = dense_oracle(query, gallery, k1, k2, lambda_value)
    found = rerank(query, gallery, k1, k2, lambda_value)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    given = rerank_distances(*matrices(query, gallery), k1, k2, lambda_value)
    np.testing.assert_allclose(given, expected, rtol=0, atol=TOLERANCE)


def test_float64_features_are_ranked_in_float64():
    query, gallery = (part.astype(np.float64) for part in make_features(15, 60, 24))
    found = rerank(query, gallery, 8, 3, 0.3)
    assert found.dtype == np.float64
    expected = dense_oracle(query, gallery, 8, 3, 0.3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_duplicates_tie_by_index():
    query, gallery = make_features(12, 40, 6)
    gallery[5:9] = gallery[4]
    gallery[20:35] = query[3]  # more equal items than a list of 7 holds
    expected = dense_oracle(query, gallery, 6, 3, 0.3)
    np.testing.assert_allclose(rerank(query, gallery, 6, 3, 0.3), expected, rtol=0, atol=TOLERANCE)


def test_distances_that_normalising_merges_tie_by_index():
    # Floats just below 2 lie closer together, in proportion, than the quotients just above 1/2:
    # of two that become equal the later is nearer, yet the earlier one must stand first.
    step = np.float32(2.0**-23)
    squared = np.array([0, 1.9 + 2 * step, 1.9 + step, 1.9, 3.7, 0.5], np.float32)
    normalised = squared / squared.max()
    assert len(set(normalised[1:4].tolist())) < 3

    class Line:
        """One row of distances; only what the ranking asks for."""

        num_items, workspace = len(squared), Workspace(4, 4 * len(squared), "rerank")

        @staticmethod
        def rows(items):
            return torch.from_numpy(squared)[None].expand(len(items), -1)

    rows = Line.rows(range(1))
    for k in range(1, len(squared) + 1):
        for spare in range(4):
            candidates = smallest_k(rows, min(k + spare, len(squared)))
            found = rank_lists(Line, candidates, k)
            assert found[0].tolist() == np.argsort(normalised, kind="stable")[:k].tolist()


def test_result_is_bitwise_independent_of_blocks_threads_and_instruction_set():
    query, gallery = make_features(41, 70, 19, integer=True)
    expected = rerank(query, gallery, 9, 4)
    row = 4 * (len(query) + len(gallery) + query.shape[1])
    for rows in (1, 7, 41, 500):
        found = rerank(query, gallery, 9, 4, workspace=rows * row)
        np.testing.assert_array_equal(found, expected)
    for number in (1, 2):
        with limit_threads(number):
            np.testing.assert_array_equal(rerank(query, gallery, 9, 4), expected)
    for name in INSTRUCTION_SETS if HAS_EXTENSION else ():
        with limit_instruction_set(name):
            np.testing.assert_array_equal(rerank(query, gallery, 9, 4), expected)


def test_small_blocks_of_the_matrix_path_change_nothing(monkeypatch):
    query, gallery = make_features(14, 33, 5, integer=True)
    expected = rerank_distances(*matrices(query, gallery), 6, 3)
    monkeypatch.setattr(squared_distances, "_BLOCK_BYTES", 600)
    monkeypatch.setattr(squared_distances, "_BLOCK_ROWS", 1)
    np.testing.assert_array_equal(rerank_distances(*matrices(query, gallery), 6, 3), expected)


def test_asymmetric_matrices_rank_by_columns():
    # The published code divides columns by their maxima and transposes.
    query, gallery = make_features(6, 15, 4)
    cross, within, among = matrices(query, gallery)
    among = among * (1 + 0.1 * np.triu(np.ones_like(among)))
    whole = np.block([[within, cross], [cross.T, among]]).astype(np.float64) ** 2
    normalised = (whole / whole.max(axis=0)).T
    found = rerank_distances(cross, within, among, 5, 2, 1.0)
    np.testing.assert_allclose(found, normalised[:6, 6:], rtol=0, atol=TOLERANCE)
    distances = MatrixDistances("test", *(torch.from_numpy(m) for m in (cross, within, among)))
    rows = distances.rows(torch.arange(21))
    np.testing.assert_allclose(rows, whole.T, rtol=1e-6)
    row, column = (index.flatten() for index in torch.meshgrid(
        torch.arange(21), torch.arange(21), indexing="ij"))  # fmt: skip
    assert torch.equal(distances.pairs(row, column), rows.flatten())


def test_permuting_the_gallery_permutes_columns():
    query, gallery = make_features(9, 30, 12)
    order = np.random.default_rng(1).permutation(30)
    found = rerank(query, gallery[order], 7, 3)
    # Sums run in another order.
    np.testing.assert_allclose(
        found, rerank(query, gallery, 7, 3)[:, order], rtol=0, atol=TOLERANCE
    )


def test_torch_in_torch_out_and_half_precision():
    query, gallery = (torch.from_numpy(part) for part in make_features(8, 21, 10))
    found = rerank(query, gallery, 5, 2)
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, torch.from_numpy(rerank(query.numpy(), gallery.numpy(), 5, 2)))
    half = rerank(query.half(), gallery.half(), 5, 2)
    assert torch.equal(half, rerank(query.half().float(), gallery.half().float(), 5, 2))
    cross, within, among = (torch.from_numpy(m) for m in matrices(query.numpy(), gallery.numpy()))
    assert isinstance(rerank_distances(cross, within, among, 5, 2), torch.Tensor)


def test_coinciding_items_give_nan_and_a_warning():
    same = np.ones((3, 4), np.float32)
    with pytest.warns(RuntimeWarning, match=r"all distances of query 0 are 0 \(6 such rows\)"):
        found = rerank(same, same, 2, 2)
    assert np.isnan(found).all()
    zeros = np.zeros((3, 3), np.float32)
    with pytest.warns(RuntimeWarning, match="rerank_distances: all distances of query 0"):
        assert np.isnan(rerank_distances(zeros, zeros, zeros)).all()


def test_ordinary_input_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rerank(*make_features(5, 9, 3))


def test_memory_grows_with_the_items_not_with_their_square():
    # 9000 x 9000 float32 distances alone would take 309 MB; the chain took 30 MB.
    script = """
import resource, torch
from vireid_fast.retrieval.rerank import rerank
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.set_num_threads(1)
features = torch.rand(9000, 3)
rerank(features[:20], features[20:300])
before = peak()
rerank(features[:100], features[100:])
print((peak() - before) // 1024)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 150


def test_read_only_numpy_input():
    query, gallery = make_features(4, 9, 3)
    query.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rerank(query, gallery, 3, 2)


def test_top_k_lists():
    distances = np.array([[0.5, 0.1, 0.5, np.nan]], np.float32)
    found = top_k_lists(distances, 3)
    assert found.indices.tolist() == [[1, 0, 2]]
    assert top_k_lists(distances, 9).indices.tolist() == [[1, 0, 2, 3]]
    with pytest.raises(TypeError, match="distances must be float16, float32 or float64"):
        top_k_lists(np.zeros((2, 2), np.int64), 1)


@pytest.mark.parametrize("name", ["k1", "k2"])
def test_bad_neighbour_counts(name):
    query, gallery = make_features(3, 5, 4)
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"rerank: {name} must be at least 1, got {value}"):
            rerank(query, gallery, **{name: value})
    with pytest.raises(TypeError, match=rf"{name} must be an integer, got 2\.5"):
        rerank(query, gallery, **{name: 2.5})


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_bad_lambda(value):
    query, gallery = make_features(3, 5, 4)
    with pytest.raises(ValueError, match=r"lambda_value must lie in \[0, 1\], got"):
        rerank(query, gallery, lambda_value=value)
    with pytest.raises(TypeError, match="lambda_value must be a number, got 'a third'"):
        rerank(query, gallery, lambda_value="a third")


def test_bad_features():
    query, gallery = make_features(3, 5, 4)
    with pytest.raises(
        ValueError, match=r"gallery_features must have shape \(G, 4\), got \(5, 3\)"
    ):
        rerank(query, gallery[:, :3])
    with pytest.raises(ValueError, match=r"query_features must have shape \(Q, D\), got \(4,\)"):
        rerank(query[0], gallery)
    with pytest.raises(ValueError, match="query_features must have at least one row"):
        rerank(query[:0], gallery)
    with pytest.raises(ValueError, match="gallery_features must have at least one row"):
        rerank(query, gallery[:0])
    for bad in (np.nan, np.inf):
        broken = gallery.copy()
        broken[3, 1] = bad
        with pytest.raises(
            ValueError, match=rf"gallery_features must be finite, got {bad} at row 3"
        ):
            rerank(query, broken)
    with pytest.raises(TypeError, match="query_features must be float16, float32 or float64"):
        rerank(query.astype(int), gallery)
    with pytest.raises(TypeError, match=r"query_features must be a torch\.Tensor, got list"):
        rerank(query.tolist(), gallery)
    with pytest.raises(RuntimeError, match="query_features must not require a gradient"):
        rerank(torch.from_numpy(query).requires_grad_(), torch.from_numpy(gallery))
    with pytest.raises(ValueError, match="workspace must be at least 1, got 0"):
        rerank(query, gallery, workspace=0)
    needed = 4 * (3 + 5 + 4)
    with pytest.raises(ValueError, match=f"workspace must be at least {needed} bytes, .*got 47"):
        rerank(query, gallery, workspace=needed - 1)


def test_bad_matrices():
    cross, within, among = matrices(*make_features(3, 5, 4))
    with pytest.raises(ValueError, match=r"query_query must have shape \(3, 3\), got \(5, 5\)"):
        rerank_distances(cross, among, within)
    with pytest.raises(ValueError, match=r"gallery_gallery must have shape \(5, 5\)"):
        rerank_distances(cross, within, among[:4])
    with pytest.raises(ValueError, match="query_gallery must hold no negative distance"):
        rerank_distances(-cross, within, among)
    with pytest.raises(ValueError, match="query_gallery must be finite, got nan at row 0"):
        rerank_distances(cross * np.float32(np.nan), within, among)
    with pytest.raises(ValueError, match="query_gallery must have at least one row"):
        rerank_distances(cross[:0], within[:0, :0], among)
