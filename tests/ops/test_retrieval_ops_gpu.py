"""CUDA kernels of the retrieval ops on a GPU: the bits of the CPU kernels, streams, devices."""

import pytest
import torch
from torch import Tensor

from vireid_fast.ops import (
    centred_distance,
    entry_distance,
    expand_query,
    feature_rank_statistics,
    jaccard_distance,
    k_reciprocal_sets,
    knn,
    merge_lists,
    pair_distance,
    pairwise_distance,
    rank_statistics,
    reciprocal_weights,
    smallest_k,
)
from vireid_fast.ops._registration import KERNELS
from vireid_fast.ops.k_reciprocal.op import expand_query_op, k_reciprocal_sets_op
from vireid_fast.ops.knn.op import pair_distance_op
from vireid_fast.retrieval.rerank import rerank
from vireid_fast.testing import make_features

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.float64]


def make_clusters(items: int, width: int, size: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(items // size + 1, width, generator=generator)
    noise = torch.randn(items, width, generator=generator)
    return centres[torch.arange(items) // size] + 0.3 * noise


# Large enough for the coarse pass (csrc/cuda/knn.cuh: 5e8 multiplications, 4096 items).
ITEMS, QUERIES, WIDTH = 9000, 1000, 96
FEATURES = {
    "clusters": make_clusters,
    "isotropic": lambda n, d: torch.randn(n, d),
    "on the sphere": lambda n, d: torch.nn.functional.normalize(make_clusters(n, d)),
    "far from the origin": lambda n, d: make_clusters(n, d) + 1000,
    "duplicates": lambda n, d: make_features(n, d, distinct=n // 3),
    "ties": lambda n, d: torch.randint(-1, 2, (n, d)).float(),
    "equal": torch.ones,
    "sorted by norm": lambda n, d: torch.randn(n, d) * torch.linspace(50, 0.1, n)[:, None],
    "large": lambda n, d: make_clusters(n, d) * 1e15,
    "products overflow": lambda n, d: make_clusters(n, d) * 1e18,
    "subnormal": lambda n, d: make_clusters(n, d) * 1e-40,
}


def assert_same_bits(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for part, want in zip(found, expected, strict=True):
        assert part.is_cuda
        torch.testing.assert_close(part.cpu(), want, rtol=0, atol=0, equal_nan=True)


def test_kernels_are_in_use():
    for op in ("knn", "k_reciprocal_sets", "blend_jaccard", "rank_statistics"):
        assert KERNELS[op]["cuda"] == "CUDA C++"


@pytest.mark.parametrize("k", [1, 24, 256, 300])
@pytest.mark.parametrize("name", FEATURES)
def test_knn_has_the_bits_of_the_cpu(name, k):
    torch.manual_seed(1)
    items = FEATURES[name](ITEMS, WIDTH)
    query = items[:QUERIES]
    assert_same_bits(knn(query.cuda(), items.cuda(), k), knn(query, items, k))


@pytest.mark.parametrize("width", [61, 64, 512])
def test_knn_of_a_set_in_itself(width):
    items = make_clusters(7001, width)
    on_gpu = items.cuda()
    expected = knn(items, items, 24)
    for _ in range(3):
        assert_same_bits(knn(on_gpu, on_gpu, 24), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_way_to_a_distance_gives_the_same_bits(dtype):
    x = make_features(301, 83, dtype=dtype, distinct=290)
    matrix = pairwise_distance(x, x, metric="squared_euclidean")
    on_gpu = x.cuda()
    found = pairwise_distance(on_gpu, on_gpu, metric="squared_euclidean")
    assert_same_bits((found,), (matrix,))
    assert_same_bits(smallest_k(found, 301), smallest_k(matrix, 301))
    assert_same_bits(knn(on_gpu, on_gpu, 301), knn(x, x, 301))
    row, column = torch.randint(0, 301, (2, 5000))
    assert_same_bits((pair_distance(on_gpu, row.cuda(), column.cuda()),), (matrix[row, column],))
    for centre in (None, x[7]):
        there = None if centre is None else centre.cuda()
        found = centred_distance(on_gpu[:40], on_gpu, there)
        assert_same_bits((found,), (centred_distance(x[:40], x, centre),))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 100, 5000])
def test_smallest_k_with_ties_infinities_and_nan(dtype, k):
    distances = torch.randint(-3, 60, (37, 5001)).to(dtype)
    distances[3, ::7] = torch.inf
    distances[4, ::5] = torch.nan
    distances[5] = 1
    assert_same_bits(smallest_k(distances.cuda(), k), smallest_k(distances, k))


def make_chain(dtype: torch.dtype, num_items: int = 3000) -> dict[str, Tensor]:
    """Everything that re-ranking makes on its way, on the CPU."""
    x = make_clusters(num_items, 64).to(dtype)
    lists = knn(x, x, 24)
    crow, col = k_reciprocal_sets(lists.indices, 20)
    weight = reciprocal_weights(crow, torch.rand(col.shape, dtype=dtype))
    return {"x": x, "indices": lists.indices, "distances": lists.distances,
            "farthest": lists.farthest, "crow": crow, "col": col, "weight": weight}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sparse_chain_has_the_bits_of_the_cpu(dtype):
    here = make_chain(dtype)
    there = {name: value.cuda() for name, value in here.items()}
    structure = ("crow", "col")
    rows = ("crow", "col", "weight")
    for k1 in (1, 7, 20, 48):
        found = k_reciprocal_sets(there["indices"], k1)
        assert_same_bits(found, k_reciprocal_sets(here["indices"], k1))

    def measure(part: dict[str, Tensor]) -> Tensor:
        x = part["x"]
        entries = *(part[name] for name in structure), part["distances"], part["indices"]
        return entry_distance(x[:700], x[700:], *entries)

    assert_same_bits((measure(there),), (measure(here),))
    # Another exponential function than the CPU's.
    shares = reciprocal_weights(there["crow"], measure(there))
    torch.testing.assert_close(shares.cpu(), reciprocal_weights(here["crow"], measure(here)))
    for k2 in (2, 6, 24):
        found = expand_query(*(there[name] for name in (*rows, "indices")), k2)
        expected = expand_query(*(here[name] for name in (*rows, "indices")), k2)
        assert_same_bits(found, expected)
    for _ in range(3):  # the order of additions is fixed
        found = jaccard_distance(*(there[name] for name in rows), 700)
        assert_same_bits((found,), (jaccard_distance(*(here[name] for name in rows), 700),))


def test_merged_lists_are_those_of_one_search():
    x = make_clusters(2000, 64).cuda()
    y = x[:301]
    known = knn(x, x[301:], 24)
    coarse = pairwise_distance(x, y, metric="squared_euclidean")
    slack = torch.zeros(2000, device="cuda")
    merged = merge_lists(
        x, y, coarse, slack, known.distances, known.indices + 301, known.farthest, 0, 24
    )
    for part, want in zip(merged, knn(x, x, 24), strict=True):
        assert torch.equal(part, want)


@pytest.mark.parametrize("drop", ["none", "same_group", "same_group_and_id"])
@pytest.mark.parametrize("num_ids", [1, 70, 3000])
def test_rank_statistics(num_ids, drop):
    query, gallery = make_clusters(90, 32), make_clusters(3000, 32)
    distances = pairwise_distance(query, gallery).mul(8).round()  # ties
    ids = torch.randint(0, num_ids, (90,)), torch.randint(0, num_ids, (3000,))
    groups = torch.randint(0, 4, (90,)), torch.randint(0, 4, (3000,))
    labels = *ids, *groups
    found = rank_statistics(distances.cuda(), *(part.cuda() for part in labels), drop=drop)
    assert_same_bits(found, rank_statistics(distances, *labels, drop=drop))
    there = [part.cuda() for part in (query, gallery, *labels)]
    for metric in ("euclidean", "dot"):
        found = feature_rank_statistics(*there, metric=metric, drop=drop)
        expected = feature_rank_statistics(query, gallery, *labels, metric=metric, drop=drop)
        assert_same_bits(found, expected)


def test_nan_distance_names_the_row():
    distances = torch.rand(5, 40, device="cuda")
    distances[3, 7] = torch.nan
    ids = torch.zeros(5, dtype=torch.int64, device="cuda"), torch.zeros(40).long().cuda()
    with pytest.raises(ValueError, match="row 3"):
        rank_statistics(distances, *ids)


def test_work_follows_the_current_stream():
    items = make_clusters(ITEMS, WIDTH)
    expected = knn(items[:QUERIES], items, 24)
    source = items.cuda()
    target = torch.zeros_like(source)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # what runs on another stream would see zeros
        target.copy_(source)
        found = knn(target[:QUERIES], target, 24)
        sets = k_reciprocal_sets(knn(target, target, 24).indices, 20)
    stream.synchronize()
    assert_same_bits(found, expected)
    assert_same_bits(sets, k_reciprocal_sets(knn(items, items, 24).indices, 20))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_work_follows_the_device_of_the_tensors():
    items = make_clusters(5000, WIDTH)
    second = items.to("cuda:1")
    assert torch.cuda.current_device() == 0
    found = rerank(second[:500], second[500:])
    assert found.device == second.device and torch.cuda.current_device() == 0
    assert torch.equal(found.cpu(), rerank(items[:500].cuda(), items[500:].cuda()).cpu())


def test_reranking_equals_the_cpu():
    features = torch.nn.functional.normalize(make_clusters(4000, 128))
    expected = rerank(features[:600], features[600:])
    found = rerank(features[:600].cuda(), features[600:].cuda())
    torch.testing.assert_close(found.cpu(), expected, atol=1e-6, rtol=0)
    assert torch.equal(found, rerank(features[:600].cuda(), features[600:].cuda()))


def test_raw_ops_report_what_would_leave_memory():
    x = torch.randn(6, 4, device="cuda")
    row = torch.tensor([0, 6], device="cuda")
    with pytest.raises(RuntimeError, match="row and column must lie in"):
        pair_distance_op(x, row, row)
    lists = torch.zeros(6, 3, dtype=torch.int64, device="cuda")
    lists[2, 1] = -1
    with pytest.raises(RuntimeError, match="indices must lie in"):
        k_reciprocal_sets_op(lists, 2)
    crow = torch.tensor([0, 2, 1, 2, 2, 2, 2], device="cuda")
    weight = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError, match="crow must rise"):
        expand_query_op(crow, row.clamp_max(5), weight, lists.clamp_min(0), 2)


def test_workspace_is_bounded():
    x = make_clusters(60_000, 64).cuda()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    knn(x, x, 24)
    # The matrix of distances would take 14.4 GB.
    assert torch.cuda.max_memory_allocated() - before < 900 << 20


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.mem_get_info()[0] < 12 << 30,
    reason="needs 12 GB of GPU memory",
)
def test_offsets_beyond_32_bits():
    x = make_features(46_500, 3).cuda()
    matrix = pairwise_distance(x, x, metric="squared_euclidean")  # 2.16e9 distances
    last = pairwise_distance(x[-5:], x, metric="squared_euclidean")
    assert torch.equal(matrix[-5:], last)
    found, expected = smallest_k(matrix, 5), knn(x, x, 5)
    assert torch.equal(found.indices[-5:], expected.indices[-5:])
