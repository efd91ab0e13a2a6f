"""The CUDA kernels, thread by thread on the CPU, against the CPU kernels: the same bits."""

import emulated_cuda as emulated
import pytest
import torch
from torch import Tensor

from vireid_fast.ops import pairwise_distance, smallest_k
from vireid_fast.ops.centred_distance.op import centred_distance_op
from vireid_fast.ops.count_nearer.op import count_nearer_op
from vireid_fast.ops.jaccard_distance.op import (
    blend_jaccard_op,
    invert_rows_op,
    jaccard_distance_op,
)
from vireid_fast.ops.k_reciprocal.op import (
    entry_distance_op,
    expand_query_op,
    k_reciprocal_sets_op,
    rank_normalised_op,
    reciprocal_weights_op,
)
from vireid_fast.ops.knn.op import knn_op, pair_distance_op
from vireid_fast.ops.rank_statistics.gallery_index import GalleryIndex
from vireid_fast.ops.rank_statistics.op import rank_statistics_op
from vireid_fast.testing import make_features

DTYPES = [torch.float32, torch.float64]
SHAPES = [(1, 1, 1, 1), (7, 13, 5, 4), (37, 101, 19, 10), (33, 67, 64, 300), (0, 5, 3, 2)]
METRICS = ("euclidean", "squared_euclidean", "dot")


@pytest.fixture(params=[0, -1], ids=["shuffled", "backwards"])
def direction(request):
    """Orders of the threads within a block in which a missing barrier would show."""
    emulated.library().set_direction(request.param)
    yield request.param
    emulated.library().set_direction(1)


def assert_same_bits(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for part, want in zip(found, expected, strict=True):
        torch.testing.assert_close(part, want, rtol=0, atol=0, equal_nan=True)


def make_clusters(items: int, width: int, size: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(items // size + 1, width, generator=generator)
    noise = torch.randn(items, width, generator=generator)
    return centres[torch.arange(items) // size] + 0.3 * noise


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_distances_and_plain_search(shape, dtype, direction):
    num_query, num_items, width, k = shape
    query = make_features(num_query, width, dtype=dtype, seed=1)
    items = make_features(num_items, width, dtype=dtype, seed=2, distinct=max(1, num_items - 2))
    for code, metric in enumerate(METRICS):
        found = emulated.pairwise_distance(query, items, code)
        assert torch.equal(found, pairwise_distance(query, items, metric=metric))
    lists, _ = emulated.knn(query, items, k, coarse=False, most_bytes=4096)
    assert_same_bits(lists, knn_op(query, items, min(k, num_items)))
    row, column = torch.arange(5) % num_items, torch.arange(5, 0, -1) % num_items
    found, outside = emulated.pair_distance(items, row, column)
    assert not outside and torch.equal(found, pair_distance_op(items, row, column))
    column[3] = num_items
    assert emulated.pair_distance(items, row, column)[1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 40, 700])
def test_smallest_k(dtype, k, direction):
    distances = torch.randint(-3, 12, (5, 701)).to(dtype)
    distances[0, ::7] = torch.inf
    distances[1] = 1
    distances[2] = torch.arange(701, 0, -1)
    distances[3, ::3] = torch.nan
    distances[4, ::2] *= -0.0
    assert_same_bits(emulated.smallest_k(distances, k), tuple(smallest_k(distances, k)))


# Widths of one, two, three and, which uses a stage again, five stages of the pipeline.
COARSE_SHAPES = [(7, 13, 5, 4), (130, 1500, 70, 21), (3, 1100, 130, 256), (9, 150, 300, 5)]


@pytest.mark.parametrize("shape", COARSE_SHAPES, ids=str)
def test_coarse_search(shape, direction):
    num_query, num_items, width, k = shape
    query = make_features(num_query, width, seed=1)
    items = make_features(num_items, width, seed=2, distinct=max(1, num_items - 5))
    lists, lost = emulated.knn(query, items, k, coarse=True)
    assert_same_bits(lists, knn_op(query, items, min(k, num_items)))
    assert lost == 0


def test_coarse_search_of_a_set_in_itself_by_rounds():
    # Memory for the candidates of 128 rows only; four passes over the columns would be 5000 items.
    items = make_clusters(1200, 48)
    lists, lost = emulated.knn(items, items, 21, coarse=True, most_bytes=1)
    assert_same_bits(lists, knn_op(items, items, 21))
    assert lost == 0


ADVERSARIAL = {
    "far from the origin": lambda x: x + 1000,
    "large": lambda x: x * 1e15,
    "products overflow": lambda x: x * 1e19,
    "small": lambda x: x * 1e-15,
    "subnormal": lambda x: x * 1e-40,
    "equal": torch.ones_like,
    "ties": lambda x: x.round(),
    "two scales": lambda x: torch.where(torch.arange(len(x))[:, None] % 9 > 0, x * 1e-4, x * 30),
    "one huge row": lambda x: x.index_fill(0, torch.tensor([1500]), 1e20),
    "not finite": lambda x: x.index_fill(0, torch.tensor([7]), torch.nan).index_fill(
        0, torch.tensor([70]), torch.inf
    ),
    "one column dominates": lambda x: x * torch.where(torch.arange(x.shape[1]) == 3, 1e4, 1.0),
    "bfloat16 rounds the same way": lambda x: 1 + 2.0**-9 + x.sign() * 2.0**-10,
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_coarse_search_of_adversarial_features(name):
    items = ADVERSARIAL[name](make_clusters(1600, 24))
    query = items[:20].contiguous()
    lists, lost = emulated.knn(query, items, 21, coarse=True)
    assert_same_bits(lists, knn_op(query, items, 21))
    # What the bound cannot prune is searched in full, and nothing else is.
    expected = {"products overflow": 20, "subnormal": 20, "equal": 20, "not finite": 1}
    if name in expected:
        assert lost == expected[name]


# Tiles are 64 x 128 in float32 and 32 x 64 in float64, pieces of the width 128.
@pytest.mark.parametrize("shape", [(1, 1, 1), (67, 131, 37), (5, 3, 300), (0, 4, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_centred_distance(shape, dtype, direction):
    n, m, width = shape
    x = make_features(n, width, dtype=dtype, seed=1)
    y = make_features(m, width, dtype=dtype, seed=2)
    y[: min(n, m)] = x[: min(n, m)]
    for centre in (None, y[0].clone()):
        expected = x.new_empty(n, m)
        centred_distance_op(x, y, centre, expected)
        assert torch.equal(emulated.centred_distance(x, y, centre), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(9, 3, 4, 6), (1, 0, 1, 1), (5, 600, 40, 30)], ids=str)
def test_merge_lists(sizes, dtype, direction):
    rows, listed, added, k = sizes
    items = make_features(listed + added, 5, dtype=dtype, distinct=max(1, (listed + added) // 2))
    x = make_features(rows, 5, dtype=dtype, seed=3)
    # The added items come first by number, so that ties go to them.
    y = items[:added].contiguous()
    expected = knn_op(x, items, k)
    if listed == 0:
        none = x.new_empty(rows, 0), torch.empty(rows, 0, dtype=torch.int64)
        lists = (*none, x.new_full((rows,), -torch.inf))
    else:
        lists = knn_op(x, items[added:].contiguous(), listed)
        lists = (lists[0], lists[1] + added, lists[2])
    found = emulated.merge_lists(lists, knn_op(x, y, min(k, added)), 0, k)
    assert_same_bits(found, expected)


@pytest.mark.parametrize("name", sorted(ADVERSARIAL.keys() - {"products overflow", "not finite"}))
def test_coarse_distances_lie_within_their_margin(name):
    y = ADVERSARIAL[name](make_clusters(1600, 70))[1400:1530].contiguous()
    x = y[:30].contiguous()
    halves, margins = emulated.coarse_halves(x, y)
    exact = (x.double()[:, None] - y.double()).square().sum(-1) / 2
    # NaN, where products could overflow, makes every test keep the pair.
    assert not bool(((halves - exact).abs() > margins).any())
    assert float(margins.isnan().double().mean()) < 0.1


def test_margin_is_small_for_ordinary_features():
    # Far from the origin too: the features are centred before they are rounded.
    y = torch.nn.functional.normalize(make_clusters(300, 128)) + 100
    halves, margins = emulated.coarse_halves(y[:20].contiguous(), y)
    exact = (y[:20].double()[:, None] - y.double()).square().sum(-1) / 2
    assert float(margins.max()) < 0.01
    assert float((halves - exact).abs().max()) > 0.01 * float(margins.max())


@pytest.mark.parametrize("width", [1, 63, 512, 2048])
def test_margin_covers_rounding_at_its_worst(width):
    # Every element is rounded by nearly half a unit of bfloat16, and all in one direction.
    y = (1 + 2.0**-8 - 2.0**-20) * torch.ones(40, width)
    y[::2] *= -1
    y[1::3] *= 2
    halves, margins = emulated.coarse_halves(y[:8].contiguous(), y)
    exact = (y[:8].double()[:, None] - y.double()).square().sum(-1) / 2
    error = (halves - exact).abs()
    assert bool((error <= margins).all())
    assert float((error / margins).max()) > 0.3


def make_lists(num_items: int, width: int, seed: int = 0) -> Tensor:
    """Distinct neighbours, each item first in its own list and near in number to the others."""
    generator = torch.Generator().manual_seed(seed)
    offset = (torch.arange(num_items)[:, None] - torch.arange(num_items)).abs().float()
    noise = torch.rand(num_items, num_items, generator=generator) * width
    return (offset + noise).fill_diagonal_(-1).argsort(1)[:, :width].contiguous()


@pytest.mark.parametrize("sizes", [(1, 1, 3), (9, 5, 2), (150, 21, 20), (60, 60, 100)], ids=str)
def test_sets_and_expansion(sizes, direction):
    num_items, width, k1 = sizes
    lists = make_lists(num_items, width)
    k1 = min(k1, 2 * width)
    crow, col, broken = emulated.k_reciprocal_sets(lists, k1)
    assert not broken
    assert_same_bits((crow, col), k_reciprocal_sets_op(lists, k1))
    for dtype in DTYPES:
        distances = torch.rand(col.shape, dtype=dtype)
        weight = emulated.reciprocal_weights(crow, distances)
        # Another exponential function than the CPU's.
        torch.testing.assert_close(weight, reciprocal_weights_op(crow, distances))
        for k2 in (min(6, width), width):
            found = emulated.expand_query(crow, col, weight, lists, k2)
            assert_same_bits(found, expand_query_op(crow, col, weight, lists, k2))


def test_lists_out_of_range_are_reported():
    lists = make_lists(9, 5)
    lists[3, 2] = 9
    assert emulated.k_reciprocal_sets(lists, 4)[2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 24, 600])
def test_rank_normalised(width, dtype, direction):
    distances = (torch.rand(5, width, dtype=dtype).sort(1).values * 40).round() / 40
    distances[1] = 0
    indices = torch.stack([torch.randperm(700)[:width] for _ in range(5)])
    farthest = torch.tensor([1, 0, 0.5, 3, 1e-3], dtype=dtype)
    k = max(1, width - 3)
    found = emulated.rank_normalised(distances, indices, farthest, k)
    assert_same_bits(found, rank_normalised_op(distances, indices, farthest, k))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entry_distance(dtype, direction):
    x = make_features(50, 37, dtype=dtype, distinct=48)
    crow = torch.cat([torch.zeros(1).long(), torch.randint(0, 9, (50,)).cumsum(0)])
    col = torch.randint(0, 50, (int(crow[-1]),))
    query, gallery = x[:20].contiguous(), x[20:].contiguous()
    lists = knn_op(x, x, 5)
    found = emulated.entry_distance(query, gallery, crow, col)
    assert torch.equal(found, entry_distance_op(query, gallery, crow, col, *lists[:2]))


def make_sparse(num_rows: int, most: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of ascending columns whose weights sum to 1; some are empty."""
    columns = [
        torch.randperm(num_rows)[: int(torch.randint(0, most + 1, ()))].sort().values
        for _ in range(num_rows)
    ]
    crow = torch.tensor([0, *(len(c) for c in columns)]).cumsum(0)
    col = torch.cat(columns)
    weight = torch.rand(col.shape, dtype=dtype) + 0.1
    return crow, col, reciprocal_weights_op(crow, weight)


# The last has two segments in float64.
@pytest.mark.parametrize("sizes", [(1, 0, 1), (1, 1, 1), (7, 23, 9), (5, 5200, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_jaccard(sizes, dtype, direction):
    num_query, num_gallery, most = sizes
    crow, col, weight = make_sparse(num_query + num_gallery, most, dtype)
    index, found = emulated.jaccard(crow, col, weight, num_query)
    assert torch.equal(found, jaccard_distance_op(crow, col, weight, num_query))
    assert_same_bits(index, invert_rows_op(crow, col, weight, num_query))

    distances = torch.rand(num_query, num_gallery, dtype=dtype)
    farthest = torch.rand(num_query, dtype=dtype) + 1
    _, blended = emulated.jaccard(crow, col, weight, num_query, (distances, farthest, 0.3))
    blend_jaccard_op(crow, col, weight, *index, farthest, 0, 0.3, distances)
    assert torch.equal(blended, distances)


def test_jaccard_of_a_long_row_and_of_nan():
    num_rows = 300
    crow, col, weight = make_sparse(num_rows, 20, torch.float32)
    # Query 0 shares every column, more than a block has threads.
    col = torch.cat([torch.arange(num_rows), col[crow[1] :]])
    weight = torch.cat([torch.full((num_rows,), 1 / num_rows), weight[crow[1] :]])
    crow = torch.cat([crow[:1], crow[1:] - crow[1] + num_rows])
    weight[-1] = torch.nan
    _, found = emulated.jaccard(crow, col, weight, 4)
    assert_same_bits((found,), (jaccard_distance_op(crow, col, weight, 4),))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("drop", [0, 1, 2])
@pytest.mark.parametrize("sizes", [(9, 260, 20), (3, 700, 1), (4, 1, 3), (0, 5, 2)], ids=str)
def test_rank_statistics(sizes, drop, dtype, direction):
    num_query, num_gallery, num_ids = sizes
    distances = torch.randint(0, 40, (num_query, num_gallery + 3)).to(dtype)
    columns = torch.randperm(num_gallery + 3)[:num_gallery]
    gallery_ids = torch.randint(0, num_ids, (num_gallery,)) * 5
    index = GalleryIndex.build(gallery_ids, torch.randint(0, 3, (num_gallery,)))
    if num_query > 2:
        distances[1, columns[0]] = torch.nan
        distances[2] = -0.0
    query_ids = torch.randint(0, num_ids + 1, (num_query,)) * 5  # some without a correct item
    lists = [
        part for label in (index.identities, index.groups)
        for part in (label.of, label.start, label.items)
    ]  # fmt: skip
    labels = (
        index.identities.find(query_ids),
        index.groups.find(torch.randint(0, 4, (num_query,))),
        *lists,
    )
    for chosen in (columns, None):
        matrix = distances if chosen is not None else distances[:, :num_gallery].contiguous()
        found, broken = emulated.rank_statistics(matrix, labels, chosen, drop)
        assert not broken
        assert_same_bits(found, rank_statistics_op(matrix, *labels, chosen, drop))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [0, 1, 300])
def test_count_nearer(width, dtype, direction):
    distances = torch.randint(0, 9, (6, width)).to(dtype)
    distances[2] = torch.nan
    crow = torch.tensor([0, 2, 2, 3, 7, 8, 11])
    bound = torch.randint(0, 9, (11,)).to(dtype)
    index = torch.randint(0, width + 40, (11,))
    found = emulated.count_nearer(distances, crow, bound, index, 20)
    assert torch.equal(found, count_nearer_op(distances, crow, bound, index, 20))


def test_broken_offsets_and_labels_are_reported():
    def broken(crow: list[int], col: list[int], part: bool = False) -> bool:
        flag = torch.zeros(1, dtype=torch.int32)
        emulated.checked("check_rows", torch.tensor(crow), len(crow) - 1, torch.tensor(col),
                         len(col), len(crow) - 1, part, flag)  # fmt: skip
        return bool(flag)

    assert not broken([0, 1, 1, 3], [0, 1, 2])
    assert broken([0, 2, 1, 3], [0, 1, 2])
    assert broken([1, 2, 2, 3], [0, 1, 2])
    assert broken([0, 1, 1, 2], [0, 1, 2])
    assert broken([0, 1, 1, 3], [0, 1, 3])
    assert not broken([1, 1, 2], [0, 1, 1], part=True)
    assert broken([1, 1, 4], [0, 1, 1], part=True)
    assert broken([-1, 1, 2], [0, 1, 1], part=True)
    index = GalleryIndex.build(torch.tensor([3, 1, 3]), torch.tensor([0, 0, 0])).identities
    labels = [torch.tensor([0]), torch.tensor([0]), index.of, index.start, index.items, index.of]
    labels[4] = torch.tensor([0, 1, 3])
    assert emulated.rank_statistics(torch.rand(1, 3), tuple(labels), None, 0)[1]
