"""Squared distances from products of centred rows: the bound on their error, and their bits."""

import pytest
import torch

from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set
from vireid_fast.ops import centred_distance, centred_error
from vireid_fast.ops.centred_distance.op import centred_distance_op
from vireid_fast.testing import limit_threads, make_features

# (rows, columns, width): single, primes, whole tiles and panels, more than a piece, none.
SHAPES = [(1, 1, 1), (7, 13, 5), (24, 64, 128), (37, 101, 131), (13, 33, 300), (0, 5, 3), (5, 0, 3)]
DTYPES = [torch.float32, torch.float64]


def naive(x: torch.Tensor, y: torch.Tensor) -> list[list[float]]:
    return [
        [sum((a - b) ** 2 for a, b in zip(row, item, strict=True)) for item in y.tolist()]
        for row in x.tolist()
    ]


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_equals_python_loop(backend, device):
    x, y = (make_features(n, 5, dtype=torch.float64, seed=n) for n in (4, 7))
    found = centred_distance(x.to(device), y.to(device), x[1].to(device), backend=backend)
    assert found.tolist() == [pytest.approx(row, rel=1e-13) for row in naive(x, y)]
    again = centred_distance(x.to(device) - x[1], y.to(device) - x[1], None, backend=backend)
    assert torch.equal(again, found)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_error_stays_within_its_bound(shape, dtype, offset, device):
    rows, columns, width = shape
    # Far from the origin the products are large and the distances small.
    x = make_features(rows, width, dtype=dtype, device=device, seed=1) + offset
    y = make_features(columns, width, dtype=dtype, device=device, seed=2) + offset
    centre = x[0] if rows else y[0]
    found = centred_distance(x, y, centre)
    assert found.shape == (rows, columns) and found.dtype == dtype
    exact = (x.double()[:, None] - y.double()).square().sum(-1)
    length_x, length_y = ((part - centre).double().norm(dim=1) for part in (x, y))
    bound = centred_error(width, dtype) * (length_x[:, None] + length_y).square()
    # float64 has no wider type to check against; its oracle errs as much.
    assert bool(((found.double() - exact).abs() <= (2 if dtype.itemsize == 8 else 1) * bound).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_adversarial_sums_stay_within_the_bound(dtype):
    # All products have one sign and magnitudes that round away as the sums grow.
    width = 2048
    x = torch.full((3, width), 1 / 3, dtype=dtype)
    x[1] += torch.linspace(0, 1e-3, width, dtype=dtype)
    x[2, ::2] = -x[2, ::2]
    centre = torch.full((width,), -1.0, dtype=dtype)
    found = centred_distance(x, x, centre)
    exact = (x.double()[:, None] - x.double()).square().sum(-1)
    length = (x - centre).double().norm(dim=1)
    bound = centred_error(width, dtype) * (length[:, None] + length).square()
    assert bool(((found.double() - exact).abs() <= 2 * bound).all())
    assert centred_error(width, torch.float32) < 2e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_rows_have_distance_zero(dtype, device):
    x = make_features(41, 77, dtype=dtype, device=device, distinct=9)
    found = centred_distance(x, x, x[3])
    same = torch.arange(41) % 9
    assert bool((found[(same[:, None] == same).to(device)] == 0).all())
    assert bool((found >= 0).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_depend_on_the_two_rows_alone(dtype):
    x = make_features(61, 150, dtype=dtype, seed=1)
    y = make_features(70, 150, dtype=dtype, seed=2)
    whole = centred_distance(x, y, x[0])
    for begin, end in ((0, 1), (5, 18), (12, 61)):
        assert torch.equal(centred_distance(x[begin:end], y, x[0]), whole[begin:end])
        assert torch.equal(centred_distance(x, y[begin:end], x[0]), whole[:, begin:end])
    assert torch.equal(centred_distance(y, x, x[0]), whole.T)
    strided = x.T.contiguous().T
    assert torch.equal(centred_distance(strided, y, x[0]), whole)
    for number in (1, 2):
        with limit_threads(number):
            assert torch.equal(centred_distance(x, y, x[0]), whole)
    for name in INSTRUCTION_SETS if HAS_EXTENSION else ():
        with limit_instruction_set(name):
            assert torch.equal(centred_distance(x, y, x[0]), whole)


def test_writes_where_it_is_told():
    x, y = make_features(4, 6, seed=1), make_features(5, 6, seed=2)
    out = torch.full((6, 5), -1.0)
    found = centred_distance(x, y, x[0], out=out[1:5])
    assert found.data_ptr() == out[1].data_ptr()
    assert bool((out[[0, 5]] == -1).all())
    assert torch.equal(out[1:5], centred_distance(x, y, x[0]))


@pytest.mark.parametrize("shape", [(3, 7, 5), (0, 4, 2), (4, 0, 2)], ids=str)
def test_registration(shape, device):
    rows, columns, width = shape
    x = make_features(rows, width, device=device)
    y = make_features(columns, width, device=device)
    out = x.new_empty((rows, columns))
    for centre in (x.new_zeros(width), None):
        torch.library.opcheck(centred_distance_op, (x, y, centre, out))


def test_error_messages():
    x, y = make_features(3, 4), make_features(5, 4)
    with pytest.raises(TypeError, match=r"x must be float32 or float64, got torch\.float16"):
        centred_distance(x.half(), y.half(), x[0].half())
    with pytest.raises(TypeError, match=r"y must be float32, got torch\.float64"):
        centred_distance(x, y.double(), x[0])
    with pytest.raises(ValueError, match=r"y must have shape \(M, 4\), got \(5, 3\)"):
        centred_distance(x, y[:, :3], x[0])
    with pytest.raises(ValueError, match=r"centre must have shape \(4,\), got \(3,\)"):
        centred_distance(x, y, x[0, :3])
    with pytest.raises(ValueError, match=r"out must have shape \(3, 5\), got \(5, 3\)"):
        centred_distance(x, y, x[0], out=torch.empty(5, 3))
    with pytest.raises(ValueError, match="out must be contiguous, got strides"):
        centred_distance(x, y, x[0], out=torch.empty(5, 3).T)
    with pytest.raises(RuntimeError, match="y must not require a gradient"):
        centred_distance(x, y.requires_grad_(), x[0])


def test_kernel_rejects_what_would_leave_memory():
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    x, y = make_features(3, 4), make_features(5, 4)
    with pytest.raises(RuntimeError, match="out must have size 5 in dimension 1, got 4"):
        centred_distance_op(x, y, x[0], torch.empty(3, 4))
    with pytest.raises(RuntimeError, match="centre must have size 4 in dimension 0, got 3"):
        centred_distance_op(x, y, x[0, :3], torch.empty(3, 5))
    with pytest.raises(RuntimeError, match="out must be contiguous"):
        centred_distance_op(x, y, None, torch.empty(5, 3).T)
