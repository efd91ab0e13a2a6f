"""The peers of the retrieval benchmarks compute what they are compared on."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vireid_fast import knn, rerank
from vireid_fast.retrieval import eval_func, eval_regdb, eval_sysu

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def _module(name):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


inputs = _module("retrieval_inputs")
evaluators = _module("baselines.evaluators")
neighbours = _module("baselines.neighbours")
dense_rerank = _module("baselines.reranking").dense_rerank


@pytest.mark.parametrize("name", ["rerank_basic_k20_6", "rerank_odd_k7_3", "rerank_k1_gt_N"])
def test_dense_peer_is_the_published_algorithm(shared_dir, name):
    case = np.load(shared_dir / "fixtures" / "rerank" / f"{name}.npz")
    found = dense_rerank(case["qf"], case["gf"], *(case[key].item() for key in ("k1", "k2", "lam")))
    np.testing.assert_allclose(found, case["zhong"], atol=1e-5)
    # Its layout, which its time hangs on.
    assert found.flags.f_contiguous and found.dtype == np.float32


@pytest.mark.parametrize("k2", [1, 6])
def test_dense_peer_agrees_with_rerank(k2):
    query, gallery = inputs.clustered(120, 32).split([30, 90])
    found = dense_rerank(query.numpy(), gallery.numpy(), 20, k2, 0.3)
    np.testing.assert_allclose(found, rerank(query, gallery, 20, k2, 0.3), atol=1e-5)


@pytest.mark.parametrize("kind", ["clustered", "isotropic"])
def test_neighbours(kind):
    x = getattr(inputs, kind)(60, 24)
    expected = knn(x[:7], x, 5)
    arrays = x[:7].numpy(), x.numpy()
    for found in (
        neighbours.torch_top_k(x[:7], x, 5),
        neighbours.numpy_top_k(*arrays, 5),
        neighbours.scipy_top_k(*arrays, 5),
    ):
        np.testing.assert_allclose(found[0], expected.distances, atol=1e-5)
        np.testing.assert_array_equal(found[1], expected.indices)


@pytest.mark.parametrize("kind", ["IndexFlatIP", "IndexFlatL2"])
def test_faiss_neighbours(kind):
    pytest.importorskip("faiss")
    x = inputs.clustered(60, 24)
    found = neighbours.faiss_index(x.numpy(), kind).search(x[:7].numpy(), 5)
    np.testing.assert_array_equal(found[1], knn(x[:7], x, 5).indices)


SIZE = (40, 150)


@pytest.fixture(scope="module")
def distances():
    rows = inputs.clustered(sum(SIZE), 16) + 0.2 * inputs.isotropic(sum(SIZE), 16, seed=5)
    return torch.cdist(*rows.split(SIZE))


def _arrays(distances, cameras):
    labels = inputs.make_labels(*SIZE, cameras=cameras)
    return labels, [part.numpy() for part in (distances, *labels)]


def test_market_evaluators(distances):
    labels, arrays = _arrays(distances, ((1, 2, 3), (2, 1, 3)))
    curve, precision = eval_func(*arrays)
    assert 0.05 < precision < 0.95
    for evaluator in (
        evaluators.market_loop, evaluators.vectorised_argsort, evaluators.sort_and_search
    ):  # fmt: skip
        found = evaluator(*arrays)
        np.testing.assert_allclose(found[0], curve, rtol=1e-6)
        np.testing.assert_allclose(found[1], precision, rtol=1e-9)
    found = evaluators.torch_argsort(distances, *labels)
    np.testing.assert_allclose(found[0], curve, rtol=1e-6)
    np.testing.assert_allclose(float(found[1]), precision, rtol=1e-5)


def test_sysu_and_regdb_evaluators(distances):
    _, arrays = _arrays(distances, ((3, 6), (1, 2, 4, 5)))
    for found, expected in (
        (evaluators.sysu_loop(*arrays), eval_sysu(*arrays)),
        (evaluators.regdb_loop(*arrays[:3]), eval_regdb(*arrays[:3])),
    ):
        for value, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-6)


def test_torchmetrics_sees_the_pairs_that_count(distances):
    pytest.importorskip("torchmetrics")
    labels, arrays = _arrays(distances, ((3, 6), (1, 2, 4, 5)))
    same = labels.query_ids[:, None] == labels.gallery_ids
    keep = (labels.query_cameras[:, None] != 3) | (labels.gallery_cameras != 2)
    found = evaluators.TorchMetricsMAP(distances, same, keep)()
    np.testing.assert_allclose(float(found), eval_sysu(*arrays)[1], rtol=1e-5)


def test_inputs_are_unit_rows_around_their_identity():
    rows = inputs.clustered(200, 64)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(200))
    labels = inputs.make_labels(50, 150, cameras=((1,), (2,)))
    ids = torch.cat([labels.query_ids, labels.gallery_ids])
    cosines, same = rows @ rows.T, ids[:, None] == ids
    same.fill_diagonal_(False)
    assert cosines[same].mean() > 0.5 and cosines[~same].mean() < 0.2
    assert len(ids.unique()) == 8


def test_the_product_in_strips_is_the_whole(monkeypatch):
    x = torch.randn(9, 4)
    rows = []
    monkeypatch.setattr(inputs, "_STRIP", 4)
    monkeypatch.setattr(inputs, "_TOO_MANY", 5)
    monkeypatch.setattr(torch, "mm", lambda a, b: rows.append(len(a)))
    inputs.all_pairs_product(x)
    assert rows == [4, 4, 1]
    monkeypatch.undo()
    torch.testing.assert_close(inputs.all_pairs_product_into(x)(), x @ x.T)
