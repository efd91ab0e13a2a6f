"""The order of neighbour lists by normalised distance, and distances of set entries."""

import pytest
import torch
from torch import Tensor

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops import (
    entry_distance,
    k_reciprocal_sets,
    knn,
    pair_distance,
    rank_normalised,
)
from vireid_fast.ops.k_reciprocal.op import entry_distance_op, rank_normalised_op
from vireid_fast.testing import limit_threads, make_features, make_sparse_rows

BACKENDS = ["fused", "reference"]
DTYPES = [torch.float32, torch.float64]


def naive_rank(
    distances: Tensor, indices: Tensor, farthest: Tensor, k: int
) -> tuple[list[list[int]], list[bool]]:
    ranked, is_open = [], []
    for row, items, scale in zip(distances, indices.tolist(), farthest, strict=True):
        divided = (row / (scale if scale > 0 else 1)).tolist()
        order = sorted(zip(divided, items, strict=True))
        ranked.append([item for _, item in order[:k]])
        is_open.append(order[k - 1][0] == order[-1][0])
    return ranked, is_open


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 5, 8])
def test_ranks_equal_a_python_sort(k, dtype, backend, device):
    # Neighbouring floats, of which the division merges some, in an order of their own.
    step = torch.finfo(dtype).eps
    distances = 1.9 + step * torch.randint(0, 12, (40, 8), dtype=dtype).sort(1).values
    distances[:7] = 0
    indices = torch.stack([torch.randperm(90)[:8] for _ in range(40)])
    farthest = torch.full((40,), 3.7, dtype=dtype)
    farthest[:3] = 0
    found = rank_normalised(
        distances.to(device), indices.to(device), farthest.to(device), k, backend=backend
    )
    ranked, is_open = naive_rank(distances, indices, farthest, k)
    assert found[0].tolist() == ranked
    assert found[1].tolist() == is_open


def entries_of(num_items: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> tuple:
    """Sparse rows over features, half of whose entries stand in the lists."""
    features = make_features(num_items, 37, dtype=dtype, device=device, distinct=num_items - 3)
    rows = make_sparse_rows(num_items, density=0.5, device=device)
    lists = knn(features, features, num_items // 2)
    return features, rows.crow, rows.col, lists.distances, lists.indices


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_query", [0, 1, 8, 23])
def test_entries_have_the_bits_of_pairs(num_query, dtype, device):
    features, crow, col, distances, indices = entries_of(23, dtype, device)
    row = torch.repeat_interleave(crow.diff())
    expected = pair_distance(features, row, col)
    parts = features[:num_query], features[num_query:]
    found = entry_distance(*parts, crow, col, distances, indices)
    if device.type == "cpu" and HAS_EXTENSION:
        assert torch.equal(found, expected)
    without = entry_distance(*parts, crow, col, distances[:, :0], indices[:, :0])
    plain = entry_distance(*parts, crow, col, distances, indices, backend="reference")
    for value in (found, without, plain):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)


def test_bits_are_independent_of_threads_and_instruction_set():
    features, crow, col, distances, indices = entries_of(300, torch.float32)
    arguments = features[:70], features[70:], crow, col, distances, indices
    expected = entry_distance(*arguments)
    farthest = distances.amax(1)
    ranked = rank_normalised(distances, indices, farthest, 9)
    for number in (1, 2):
        with limit_threads(number):
            assert torch.equal(entry_distance(*arguments), expected)
            for value, other in zip(
                rank_normalised(distances, indices, farthest, 9), ranked, strict=True
            ):
                assert torch.equal(value, other)
    for name in INSTRUCTION_SETS if HAS_EXTENSION else ():
        with limit_instruction_set(name):
            assert torch.equal(entry_distance(*arguments), expected)


def test_registration(device):
    features, crow, col, distances, indices = entries_of(11, torch.float32, device)
    parts = features[:4], features[4:]
    torch.library.opcheck(entry_distance_op, (*parts, crow, col, distances, indices))
    strided = distances.T.contiguous().T, indices.T.contiguous().T
    torch.library.opcheck(entry_distance_op, (*parts, crow, col, *strided))
    farthest = distances.amax(1)
    torch.library.opcheck(rank_normalised_op, (distances, indices, farthest, 3))
    torch.library.opcheck(rank_normalised_op, (*strided, farthest, 3))
    torch.library.opcheck(rank_normalised_op, (distances[:0], indices[:0], farthest[:0], 3))


def test_error_messages():
    features, crow, col, distances, indices = entries_of(9, torch.float32)
    farthest = distances.amax(1)
    with pytest.raises(ValueError, match="k must be at most the length of the lists, 4, got 5"):
        rank_normalised(distances, indices, farthest, 5)
    with pytest.raises(TypeError, match=r"indices must be int64, got torch\.int32"):
        rank_normalised(distances, indices.int(), farthest, 3)
    with pytest.raises(TypeError, match=r"farthest must be float32, got torch\.float64"):
        rank_normalised(distances, indices, farthest.double(), 3)
    with pytest.raises(ValueError, match=r"indices must have shape \(9, 4\), got \(9, 3\)"):
        rank_normalised(distances, indices[:, :3], farthest, 3)
    parts = features[:4], features[4:]
    with pytest.raises(ValueError, match=r"gallery must have shape \(G, 37\), got \(5, 36\)"):
        entry_distance(parts[0], parts[1][:, 1:], crow, col, distances, indices)
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 9\), got 1 to 9"):
        entry_distance(*parts, crow, col, distances, indices + 1)
    with pytest.raises(ValueError, match=r"crow must have shape \(10,\)"):
        entry_distance(*parts, crow[:1].repeat(2), col[:0], distances, indices)
    with pytest.raises(RuntimeError, match="query must not require a gradient"):
        entry_distance(parts[0].clone().requires_grad_(), parts[1], crow, col, distances, indices)


def test_kernel_rejects_what_would_leave_memory():
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    features, crow, col, distances, indices = entries_of(9, torch.float32)
    parts = features[:4], features[4:]
    with pytest.raises(RuntimeError, match=r"indices must lie in \[0, 9\)"):
        entry_distance_op(*parts, crow, col, distances, indices - 1)
    with pytest.raises(RuntimeError, match=r"col must lie in \[0, 9\)"):
        entry_distance_op(*parts, crow, col + 9, distances, indices)
    with pytest.raises(RuntimeError, match=r"k must lie in \[1, 4\], got 5"):
        rank_normalised_op(distances, indices, distances.amax(1), 5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeated_items_leave_no_memory(backend):
    # Lists that hold an item twice are no lists, but must not harm.
    lists = torch.randint(0, 5, (5, 12))
    crow, col = k_reciprocal_sets(lists, 20, backend=backend)
    for begin, end in zip(crow[:-1], crow[1:], strict=True):
        row = col[begin:end].tolist()
        assert row == sorted(set(row))
