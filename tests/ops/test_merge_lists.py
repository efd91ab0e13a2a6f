"""Merged neighbour lists against a search in everything."""

import pytest
import torch
from torch import Tensor

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops import KNN, knn, merge_lists, pairwise_distance
from vireid_fast.ops.merge_lists.op import merge_lists_op
from vireid_fast.testing import limit_threads, make_features

BACKENDS = ["fused", "reference"]
# (rows, listed items, new items, k): lists full and not, one group and several, few and many new.
SHAPES = [
    (1, 1, 1, 2),
    (5, 3, 40, 7),
    (9, 50, 17, 6),
    (4, 20, 900, 5),
    (3, 0, 200, 4),
    (6, 8, 1, 9),
]


def make_items(rows: int, width: int, dtype: torch.dtype, seed: int, ties: bool) -> Tensor:
    values = make_features(rows, width, dtype=dtype, seed=seed, distinct=max(1, rows // 2))
    return values.round() if ties else values + 0.1 * make_features(rows, width, dtype=dtype)


def coarse_of(x: Tensor, y: Tensor, error: float) -> tuple[Tensor, Tensor]:
    """Distances moved by almost `error` up and down."""
    distances = pairwise_distance(x, y, metric="squared_euclidean")
    sign = torch.where(make_features(*distances.shape, dtype=x.dtype, seed=5) > 0, 0.99, -0.99)
    return distances + error * sign, x.new_full((x.shape[0],), error)


def lists_of(x: Tensor, items: Tensor, k: int) -> KNN:
    if items.shape[0]:
        return knn(x, items, min(k, items.shape[0]))
    rows = x.shape[0]
    return KNN(x.new_empty(rows, 0), torch.empty(rows, 0, dtype=torch.int64), x.new_zeros(rows))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("error", [0.0, 1e-3, 5.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_a_search_in_both(shape, error, ties, backend):
    rows, listed, new, k = shape
    for dtype in (torch.float32, torch.float64):
        x = make_items(rows, 6, dtype, 1, ties)
        old, y = make_items(listed, 6, dtype, 2, ties), make_items(new, 6, dtype, 3, ties)
        coarse, slack = coarse_of(x, y, error)
        lists = lists_of(x, old, k)
        found = merge_lists(x, y, coarse, slack, *lists, listed, k, backend=backend)
        for value, expected in zip(found, knn(x, torch.cat([old, y]), k), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-6 if backend != "fused" else 0,
                                       atol=0)  # fmt: skip


def test_new_items_may_come_first():
    x, old, y = (make_items(n, 4, torch.float32, n, True) for n in (7, 30, 25))
    coarse, slack = coarse_of(x, y, 1e-3)
    lists = knn(x, old, 9)
    found = merge_lists(
        x, y, coarse, slack, lists.distances, lists.indices + 25, lists.farthest, 0, 9
    )
    for value, expected in zip(found, knn(x, torch.cat([y, old]), 9), strict=True):
        assert torch.equal(value, expected)


def test_nan_in_the_coarse_values_is_measured():
    x, y = make_items(3, 4, torch.float32, 1, False), make_items(400, 4, torch.float32, 2, False)
    coarse, slack = coarse_of(x, y, 1e-3)
    coarse[:, ::3] = torch.nan
    lists = lists_of(x, y[:0], 5)
    for value, expected in zip(merge_lists(x, y, coarse, slack, *lists, 0, 5), knn(x, y, 5),
                               strict=True):  # fmt: skip
        assert torch.equal(value, expected)


def test_bits_are_independent_of_threads_and_instruction_set():
    x, old, y = (make_items(n, 40, torch.float32, n, False) for n in (50, 30, 300))
    arguments = x, y, *coarse_of(x, y, 1e-2), *knn(x, old, 12), 30, 12
    expected = merge_lists(*arguments)
    for number in (1, 2):
        with limit_threads(number):
            for value, other in zip(merge_lists(*arguments), expected, strict=True):
                assert torch.equal(value, other)
    for name in INSTRUCTION_SETS if HAS_EXTENSION else ():
        with limit_instruction_set(name):
            for value, other in zip(merge_lists(*arguments), expected, strict=True):
                assert torch.equal(value, other)


def test_registration():
    x, old, y = (make_items(n, 4, torch.float32, n, False) for n in (5, 6, 7))
    lists = knn(x, old, 4)
    torch.library.opcheck(merge_lists_op, (x, y, *coarse_of(x, y, 0.1), *lists, 6, 4))
    strided = coarse_of(y, x, 0.1)[0].T
    slack = x.new_full((5,), 0.1)
    torch.library.opcheck(merge_lists_op, (x, y, strided, slack, *lists, 6, 4))
    empty = (x[:0], y, strided[:0], slack[:0], *(part[:0] for part in lists), 6, 4)
    torch.library.opcheck(merge_lists_op, empty)


def test_error_messages():
    x, old, y = (make_items(n, 4, torch.float32, n, False) for n in (5, 6, 7))
    coarse, slack = coarse_of(x, y, 0.1)
    lists = knn(x, old, 4)
    with pytest.raises(TypeError, match=r"x must be float32 or float64, got torch\.int64"):
        merge_lists(x.long(), y, coarse, slack, *lists, 6, 4)
    with pytest.raises(TypeError, match=r"coarse must be float32, got torch\.float64"):
        merge_lists(x, y, coarse.double(), slack, *lists, 6, 4)
    with pytest.raises(ValueError, match=r"coarse must have shape \(5, 7\), got \(7, 5\)"):
        merge_lists(x, y, coarse.T, slack, *lists, 6, 4)
    with pytest.raises(ValueError, match=r"slack must have shape \(5,\), got \(4,\)"):
        merge_lists(x, y, coarse, slack[:4], *lists, 6, 4)
    with pytest.raises(TypeError, match=r"indices must be int64, got torch\.int32"):
        merge_lists(x, y, coarse, slack, lists.distances, lists.indices.int(), lists.farthest, 6, 4)
    with pytest.raises(ValueError, match="k must be at most the number of known items, 11, got 12"):
        merge_lists(x, y, coarse, slack, *lists, 6, 12)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        merge_lists(x, y, coarse, slack, *lists, 6, 0)
    with pytest.raises(RuntimeError, match="coarse must not require a gradient"):
        merge_lists(x, y, coarse.requires_grad_(), slack, *lists, 6, 4)
