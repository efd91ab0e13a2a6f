"""k-reciprocal sets, weights and query expansion against Python sets and loops."""

import math

import pytest
import torch
from torch import Tensor

from vireid_fast._extension import HAS_EXTENSION
from vireid_fast.ops import expand_query, k_reciprocal_sets, reciprocal_weights, smallest_k
from vireid_fast.ops.k_reciprocal import reference
from vireid_fast.ops.k_reciprocal.op import (
    expand_query_op,
    k_reciprocal_sets_op,
    reciprocal_weights_op,
)
from vireid_fast.testing import assert_error_budget, limit_threads, make_features, make_sparse_rows

BACKENDS = ["fused", "reference"]


def make_lists(num_items: int, length: int, *, clusters: int = 6, seed: int = 0) -> Tensor:
    """Neighbour lists of points in clusters, so that many neighbours are mutual."""
    centre = make_features(num_items, 5, seed=seed, distinct=clusters)
    points = centre + 0.7 * make_features(num_items, 5, seed=seed + 1)
    distances = (points[:, None] - points).square().sum(-1)
    return smallest_k(distances, length, backend="reference").indices


def naive_sets(lists: list[list[int]], k1: int) -> list[list[int]]:
    def reciprocal(item: int, length: int) -> set[int]:
        return {j for j in lists[item][:length] if item in lists[j][:length]}

    # Decimal tables instead of a rounding function: around(k1 / 2) + 1 with halves to even.
    half = {1: 1, 2: 2, 3: 3, 5: 3, 7: 5, 8: 5, 9: 5, 20: 11, 23: 13}[k1]
    sets = []
    for item in range(len(lists)):
        original = reciprocal(item, k1 + 1)
        expanded = set(original)
        for candidate in original:
            joining = reciprocal(candidate, half)
            if len(joining & original) > 2 / 3 * len(joining):
                expanded |= joining
        sets.append(sorted(expanded))
    return sets


def dense_of(crow: Tensor, col: Tensor, weight: Tensor) -> Tensor:
    num_items = len(crow) - 1
    dense = weight.new_zeros(num_items, num_items)
    dense[torch.repeat_interleave(crow.diff()), col] = weight
    return dense


def as_lists(crow: Tensor, values: Tensor) -> list[list]:
    return [values[a:b].tolist() for a, b in zip(crow[:-1], crow[1:], strict=True)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k1", [1, 2, 3, 5, 7, 8, 9, 20, 23])
def test_sets_equal_python_sets(backend, k1, device):
    lists = make_lists(61, 24)
    crow, col = k_reciprocal_sets(lists.to(device), k1, backend=backend)
    assert as_lists(crow, col) == naive_sets(lists.tolist(), k1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sets_clip_at_the_length_of_the_lists(backend):
    lists = make_lists(5, 5)
    crow, col = k_reciprocal_sets(lists, 10**9, backend=backend)
    assert as_lists(crow, col) == [[0, 1, 2, 3, 4]] * 5
    crow, col = k_reciprocal_sets(torch.zeros(1, 1, dtype=torch.int64), 1, backend=backend)
    assert as_lists(crow, col) == [[0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_item_outside_all_lists_has_an_empty_set(backend):
    # Three equal points and lists of two: item 2 stands in no list, not even its own.
    lists = torch.tensor([[0, 1], [0, 1], [0, 1]])
    crow, col = k_reciprocal_sets(lists, 1, backend=backend)
    assert as_lists(crow, col) == [[0, 1], [0, 1], []]
    assert reciprocal_weights(crow, torch.zeros(4), backend=backend).tolist() == [0.5] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_within_error_budget(dtype, device):
    crow = torch.tensor([0, 3, 3, 4, 40], device=device)
    distances = make_features(40, 1, dtype=dtype, device=device)[:, 0].abs()
    exact = reference.reciprocal_weights(crow, distances.double())
    plain = reference.reciprocal_weights(crow, distances)
    assert_error_budget(reciprocal_weights(crow, distances), plain, exact)
    first = [math.exp(-d) for d in distances[:3].tolist()]
    assert exact[:3].tolist() == pytest.approx([w / sum(first) for w in first], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k2", [2, 3, 7, 100])
def test_expansion_is_the_mean_of_dense_rows(dtype, k2, device):
    lists = make_lists(31, 8).to(device)
    rows = make_sparse_rows(31, dtype=dtype, device=device)
    found = expand_query(*rows, lists, k2)
    plain = expand_query(*rows, lists, k2, backend="reference")
    exact = reference.expand_query(rows[0], rows[1], rows[2].double(), lists, min(k2, 8))
    assert torch.equal(found.crow, plain.crow)
    assert torch.equal(found.col, plain.col)
    assert_error_budget(found.weight, plain.weight, exact[2])
    expected = dense_of(*rows).double()[lists[:, :k2]].mean(1)
    assert torch.equal(dense_of(*exact) != 0, expected != 0)
    # The mean of at most 8 values in another order of summation.
    torch.testing.assert_close(dense_of(*exact), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_expansion_by_one_neighbour_returns_the_input(backend):
    rows = make_sparse_rows(9)
    for found, expected in zip(
        expand_query(*rows, make_lists(9, 4), 1, backend=backend), rows, strict=True
    ):
        assert torch.equal(found, expected)


def test_result_is_independent_of_threads():
    lists = make_lists(1100, 22, clusters=60)
    results = []
    for number in (1, 2):
        with limit_threads(number):
            crow, col = k_reciprocal_sets(lists, 20)
            weight = reciprocal_weights(crow, torch.linspace(0, 1, len(col)))
            results.append((crow, col, *expand_query(crow, col, weight, lists, 6)))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_registration(device):
    lists = make_lists(13, 6).to(device)
    crow, col, weight = make_sparse_rows(13, device=device)
    for indices in (lists, lists.T.contiguous().T):
        torch.library.opcheck(k_reciprocal_sets_op, (indices, 4))
        torch.library.opcheck(expand_query_op, (crow, col, weight, indices, 3))
    torch.library.opcheck(reciprocal_weights_op, (crow, weight))
    empty = torch.empty(0, device=device)
    torch.library.opcheck(reciprocal_weights_op, (crow.new_zeros(1), empty))
    torch.library.opcheck(k_reciprocal_sets_op, (lists[:0], 4))


def test_error_messages():
    lists = make_lists(9, 4)
    crow, col, weight = make_sparse_rows(9)
    with pytest.raises(ValueError, match="k_reciprocal_sets: k1 must be at least 1, got 0"):
        k_reciprocal_sets(lists, 0)
    with pytest.raises(TypeError, match=r"k1 must be an integer, got 2\.5"):
        k_reciprocal_sets(lists, 2.5)
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 9\), got 1 to 9"):
        k_reciprocal_sets(lists + 1, 3)
    with pytest.raises(TypeError, match=r"indices must be int64, got torch\.int32"):
        k_reciprocal_sets(lists.int(), 3)
    with pytest.raises(ValueError, match="indices must have at least one column"):
        k_reciprocal_sets(lists[:, :0], 3)
    with pytest.raises(ValueError, match="expand_query: k2 must be at least 1, got -2"):
        expand_query(crow, col, weight, lists, -2)
    with pytest.raises(TypeError, match=r"weight must be float32 or float64, got torch\.int64"):
        expand_query(crow, col, weight.long(), lists, 2)
    with pytest.raises(ValueError, match=r"indices must have shape \(9, K\), got \(8, 4\)"):
        expand_query(crow, col, weight, make_lists(8, 4), 2)
    with pytest.raises(ValueError, match="crow must rise from 0 to the number of entries"):
        reciprocal_weights(crow.flip(0), weight)
    with pytest.raises(RuntimeError, match="distances must not require a gradient"):
        reciprocal_weights(crow, weight.clone().requires_grad_())


def test_kernel_rejects_what_would_leave_memory():
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    crow, col, weight = make_sparse_rows(9)
    with pytest.raises(RuntimeError, match=r"col must lie in \[0, 9\)"):
        expand_query_op(crow, col + 9, weight, make_lists(9, 4), 2)
    with pytest.raises(RuntimeError, match="crow must rise from 0"):
        reciprocal_weights_op(crow + 1, weight)
