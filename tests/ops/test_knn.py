"""k nearest neighbours: lists, ties, row maxima; the same bits on every way to a distance."""

import math

import pytest
import torch
from torch import Tensor

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops import knn, pair_distance, pairwise_distance, smallest_k
from vireid_fast.ops.knn import reference
from vireid_fast.ops.knn.op import knn_op, pair_distance_op, smallest_k_op
from vireid_fast.testing import assert_error_budget, limit_threads, make_features

# (queries, items, width, k): single, primes, more than one tile each way, k >= N, no query.
SHAPES = [(1, 1, 1, 1), (7, 13, 5, 4), (37, 601, 19, 10), (33, 257, 64, 300), (0, 5, 3, 2)]
DTYPES = [torch.float32, torch.float64]


def make_integer_features(rows: int, width: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Small integers: every sum is exact, so that both backends see the same many ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (rows, width), generator=generator).to(dtype)


def naive_smallest_k(row: list[float], k: int) -> tuple[list[float], list[int], float]:
    order = sorted(range(len(row)), key=lambda i: (math.isnan(row[i]), row[i], i))[:k]
    return [row[i] for i in order], order, max(row)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_knn_equals_python_loop(backend, device):
    query = make_integer_features(4, 2, torch.float64, seed=1)
    items = make_integer_features(9, 2, torch.float64, seed=2)
    found = knn(query.to(device), items.to(device), 5, backend=backend)
    for q, row in enumerate(query.tolist()):
        distances = [
            sum((a - b) ** 2 for a, b in zip(row, item, strict=True)) for item in items.tolist()
        ]
        nearest, order, farthest = naive_smallest_k(distances, 5)
        assert found.distances[q].tolist() == nearest
        assert found.indices[q].tolist() == order
        assert found.farthest[q].item() == farthest


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_knn_distances_within_error_budget(shape, dtype, device):
    num_query, num_items, width, k = shape
    query = make_features(num_query, width, dtype=dtype, device=device, seed=1)
    items = make_features(num_items, width, dtype=dtype, device=device, seed=2)
    exact = reference.knn(query.double(), items.double(), k)
    plain = reference.knn(query, items, k)
    found = knn(query, items, k)
    assert_error_budget(found.distances, plain[0], exact[0])
    assert_error_budget(found.farthest, plain[2], exact[2])
    assert found.indices.shape == (num_query, min(k, num_items))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_knn_ties_go_to_the_lower_index(shape, dtype, device):
    num_query, num_items, width, k = shape
    query = make_integer_features(num_query, width, dtype, seed=3).to(device)
    items = make_integer_features(num_items, width, dtype, seed=4).to(device)
    for found, expected in zip(knn(query, items, k), reference.knn(query, items, k), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_way_to_a_distance_gives_the_same_bits(dtype):
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built: the reference promises no equal bits")
    x = make_features(67, 83, dtype=dtype, distinct=60)
    matrix = pairwise_distance(x, x, metric="squared_euclidean")
    found = knn(x, x, 67)
    assert torch.equal(found.distances, matrix.gather(1, found.indices))
    for part, expected in zip(found, smallest_k(matrix, 67), strict=True):
        assert torch.equal(part, expected)
    row, column = (index.flatten() for index in torch.meshgrid(
        torch.arange(67), torch.arange(67), indexing="ij"))  # fmt: skip
    assert torch.equal(pair_distance(x, row, column), matrix.flatten())
    assert torch.equal(matrix.diagonal(), torch.zeros(67, dtype=dtype))
    assert found.indices[60:, 0].tolist() == list(range(7))  # the first of two equal rows


def test_result_is_independent_of_threads_blocks_and_instruction_set():
    x = make_features(101, 37, distinct=90)
    expected = knn(x, x, 9)
    for number in (1, 2):
        with limit_threads(number):
            for part, want in zip(knn(x, x, 9), expected, strict=True):
                assert torch.equal(part, want)
    for rows in (1, 32, 50):
        pieces = [knn(piece, x, 9) for piece in x.split(rows)]
        for parts, want in zip(zip(*pieces, strict=True), expected, strict=True):
            assert torch.equal(torch.cat(parts), want)
    for name in INSTRUCTION_SETS if HAS_EXTENSION else ():
        with limit_instruction_set(name):
            for part, want in zip(knn(x, x, 9), expected, strict=True):
                assert torch.equal(part, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 5, 40, 400])
def test_smallest_k_equals_stable_sort(dtype, k, device):
    generator = torch.Generator().manual_seed(5)
    distances = torch.randint(0, 12, (23, 307), generator=generator).to(device, dtype)
    distances[3, ::7] = torch.inf
    distances[4] = 1
    distances[5] = torch.arange(307, 0, -1)
    for found, expected in zip(
        smallest_k(distances, k), reference.smallest_k(distances, k), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_smallest_k_puts_nan_last(backend, device):
    row = [math.nan, 2.0, math.inf, math.nan, 1.0] + [3.0] * 40
    distances = torch.tensor([row, [math.nan] * 45], device=device)
    found = smallest_k(distances, 45, backend=backend)
    assert found.indices[0].tolist() == naive_smallest_k(row, 45)[1]
    assert found.indices[1].tolist() == list(range(45))
    assert found.farthest.isnan().all()
    assert smallest_k(distances, 2, backend=backend).indices.tolist() == [[4, 1], [0, 1]]


def test_strided_and_half_precision_inputs(device):
    wide = make_features(30, 46, device=device, seed=6)
    strided = wide[::2, 1::2]
    for found, expected in zip(
        knn(strided, strided, 4), knn(strided.contiguous(), strided.contiguous(), 4), strict=True
    ):
        assert torch.equal(found, expected)
    for dtype in (torch.float16, torch.bfloat16):
        half = wide.to(dtype)
        found = knn(half, half, 4)
        assert found.distances.dtype == torch.float32
        assert torch.equal(found.indices, knn(half.float(), half.float(), 4).indices)


def test_pair_distance_of_no_pair_is_empty(device):
    none = torch.empty(0, dtype=torch.int64, device=device)
    for backend in ("fused", "reference"):
        x = make_features(3, 2, device=device)
        assert pair_distance(x, none, none, backend=backend).shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
def test_registration(dtype, device):
    x = make_features(11, 6, dtype=dtype, device=device)
    pairs = torch.arange(11, device=device)
    for features in (x, x.T.contiguous().T, x[:0]):
        torch.library.opcheck(knn_op, (features, x, 3))
        torch.library.opcheck(smallest_k_op, (features, 3))
    torch.library.opcheck(pair_distance_op, (x, pairs, pairs.flip(0)))
    torch.library.opcheck(pair_distance_op, (x, pairs[:0], pairs[:0]))


def test_raw_op_compiles_with_dynamic_shapes():
    compiled = torch.compile(
        lambda x, y: knn_op(x, y, 3), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for rows in (5, 9):
        x = make_features(rows, 4, seed=rows)
        for found, expected in zip(compiled(x, x), knn(x, x, 3), strict=True):
            assert torch.equal(found, expected)


def test_error_messages():
    x = make_features(4, 3)
    index = torch.arange(4)
    with pytest.raises(ValueError, match="knn: k must be at least 1, got 0"):
        knn(x, x, 0)
    with pytest.raises(TypeError, match=r"k must be an integer, got 2\.5"):
        knn(x, x, 2.5)
    with pytest.raises(ValueError, match=r"database must have shape \(N, 3\), got \(4, 2\)"):
        knn(x, x[:, :2], 1)
    with pytest.raises(ValueError, match="database must have at least one row"):
        knn(x, x[:0], 1)
    with pytest.raises(TypeError, match=r"database must be float32, got torch\.float64"):
        knn(x, x.double(), 1)
    with pytest.raises(TypeError, match="query must be float32 or float64"):
        knn(x.long(), x, 1)
    with pytest.raises(ValueError, match="query must be finite, got nan at row 2"):
        knn(x.index_fill(0, torch.tensor([2]), torch.nan), x, 1)
    with pytest.raises(RuntimeError, match="query must not require a gradient"):
        knn(x.clone().requires_grad_(), x, 1)
    with pytest.raises(ValueError, match="backend must be one of"):
        knn(x, x, 1, backend="fast")
    with pytest.raises(ValueError, match="distances must have at least one column"):
        smallest_k(x[:, :0], 1)
    with pytest.raises(ValueError, match=r"row must lie in \[0, 4\), got 1 to 4"):
        pair_distance(x, index + 1, index)
    with pytest.raises(TypeError, match="column must be int64"):
        pair_distance(x, index, index.int())
    with pytest.raises(ValueError, match=r"column must have shape \(4,\), got \(3,\)"):
        pair_distance(x, index, index[:3])


def test_kernel_rejects_what_would_leave_memory():
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    x = make_features(4, 3)
    with pytest.raises(RuntimeError, match=r"pair_distance: row must lie in \[0, 4\), got -1"):
        pair_distance_op(x, torch.tensor([-1]), torch.tensor([0]))
