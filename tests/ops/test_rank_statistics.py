"""Rank statistics against a Python loop over sorted lists."""

import math

import pytest
import torch
from torch import Tensor

from vireid_fast._extension import HAS_EXTENSION
from vireid_fast.ops import RankStatistics, rank_statistics
from vireid_fast.ops.rank_statistics.op import DROP_RULES, rank_statistics_op
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


def test_registration(device):
    for shape in ((7, 13), (0, 5)):
        inputs = [part.to(device) for part in make_inputs(*shape)]
        # opcheck compares outputs by ==, so that every query must be valid: one identity.
        inputs[1].zero_()
        inputs[2].zero_()
        torch.library.opcheck(rank_statistics_op, (*inputs, 1))
        inputs[0] = inputs[0].T.contiguous().T
        torch.library.opcheck(rank_statistics_op, (*inputs, 2))
    empty = [part.to(device) for part in make_inputs(5, 0)]
    torch.library.opcheck(
        rank_statistics_op, (*empty, 1), test_utils=("test_schema", "test_faketensor")
    )


def test_raw_op_compiles_with_dynamic_shapes():
    compiled = torch.compile(
        lambda *inputs: rank_statistics_op(*inputs, 0),
        fullgraph=True, backend="aot_eager", dynamic=True,
    )  # fmt: skip
    for shape in ((6, 9), (8, 14)):
        inputs = make_inputs(*shape)
        for found, expected in zip(compiled(*inputs), rank_statistics(*inputs), strict=True):
            assert torch.equal(found.nan_to_num(-5), expected.nan_to_num(-5))


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


def test_kernel_rejects_what_would_leave_memory():
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    distances, query, gallery, query_groups, gallery_groups = make_inputs(4, 6)
    with pytest.raises(RuntimeError, match="query_groups must have size 4 in dimension 0, got 3"):
        rank_statistics_op(distances, query, gallery, query_groups[:3], gallery_groups, 1)
