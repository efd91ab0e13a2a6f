"""Jaccard distances of sparse rows against dense sums of minima and maxima."""

import pytest
import torch
from torch import Tensor

from vireid_fast._extension import HAS_EXTENSION
from vireid_fast.ops import SparseRows, jaccard_distance
from vireid_fast.ops.jaccard_distance import reference
from vireid_fast.ops.jaccard_distance.op import jaccard_distance_op
from vireid_fast.testing import assert_error_budget, limit_threads, make_sparse_rows

SHAPES = [(1, 1), (7, 13), (40, 129), (0, 5), (5, 0)]
DTYPES = [torch.float32, torch.float64]


def dense_of(rows: SparseRows) -> Tensor:
    num_items = len(rows.crow) - 1
    dense = rows.weight.new_zeros(num_items, num_items)
    dense[torch.repeat_interleave(rows.crow.diff()), rows.col] = rows.weight
    return dense


def take_rows(rows: SparseRows, order: Tensor) -> SparseRows:
    """The rows in another order."""
    dense = dense_of(rows)[order]
    row, col = dense.nonzero(as_tuple=True)
    crow = torch.searchsorted(row, torch.arange(len(order) + 1))
    return SparseRows(crow, col, dense[row, col])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_reference(shape, dtype, device):
    num_query, num_gallery = shape
    rows = make_sparse_rows(num_query + num_gallery, dtype=dtype, device=device)
    exact = reference.jaccard_distance(rows.crow, rows.col, rows.weight.double(), num_query)
    plain = reference.jaccard_distance(*rows, num_query)
    assert_error_budget(jaccard_distance(*rows, num_query), plain, exact)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_equals_minima_over_maxima(backend, device):
    rows = make_sparse_rows(20, dtype=torch.float64, device=device)
    dense = dense_of(rows).cpu()
    query, gallery = dense[:7, None], dense[None, 7:]
    expected = 1 - query.minimum(gallery).sum(-1) / query.maximum(gallery).sum(-1)
    found = jaccard_distance(*rows, 7, backend=backend).cpu()
    # The rows sum to 1 up to a few units in the last place.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_rows_are_near_and_never_below_zero(backend, dtype):
    rows = take_rows(make_sparse_rows(30, dtype=dtype), torch.zeros(30, dtype=torch.int64))
    found = jaccard_distance(*rows, 10, backend=backend)
    assert bool((found >= 0).all())
    assert float(found.max()) <= 30 * torch.finfo(dtype).eps


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_empty_rows_and_nan_weights(backend):
    crow = torch.tensor([0, 1, 1, 2, 3])
    rows = crow, torch.tensor([0, 0, 1]), torch.tensor([torch.nan, 1.0, 1.0])
    found = jaccard_distance(*rows, 2, backend=backend)
    assert found[0].isnan().tolist() == [True, False]
    assert found[:, 1].tolist() == [1, 1]
    assert found[1].tolist() == [1, 1]


def test_permuted_gallery_permutes_columns():
    rows = make_sparse_rows(24)
    order = torch.cat([torch.arange(9), 9 + torch.randperm(15)])
    found = jaccard_distance(*take_rows(rows, order), 9)
    assert torch.equal(found, jaccard_distance(*rows, 9)[:, order[9:] - 9])


def test_result_is_independent_of_threads():
    rows = make_sparse_rows(90)
    results = []
    for number in (1, 2):
        with limit_threads(number):
            results.append(jaccard_distance(*rows, 60))
    assert torch.equal(*results)


@pytest.mark.parametrize("shape", [(7, 13), (0, 5), (5, 0)], ids=str)
def test_registration(shape, device):
    rows = make_sparse_rows(sum(shape), dtype=torch.float32, device=device)
    torch.library.opcheck(jaccard_distance_op, (*rows, shape[0]))
    strided = rows._replace(weight=rows.weight.repeat_interleave(2)[::2])
    torch.library.opcheck(jaccard_distance_op, (*strided, shape[0]))


def test_raw_op_compiles_with_dynamic_shapes():
    compiled = torch.compile(jaccard_distance_op, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (12, 17):
        rows = make_sparse_rows(size)
        assert torch.equal(compiled(*rows, 5), jaccard_distance(*rows, 5))


def test_error_messages():
    crow, col, weight = make_sparse_rows(6)
    with pytest.raises(TypeError, match=r"weight must be float32 or float64, got torch\.int64"):
        jaccard_distance(crow, col, weight.long(), 2)
    with pytest.raises(TypeError, match=r"col must be int64, got torch\.int32"):
        jaccard_distance(crow, col.int(), weight, 2)
    with pytest.raises(ValueError, match=r"num_query must lie in \[0, 6\], got 7"):
        jaccard_distance(crow, col, weight, 7)
    with pytest.raises(ValueError, match=r"col must lie in \[0, 6\), got"):
        jaccard_distance(crow, col + 1, weight, 2)
    with pytest.raises(ValueError, match="crow must rise from 0"):
        jaccard_distance(crow[:-1], col, weight, 2)
    with pytest.raises(RuntimeError, match="weight must not require a gradient"):
        jaccard_distance(crow, col, weight.clone().requires_grad_(), 2)


def test_kernel_rejects_what_would_leave_memory():
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    crow, col, weight = make_sparse_rows(6)
    with pytest.raises(RuntimeError, match=r"jaccard_distance: col must lie in \[0, 6\)"):
        jaccard_distance_op(crow, col - 1, weight, 2)
    with pytest.raises(RuntimeError, match=r"num_query must lie in \[0, 6\]"):
        jaccard_distance_op(crow, col, weight, 7)
