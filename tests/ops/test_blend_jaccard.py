"""The gallery's rows by column, and re-ranked distances from them."""

import pytest
import torch

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops import InvertedRows, blend_jaccard, invert_rows, jaccard_distance
from vireid_fast.ops.jaccard_distance.op import blend_jaccard_op, invert_rows_op
from vireid_fast.testing import (
    assert_error_budget,
    limit_threads,
    make_features,
    make_sparse_rows,
)

BACKENDS = ["fused", "reference"]
SHAPES = [(1, 1), (7, 13), (40, 129), (0, 5), (5, 0)]
DTYPES = [torch.float32, torch.float64]


def make_inputs(num_query: int, num_gallery: int, dtype=torch.float32, device="cpu") -> tuple:
    rows = make_sparse_rows(num_query + num_gallery, dtype=dtype, device=device)
    distances = make_features(num_query, num_gallery, dtype=dtype, device=device).abs()
    farthest = 1 + make_features(num_query, 1, dtype=dtype, device=device, seed=1)[:, 0].abs()
    return rows, distances, farthest


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("first_row", [0, 4, 11])
def test_inverted_rows_equal_python_lists(first_row, backend, device):
    rows = make_sparse_rows(11, device=device)
    found = invert_rows(rows, first_row, backend=backend)
    crow, col, weight = (part.tolist() for part in rows)
    columns = [[] for _ in range(11)]
    for row in range(first_row, 11):
        for entry in range(crow[row], crow[row + 1]):
            columns[col[entry]].append((row - first_row, weight[entry]))
    first = found.first.tolist()
    entries = list(zip(found.row.tolist(), found.weight.tolist(), strict=True))
    assert [entries[a:b] for a, b in zip(first[:-1], first[1:], strict=True)] == columns
    assert found.row.dtype == torch.int32


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lambda_value", [0.0, 0.3, 1.0])
def test_blend_within_error_budget(shape, dtype, lambda_value, device):
    rows, distances, farthest = make_inputs(*shape, dtype, device)
    index = invert_rows(rows, shape[0])

    def blended(kind: torch.dtype, backend: str) -> torch.Tensor:
        wide = rows._replace(weight=rows.weight.to(kind))
        columns = index._replace(weight=index.weight.to(kind))
        out = distances.to(kind, copy=True)
        return blend_jaccard(
            wide, columns, out, farthest.to(kind), 0, lambda_value, backend=backend
        )

    exact = blended(torch.float64, "reference")
    assert_error_budget(blended(dtype, "fused"), blended(dtype, "reference"), exact)
    jaccard = jaccard_distance(rows.crow, rows.col, rows.weight.double(), shape[0])
    original = distances.double() / farthest.double()[:, None]
    expected = (1 - lambda_value) * jaccard + lambda_value * original
    torch.testing.assert_close(exact, expected, rtol=1e-14, atol=1e-14)


def test_blocks_threads_and_instruction_sets_change_no_bit():
    rows, distances, farthest = make_inputs(45, 77)
    index = invert_rows(rows, 45)
    expected = blend_jaccard(rows, index, distances.clone(), farthest, 0, 0.3)
    for size in (1, 7, 45):
        for begin in range(0, 45, size):
            part = slice(begin, min(begin + size, 45))
            block = distances[part].clone()
            blend_jaccard(rows, index, block, farthest[part], begin, 0.3)
            assert torch.equal(block, expected[part])
    for number in (1, 2):
        with limit_threads(number):
            found = blend_jaccard(rows, index, distances.clone(), farthest, 0, 0.3)
            assert torch.equal(found, expected)
    for name in INSTRUCTION_SETS if HAS_EXTENSION else ():
        with limit_instruction_set(name):
            found = blend_jaccard(rows, index, distances.clone(), farthest, 0, 0.3)
            assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_of_one_query_stays_with_it(backend):
    rows, distances, farthest = make_inputs(3, 4)
    farthest[1] = 0
    distances[1] = 0
    index = invert_rows(rows, 3)
    found = blend_jaccard(rows, index, distances, farthest, 0, 0.3, backend=backend)
    assert found.isnan().any(1).tolist() == [False, True, False]
    assert bool(found[1].isnan().all())


@pytest.mark.parametrize("shape", [(7, 13), (0, 5), (5, 0)], ids=str)
def test_registration(shape, device):
    rows, distances, farthest = make_inputs(*shape, device=device)
    torch.library.opcheck(invert_rows_op, (*rows, shape[0]))
    index = invert_rows(rows, shape[0])
    torch.library.opcheck(blend_jaccard_op, (*rows, *index, farthest, 0, 0.3, distances))
    wide = farthest.repeat_interleave(2)[::2]
    torch.library.opcheck(blend_jaccard_op, (*rows, *index, wide, 0, 0.3, distances))


def test_error_messages():
    rows, distances, farthest = make_inputs(4, 5)
    index = invert_rows(rows, 4)
    with pytest.raises(ValueError, match=r"invert_rows: first_row must lie in \[0, 9\], got 10"):
        invert_rows(rows, 10)
    with pytest.raises(TypeError, match=r"weight must be float32, got torch\.float64"):
        blend_jaccard(
            rows._replace(weight=rows.weight.double()), index, distances, farthest, 0, 0.3
        )
    with pytest.raises(ValueError, match="distances must be contiguous, since it is overwritten"):
        blend_jaccard(rows, index, distances[:, ::2], farthest, 0, 0.3)
    with pytest.raises(ValueError, match=r"farthest must have shape \(4,\), got \(3,\)"):
        blend_jaccard(rows, index, distances, farthest[:3], 0, 0.3)
    with pytest.raises(ValueError, match=r"first_query must lie in \[0, 5\], got 6"):
        blend_jaccard(rows, index, distances, farthest, 6, 0.3)
    with pytest.raises(ValueError, match=r"lambda_value must lie in \[0, 1\], got 1\.5"):
        blend_jaccard(rows, index, distances, farthest, 0, 1.5)
    with pytest.raises(RuntimeError, match="distances must not require a gradient"):
        blend_jaccard(rows, index, distances.requires_grad_(), farthest, 0, 0.3)


def test_kernel_rejects_what_would_leave_memory():
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    rows, distances, farthest = make_inputs(4, 5)
    index = invert_rows(rows, 4)

    def blend(columns: InvertedRows, col: torch.Tensor = rows.col) -> None:
        blend_jaccard_op(rows.crow, col, rows.weight, *columns, farthest, 0, 0.3, distances)

    with pytest.raises(RuntimeError, match="blend_jaccard: the index must point"):
        blend(index._replace(row=index.row + 5))
    with pytest.raises(RuntimeError, match="blend_jaccard: the index must point"):
        blend(index._replace(row=index.row - 100))
    with pytest.raises(RuntimeError, match="blend_jaccard: the index must point"):
        blend(index._replace(first=index.first + 1000))
    with pytest.raises(RuntimeError, match="blend_jaccard: the index must point"):
        blend(index, rows.col + 9)
    with pytest.raises(RuntimeError, match="first_query must lie in"):
        blend_jaccard_op(*rows, *index, farthest, 6, 0.3, distances)
