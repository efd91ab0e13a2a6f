"""Rank statistics against a Python loop over sorted lists."""

import math

import pytest
import torch
from torch import Tensor

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops import (
    GalleryIndex,
    RankStatistics,
    feature_rank_statistics,
    pairwise_distance,
    rank_statistics,
)
from vireid_fast.ops.rank_statistics.op import (
    DROP_RULES,
    feature_rank_statistics_op,
    rank_statistics_op,
)
from vireid_fast.testing import limit_threads

BACKENDS = ["fused", "reference"]
# Ids that break tables indexed by id, and 32-bit ones.
IDS = [-(2**62), -1, 0, 3, 5, 2**33, 2**62]


def make_inputs(
    num_query: int, num_gallery: int, *, ties: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(31 * num_query + num_gallery)

    def choose(count: int, values: list[int]) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), (count,), generator=generator)]

    distances = torch.rand(num_query, num_gallery, generator=generator, dtype=torch.float64)
    if ties:
        distances = (distances * 4).floor()
    return (
        distances.to(dtype),
        choose(num_query, IDS),
        choose(num_gallery, IDS[:-1]),  # the last identity has no gallery item
        choose(num_query, [1, 2, 3]),
        choose(num_gallery, [1, 2, 3]),
    )


def naive(distances, query_ids, gallery_ids, query_groups, gallery_groups, drop) -> list[tuple]:
    out = []
    for row, person, group in zip(distances, query_ids, query_groups, strict=True):
        kept = []
        items = zip(row, range(len(row)), gallery_ids, gallery_groups, strict=True)
        for value, index, other, place in items:
            removed = {
                "none": False,
                "same_group": place == group,
                "same_group_and_id": place == group and other == person,
            }[drop]
            if not removed:
                kept.append((value, index, other))
        ids = [other for _, _, other in sorted(kept)]
        ranks = [rank for rank, other in enumerate(ids) if other == person]
        if not ranks:
            out.append((-1, -1, math.nan, math.nan, 0))
            continue
        precision = [(hit + 1) / (rank + 1) for hit, rank in enumerate(ranks)]
        out.append((
            ranks[0], len(set(ids[: ranks[0]])), sum(precision) / len(ranks),
            len(ranks) / (ranks[-1] + 1), len(ranks),
        ))  # fmt: skip
    return out


def assert_equals_naive(found: RankStatistics, expected: list[tuple]) -> None:
    columns = zip(*expected, strict=True) if expected else ([],) * 5
    for name, values, column in zip(found._fields, found, columns, strict=True):
        if values.dtype == torch.int64:
            assert values.tolist() == list(column), name
        else:
            # Sums of at most 50 fractions in another order.
            assert values.tolist() == pytest.approx(list(column), rel=1e-14, nan_ok=True), name


def assert_close(found: RankStatistics, expected: RankStatistics) -> None:
    for a, b in zip(found, expected, strict=True):
        if a.dtype == torch.int64:
            assert torch.equal(a, b)
        else:  # sums in another order
            torch.testing.assert_close(a, b, rtol=1e-14, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("drop", DROP_RULES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (41, 97), (0, 5), (5, 0)], ids=str)
def test_equals_python_loop(backend, drop, ties, shape, device):
    inputs = make_inputs(*shape, ties=ties)
    found = rank_statistics(*(part.to(device) for part in inputs), drop=drop, backend=backend)
    assert_equals_naive(found, naive(*(part.tolist() for part in inputs), drop))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_of_distances(dtype, device):
    inputs = make_inputs(11, 29, dtype=dtype)
    found = rank_statistics(*(part.to(device) for part in inputs), drop="same_group")
    assert found.average_precision.dtype == torch.float64
    assert_equals_naive(found, naive(*(part.tolist() for part in inputs), "same_group"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("drop", DROP_RULES)
def test_index_serves_blocks_of_queries_and_columns_choose_the_gallery(backend, drop, device):
    distances, query, gallery, query_groups, gallery_groups = (
        part.to(device) for part in make_inputs(23, 61, ties=True)
    )
    columns = torch.randperm(61, device=device)[:47]
    index = GalleryIndex.build(gallery[columns], gallery_groups[columns])
    parts = [
        rank_statistics(
            distances[block], query[block], index, query_groups[block], columns=columns, drop=drop,
            backend=backend,
        )
        for block in (slice(0, 1), slice(1, 9), slice(9, 23))
    ]  # fmt: skip
    found = RankStatistics(*(torch.cat(part) for part in zip(*parts, strict=True)))
    chosen = (distances[:, columns], query, gallery[columns], query_groups, gallery_groups[columns])
    assert_equals_naive(found, naive(*(part.tolist() for part in chosen), drop))


@pytest.mark.parametrize("drop", DROP_RULES)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_positives_and_long_rows(drop, instruction_set, dtype):
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    # More than one piece of the row, and more positives than are compared one by one.
    generator = torch.Generator().manual_seed(5)
    distances = torch.randint(900, (3, 2600), generator=generator).to(dtype)
    query, query_groups = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0])
    gallery = torch.where(torch.rand(2600, generator=generator) < 0.6, 0, 1)
    gallery[torch.randperm(2600, generator=generator)[:40]] = 2
    gallery_groups = torch.randint(3, (2600,), generator=generator)
    inputs = (distances, query, gallery, query_groups, gallery_groups)
    with limit_instruction_set(instruction_set):
        found = rank_statistics(*inputs, drop=drop)
    expected = rank_statistics(*inputs, drop=drop, backend="reference")
    assert_close(found, expected)


@pytest.mark.parametrize("metric", ["euclidean", "squared_euclidean", "cosine", "dot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 3), (37, 601, 5), (0, 4, 2), (4, 0, 2)], ids=str)
def test_features_equal_their_distances_bit_for_bit(metric, dtype, shape):
    num_query, num_gallery, width = shape
    _, *ids = make_inputs(num_query, num_gallery)
    # Small integers, so that distances repeat; one zero row.
    query, gallery = (
        torch.randint(-2, 3, (size, width)).to(dtype) for size in (num_query, num_gallery)
    )
    query[:1], gallery[:1] = 0, 0
    for drop in DROP_RULES:
        found = feature_rank_statistics(query, gallery, *ids, metric=metric, drop=drop)
        distances = pairwise_distance(query, gallery, metric=metric)
        assert_same(found, rank_statistics(distances, *ids, drop=drop))


@pytest.mark.parametrize("metric", ["euclidean", "squared_euclidean", "cosine", "dot"])
def test_reference_of_features(metric, device):
    _, *ids = (part.to(device) for part in make_inputs(19, 43))
    query, gallery = (torch.randn(n, 6, device=device, dtype=torch.float64) for n in (19, 43))
    found, expected = (
        feature_rank_statistics(query, gallery, *ids, metric=metric, drop="same_group", backend=b)
        for b in BACKENDS
    )
    assert_close(found, expected)


def test_unit_cosine_does_not_normalise():
    query = torch.tensor([[2.0, 0.0]])
    ids = torch.tensor([7]), torch.tensor([7, 1])
    gallery = torch.tensor([[0.5, 3.0], [1.0, 0.0]])
    assert feature_rank_statistics(query, gallery, *ids, metric="cosine").first_rank.item() == 1
    found = feature_rank_statistics(query, 4 * gallery, *ids, metric="unit_cosine")
    expected = rank_statistics(1 - query @ (4 * gallery).T, *ids)
    assert_same(found, expected)


@pytest.mark.parametrize("drop", DROP_RULES)
def test_features_do_not_depend_on_threads_or_blocks(drop):
    _, *ids = make_inputs(70, 90)
    query, gallery = torch.randn(70, 7), torch.randn(90, 7)
    results = []
    for number in (1, 2):
        with limit_threads(number):
            results.append(feature_rank_statistics(query, gallery, *ids, drop=drop))
    assert_same(*results)
    parts = [
        feature_rank_statistics(query[b], gallery, ids[0][b], ids[1], ids[2][b], ids[3], drop=drop)
        for b in (slice(0, 3), slice(3, 70))
    ]
    assert_same(RankStatistics(*(torch.cat(p) for p in zip(*parts, strict=True))), results[0])


@pytest.mark.parametrize("place", [0, 9, 30])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_refused_wherever_it_stands(place, backend):
    distances, *ids = make_inputs(4, 40)
    distances[2, place] = torch.nan
    for drop in DROP_RULES:
        with pytest.raises(ValueError, match="distances must hold no NaN, got nan in row 2"):
            rank_statistics(distances, *ids, drop=drop, backend=backend)
    columns = torch.tensor([n for n in range(40) if n != place])
    rank_statistics(distances, ids[0], ids[1][columns], columns=columns, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hand_made_case(backend):
    distances = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5]])
    gallery = torch.tensor([8, 8, 7, 9, 7])
    found = rank_statistics(distances, torch.tensor([7]), gallery, backend=backend)
    assert found.first_rank.item() == 2
    assert found.first_identity_rank.item() == 1  # two images, one identity before it
    assert found.average_precision.item() == pytest.approx((1 / 3 + 2 / 5) / 2, rel=1e-15)
    assert found.inverse_negative_penalty.item() == 2 / 5
    assert found.num_positives.item() == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_infinite_distances_rank_by_index(backend):
    distances = torch.tensor([[torch.inf, -torch.inf, torch.inf]])
    found = rank_statistics(distances, torch.tensor([1]), torch.tensor([0, 2, 1]), backend=backend)
    assert found.first_rank.item() == 2


def test_permuted_gallery_without_ties_changes_nothing():
    distances, query, gallery, query_groups, gallery_groups = make_inputs(23, 61)
    order = torch.randperm(61)
    one = rank_statistics(distances, query, gallery, query_groups, gallery_groups,
                          drop="same_group_and_id")  # fmt: skip
    two = rank_statistics(distances[:, order], query, gallery[order], query_groups,
                          gallery_groups[order], drop="same_group_and_id")  # fmt: skip
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.nan_to_num(-5), b.nan_to_num(-5))


def test_result_is_independent_of_threads():
    inputs = make_inputs(130, 40, ties=True)
    results = []
    for number in (1, 2):
        with limit_threads(number):
            results.append(rank_statistics(*inputs, drop="same_group"))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a.nan_to_num(-5), b.nan_to_num(-5))


def raw_labels(query_ids, gallery_ids, query_groups, gallery_groups) -> tuple[Tensor, ...]:
    """Labels as the raw ops take them."""
    index = GalleryIndex.build(gallery_ids, gallery_groups)
    both = (index.identities, index.groups)
    found = tuple(part.find(ids) for part, ids in zip(both, (query_ids, query_groups), strict=True))
    return found + tuple(part for each in both for part in (each.of, each.start, each.items))


def one_identity(num_query: int, num_gallery: int, device) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Distances and labels of a case in which every query is valid."""
    distances, *ids = (part.to(device) for part in make_inputs(num_query, num_gallery))
    ids[0].zero_()
    ids[1].zero_()
    return distances, raw_labels(*ids)


def test_registration(device):
    # opcheck compares outputs by ==, so that every query must be valid.
    for shape in ((7, 13), (0, 5)):
        distances, labels = one_identity(*shape, device)
        torch.library.opcheck(rank_statistics_op, (distances, *labels, None, 0))
        columns = torch.arange(shape[1], device=device).flip(0)
        torch.library.opcheck(rank_statistics_op, (distances, *labels, columns, 0))
        strided = distances.T.contiguous().T
        torch.library.opcheck(rank_statistics_op, (strided, *labels, None, 0))
        for code in range(3):
            features = [torch.rand(size, 4, device=device) for size in shape]
            torch.library.opcheck(feature_rank_statistics_op, (*features, *labels, code, 1.0, 0))
    distances, *ids = (part.to(device) for part in make_inputs(5, 0))
    torch.library.opcheck(
        rank_statistics_op, (distances, *raw_labels(*ids), None, 1),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


def test_raw_op_compiles_with_dynamic_shapes():
    compiled = torch.compile(
        lambda *inputs: rank_statistics_op(*inputs, None, 0),
        fullgraph=True, backend="aot_eager", dynamic=True,
    )  # fmt: skip
    for shape in ((6, 9), (8, 14)):
        distances, *ids = make_inputs(*shape)
        found = compiled(distances, *raw_labels(*ids))
        assert_same(RankStatistics(*found), rank_statistics(distances, *ids))


def assert_same(found: RankStatistics, expected: RankStatistics) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.nan_to_num(-5), b.nan_to_num(-5))


def test_error_messages():
    distances, query, gallery, query_groups, _ = make_inputs(4, 6)
    with pytest.raises(ValueError, match="drop must be one of"):
        rank_statistics(distances, query, gallery, drop="camera")
    with pytest.raises(ValueError, match='query_groups must be given for drop="same_group"'):
        rank_statistics(distances, query, gallery, drop="same_group")
    with pytest.raises(ValueError, match="gallery_groups must be given"):
        rank_statistics(distances, query, gallery, query_groups, drop="same_group_and_id")
    with pytest.raises(ValueError, match=r"gallery_ids must have shape \(6,\), got \(5,\)"):
        rank_statistics(distances, query, gallery[:5])
    with pytest.raises(TypeError, match=r"query_ids must be int64, got torch\.int32"):
        rank_statistics(distances, query.int(), gallery)
    with pytest.raises(ValueError, match="distances must hold no NaN, got nan in row 2"):
        rank_statistics(distances.index_fill(0, torch.tensor([2]), torch.nan), query, gallery)
    with pytest.raises(RuntimeError, match="distances must not require a gradient"):
        rank_statistics(distances.clone().requires_grad_(), query, gallery)
    with pytest.raises(TypeError, match="distances must be float32 or float64"):
        rank_statistics(distances.long(), query, gallery)


def test_error_messages_of_columns_and_index():
    distances, query, gallery, query_groups, gallery_groups = make_inputs(4, 6)
    index = GalleryIndex.build(gallery)
    with pytest.raises(ValueError, match=r"gallery_ids must index 5 items, got 6"):
        rank_statistics(distances[:, :5], query, index)
    with pytest.raises(ValueError, match='gallery_ids must index groups for drop="same_group"'):
        rank_statistics(distances, query, index, query_groups, drop="same_group")
    with pytest.raises(ValueError, match="gallery_groups must be None with an index"):
        rank_statistics(distances, query, index, query_groups, gallery_groups)
    with pytest.raises(ValueError, match=r"columns must lie in \[0, 6\), got 6"):
        rank_statistics(distances, query, index, columns=torch.arange(1, 7))
    with pytest.raises(ValueError, match=r"columns must lie in \[0, 6\), got -1"):
        rank_statistics(distances, query, index, columns=torch.arange(-1, 5))
    with pytest.raises(TypeError, match="columns must be int64"):
        rank_statistics(distances, query, index, columns=torch.arange(6).int())
    with pytest.raises(ValueError, match=r"gallery_groups must have shape \(6,\)"):
        GalleryIndex.build(gallery, gallery_groups[:4])
    with pytest.raises(TypeError, match="gallery_ids must be int64"):
        GalleryIndex.build(gallery.int())


def test_error_messages_of_features():
    query, gallery = torch.rand(2, 3), torch.rand(4, 3)
    ids = torch.zeros(2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="metric must be one of"):
        feature_rank_statistics(query, gallery, *ids, metric="l1")
    with pytest.raises(ValueError, match=r"gallery must have shape \(G, 3\), got \(4, 2\)"):
        feature_rank_statistics(query, gallery[:, :2], *ids)
    with pytest.raises(TypeError, match="gallery must be float32"):
        feature_rank_statistics(query, gallery.double(), *ids)
    with pytest.raises(RuntimeError, match="gallery must not require a gradient"):
        feature_rank_statistics(query, gallery.requires_grad_(), *ids)
    gallery = torch.rand(4, 3)
    gallery[3, 1] = torch.nan
    for backend in BACKENDS:
        with pytest.raises(ValueError, match="distances must hold no NaN, got nan in row 0"):
            feature_rank_statistics(query, gallery, *ids, backend=backend)


def test_kernel_rejects_what_would_leave_memory():
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    distances, labels = one_identity(4, 6, "cpu")

    drop = 1

    def run(place: int, value: Tensor, columns: Tensor | None = None) -> None:
        changed = [*labels]
        changed[place] = value
        rank_statistics_op(distances, *changed, columns, drop)

    with pytest.raises(RuntimeError, match="query_groups must have size 4 in dimension 0, got 3"):
        run(1, labels[1][:3])
    with pytest.raises(RuntimeError, match=r"columns must lie in \[0, 6\), got 6"):
        run(1, labels[1], torch.arange(1, 7))
    for place, value in (
        (0, labels[0] + 99), (0, labels[0] - 9), (3, labels[3] + 1), (3, labels[3] - 1),
        (4, labels[4] + 1), (4, labels[4] - 1), (4, labels[4].flip(0)),
        (1, labels[1] + 99), (7, labels[7] + 6),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="the gallery index must list items in range"):
            run(place, value)
    # Of the labels of items, those before the nearest correct one are used.
    ids = torch.tensor([1]), torch.tensor([0, 0, 1])
    labels, drop = raw_labels(*ids, *ids), 0
    distances = torch.tensor([[1.0, 2.0, 3.0]])
    for value in (-1, 2):
        with pytest.raises(RuntimeError, match="the gallery index must list items in range"):
            run(2, torch.tensor([value, 0, 1]))
