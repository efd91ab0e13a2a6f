"""Filtered neighbour searches return, bit for bit, what measuring every pair returns."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vireid_fast._extension import (
    HAS_EXTENSION,
    INSTRUCTION_SETS,
    SEARCH_PLANS,
    limit_instruction_set,
    search_plan,
)
from vireid_fast.ops import knn
from vireid_fast.testing import limit_threads, make_features

pytestmark = pytest.mark.skipif(not HAS_EXTENSION, reason="the CPU extension is not built")

FILTERS = [name for name in SEARCH_PLANS if name != "measure_all"]


def uniform(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, width, generator=torch.Generator().manual_seed(seed))


def adversarial_codes(rows: int, width: int) -> Tensor:
    """Vectors between the steps of their 8-bit codes, all their errors in one direction.

    Rows of one person share their codes, so that coarse distances call them equal while they lie
    two full radii apart, and rows of other persons can be nearer than these. With each vector comes
    its negative: the mean is 0 and the step of the codes 1.
    """
    generator = torch.Generator().manual_seed(1)
    persons = rows // 16 + 1
    codes = torch.randint(-3, 4, (persons, width), generator=generator).float()
    direction = torch.where(torch.rand(width, generator=generator) < 0.5, -0.499, 0.499)
    away = torch.tensor([-1.0, 1.0]).repeat(4)[None, :, None]
    x = codes[:, None] + away * direction
    x[:, :, 0] = 127
    return torch.stack([x, -x], 2).reshape(-1, width)[: rows // 2 * 2]


def near_ties(rows: int, width: int) -> Tensor:
    """Distances that differ in their last bits only."""
    x = make_features(rows, width, seed=5)
    x[1::2] = x[::2][: rows // 2] * (1 + torch.finfo(torch.float32).eps)
    return x


def outliers(rows: int, width: int) -> Tensor:
    x = make_features(rows, width, seed=6)
    x[::50] *= 1e6
    x[7] *= 1e-12
    x[:, 3] += torch.where(torch.arange(rows) % 3 == 0, 1e4, 0.0)
    return x


def specks(rows: int, width: int) -> Tensor:
    """Vectors and their negatives, so that the centre is 0, and some that are all but 0."""
    half = make_features(rows // 2, width, seed=7)
    x = torch.stack([half, -half], 1).reshape(-1, width)
    for place, size in enumerate((0.0, 1e-45, 1e-42, 1e-38, 1e-33, 1e-20)):
        x[40 * place : 40 * place + 4] *= size
    return x


DATA: dict[str, Callable[[int, int], Tensor]] = {
    "isotropic": lambda rows, width: make_features(rows, width, seed=1),
    "clustered": lambda rows, width: (
        make_features(rows // 20 + 1, width, seed=2).repeat_interleave(20, 0)[:rows]
        + 0.3 * make_features(rows, width, seed=3)
    ),
    "far from the origin": lambda rows, width: 1000 + make_features(rows, width, seed=4),
    "positive": lambda rows, width: uniform(rows, width),
    "small integers": lambda rows, width: uniform(rows, width).mul(3).floor(),
    "duplicates": lambda rows, width: make_features(rows, width, distinct=40),
    "one point but one": lambda rows, width: torch.eye(rows, width)[[0, *[1] * (rows - 1)]],
    "zero vectors": lambda rows, width: (
        make_features(rows, width) * (torch.arange(rows) % 3 > 0)[:, None]
    ),
    "between the codes": adversarial_codes,
    "near ties": near_ties,
    "outliers": outliers,
    "specks": specks,
    "huge": lambda rows, width: make_features(rows, width, seed=8) * 2.0**50,
    "tiny": lambda rows, width: make_features(rows, width, seed=9) * 2.0**-38,
    "subnormal": lambda rows, width: make_features(rows, width, seed=9) * 2.0**-140,
}


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for part, want in zip(found, expected, strict=True):
        assert torch.equal(part, want)


@pytest.mark.parametrize("plan", FILTERS)
@pytest.mark.parametrize("kind", DATA)
def test_every_plan_returns_the_same_bits(kind, plan):
    x = DATA[kind](641, 67)
    query = x[3:100].clone()
    with search_plan("measure_all"):
        expected, expected_apart = knn(x, x, 24), knn(query, x, 24)
    with search_plan(plan):
        assert_same(knn(x, x, 24), expected)
        assert_same(knn(query, x, 24), expected_apart)


@pytest.mark.parametrize("plan", ["float32", "int16", "int8"])
@pytest.mark.parametrize("shape", [(40, 3, 40), (193, 33, 32), (577, 512, 21), (1153, 64, 140)])
def test_sizes_beside_blocks_panels_and_groups(shape, plan):
    rows, width, k = shape
    x = DATA["clustered"](rows, width)
    with search_plan("measure_all"):
        expected, expected_apart = knn(x, x, k), knn(x[:33].clone(), x, k)
    with search_plan(plan):
        assert_same(knn(x, x, k), expected)
        assert_same(knn(x[:33].clone(), x, k), expected_apart)


@pytest.mark.parametrize("plan", ["float32", "int16", "int8"])
def test_independent_of_threads_and_instruction_set(plan):
    x = DATA["clustered"](801, 96)
    query = x[:450] + 0.1
    with search_plan("measure_all"):
        expected, expected_apart = knn(x, x, 21), knn(query, x, 21)
    with search_plan(plan):
        for number in (1, 2, 3):
            with limit_threads(number):
                assert_same(knn(x, x, 21), expected)
                assert_same(knn(query, x, 21), expected_apart)
        for name in INSTRUCTION_SETS:
            with limit_instruction_set(name):
                assert_same(knn(x, x, 21), expected)
                assert_same(knn(query, x, 21), expected_apart)


def test_the_order_of_the_items_changes_their_numbers_only():
    x = DATA["clustered"](700, 80)
    order = torch.randperm(700, generator=torch.Generator().manual_seed(2))
    plain, shuffled = knn(x, x, 21), knn(x[order].contiguous(), x[order].contiguous(), 21)
    assert torch.equal(plain.distances[order], shuffled.distances)
    assert torch.equal(plain.indices[order], order[shuffled.indices])
    assert torch.equal(plain.farthest[order], shuffled.farthest)


@pytest.mark.parametrize("kind", ["isotropic", "between the codes", "outliers", "positive"])
def test_coarse_distances_stay_within_their_radii(kind):
    """The inequality that the filter rests on, with the codes of csrc/cpu/coarse_items.cpp."""
    x = DATA[kind](160, 67).double()
    vectors = x - x.float().mean(0).double()
    scale = vectors.abs().amax(1, keepdim=True) / 127
    coarse = (vectors / scale).round() * scale
    radius = (vectors - coarse).norm(dim=1)
    error = (torch.cdist(x, x) - torch.cdist(coarse, coarse)).abs()
    limit = radius[:, None] + radius
    assert (error <= limit * (1 + 1e-9) + 1e-9 * x.abs().max()).all()
    if kind == "between the codes":
        assert (error / limit).max() > 0.8  # the data is as bad as the bound allows


def test_unknown_plan():
    with pytest.raises(ValueError, match=r"search_plan: name must be one of .*got 'fp8'"), (
        search_plan("fp8")
    ):
        pass
