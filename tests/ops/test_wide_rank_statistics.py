"""Float64 ranks of float32 features: bitwise those of converted features, whatever the data."""

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
    ranking_distances,
    row_lengths,
    wide_rank_statistics,
)
from vireid_fast.ops.rank_statistics import WIDE_METRICS
from vireid_fast.ops.rank_statistics.op import (
    DROP_RULES,
    ranking_distances_op,
    wide_rank_statistics_op,
)
from vireid_fast.testing import limit_threads

QUERIES, GALLERY, WIDTH = 19, 601, 70


def clustered(generator: torch.Generator, ids: Tensor) -> Tensor:
    centres = torch.randn(40, WIDTH, generator=generator)
    return centres[ids] + torch.randn(len(ids), WIDTH, generator=generator)


def isotropic(generator: torch.Generator, ids: Tensor) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(len(ids), WIDTH, generator=generator))


def tied(generator: torch.Generator, ids: Tensor) -> Tensor:
    return torch.randint(-1, 2, (len(ids), WIDTH), generator=generator).float()


def nearly_tied(generator: torch.Generator, ids: Tensor) -> Tensor:
    """All rows one row and a little, so that float32 sums are equal or in the wrong order."""
    row = torch.randn(1, WIDTH, generator=generator)
    return row + 2e-7 * torch.randn(len(ids), WIDTH, generator=generator)


def cancelling(generator: torch.Generator, ids: Tensor) -> Tensor:
    """Large terms of alternating sign, of which dot products keep the last bits only."""
    x = torch.randn(len(ids), WIDTH, generator=generator)
    return x + 1e4 * (torch.arange(WIDTH) % 2 * 2 - 1) * (1 - 2 * (torch.arange(WIDTH) % 4 // 2))


def outlier(generator: torch.Generator, ids: Tensor) -> Tensor:
    """One row that makes the bound of all useless."""
    x = clustered(generator, ids)
    x[len(ids) // 2] *= 1e9
    return x


KINDS = {
    "clustered": clustered, "isotropic": isotropic, "tied": tied, "nearly tied": nearly_tied,
    "cancelling": cancelling, "outlier": outlier,
    "huge": lambda *a: 1e19 * isotropic(*a), "small": lambda *a: 1e-22 * isotropic(*a),
    "subnormal": lambda *a: 1e-39 * clustered(*a), "zero": lambda *a: 0 * isotropic(*a),
}  # fmt: skip


def make_inputs(kind: str, num_identities: int = 40) -> tuple[tuple[Tensor, ...], ...]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(num_identities, (QUERIES + GALLERY,), generator=generator)
    groups = torch.randint(3, (QUERIES + GALLERY,), generator=generator)
    features = KINDS[kind](generator, ids)
    return tuple(part.split([QUERIES, GALLERY]) for part in (features, ids, groups))


def assert_same(found: RankStatistics, expected: RankStatistics) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.nan_to_num(-5), b.nan_to_num(-5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", WIDE_METRICS)
@pytest.mark.parametrize("num_identities", [2, 40])
def test_equals_converted_features_bit_for_bit(kind, metric, num_identities):
    (query, gallery), ids, groups = make_inputs(kind, num_identities)
    wide = query.double(), gallery.double()
    exact = pairwise_distance(*wide, metric=metric)
    distances = ranking_distances(query, gallery, *ids, metric=metric)
    own = ids[0][:, None] == ids[1]
    assert torch.equal(distances[own], exact[own])
    for drop in DROP_RULES:
        expected = feature_rank_statistics(*wide, *ids, *groups, metric=metric, drop=drop)
        found = wide_rank_statistics(query, gallery, *ids, *groups, metric=metric, drop=drop)
        assert_same(found, expected)
        assert_same(rank_statistics(distances, *ids, *groups, drop=drop), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_bound_holds(kind):
    """The differences that csrc/cpu/filtered_distances.h allows, without its factor of two."""
    (query, gallery), _, _ = make_inputs(kind)
    lengths = query.double().norm(dim=1)[:, None], gallery.double().norm(dim=1)
    roundings = math.ceil(WIDTH / 16) + 8
    gamma = roundings * 2**-24 / (1 - roundings * 2**-24)
    for metric in ("squared_euclidean", "dot"):
        exact = pairwise_distance(query.double(), gallery.double(), metric=metric)
        coarse = pairwise_distance(query, gallery, metric=metric).double()
        if not coarse.isfinite().all():
            assert float(sum(part.max() for part in lengths)) ** 2 > 1e37
            continue
        scale = lengths[0] * lengths[1] if metric == "dot" else exact
        assert ((coarse - exact).abs() <= gamma * scale + WIDTH * 2.0**-125).all()
    if min(part.min() for part in lengths) < 1e-10 or max(part.max() for part in lengths) > 1e15:
        return  # float64 does these
    inverse = [(1 / part).float() for part in lengths]
    coarse = -pairwise_distance(query, gallery, metric="dot") * (inverse[0] * inverse[1])
    exact = 1 - pairwise_distance(query.double(), gallery.double(), metric="cosine")
    roundings += 1
    gamma = roundings * 2**-24 / (1 - roundings * 2**-24)
    assert ((coarse.double() - exact).abs() <= gamma + WIDTH * 2.0**-125 * 1e20).all()


@pytest.mark.parametrize("metric", WIDE_METRICS)
def test_most_entries_stay_coarse_where_identities_are_apart(metric):
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    (query, gallery), ids, _ = make_inputs("clustered")
    exact = pairwise_distance(query.double(), gallery.double(), metric=metric)
    distances = ranking_distances(query, gallery, *ids, metric=metric)
    assert (distances == exact).double().mean() < 0.1


@pytest.mark.parametrize("metric", WIDE_METRICS)
def test_bits_depend_on_nothing_but_the_input(metric):
    if not HAS_EXTENSION:
        pytest.skip("the CPU extension is not built")
    (query, gallery), ids, _ = make_inputs("isotropic")
    index, lengths = GalleryIndex.build(ids[1]), row_lengths(gallery)
    expected = ranking_distances(query, gallery, *ids, metric=metric)
    for threads in (1, 2):
        for name in INSTRUCTION_SETS:
            with limit_threads(threads), limit_instruction_set(name):
                found = ranking_distances(query, gallery, *ids, metric=metric)
            assert torch.equal(found, expected)
    blocks = [
        ranking_distances(
            query[b], gallery, ids[0][b], index, metric=metric, gallery_lengths=lengths
        )
        for b in (slice(0, 1), slice(1, 19))
    ]
    assert torch.equal(torch.cat(blocks), expected)
    strided = torch.stack([gallery, gallery], 2)[..., 0]
    assert torch.equal(ranking_distances(query, strided, *ids, metric=metric), expected)


@pytest.mark.parametrize("metric", WIDE_METRICS)
@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (1, 1, 1), (3, 4, 0)], ids=str)
def test_sizes(metric, shape, device):
    num_query, num_gallery, width = shape
    query, gallery = (torch.randn(n, width, device=device) for n in (num_query, num_gallery))
    ids = [torch.arange(n, device=device) for n in (num_query, num_gallery)]
    found = wide_rank_statistics(query, gallery, *ids, metric=metric)
    expected = wide_rank_statistics(query, gallery, *ids, metric=metric, backend="reference")
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    assert ranking_distances(query, gallery, *ids, metric=metric).shape == (num_query, num_gallery)


def test_registration(device):
    ids = torch.zeros(4, dtype=torch.int64, device=device), torch.zeros(7, dtype=torch.int64)
    index = GalleryIndex.build(ids[1].to(device)).identities
    lists = (index.of, index.start, index.items)
    query, gallery = torch.randn(4, 5, device=device), torch.randn(7, 5, device=device)
    lengths = row_lengths(query), row_lengths(gallery)
    for code in (0, 3):
        labels = (ids[0], ids[0], *lists, *lists)
        inputs = (query, gallery, *labels, *lengths, code, 0)
        torch.library.opcheck(wide_rank_statistics_op, inputs)
        inputs = (query, gallery, ids[0], *lists[1:], *lengths, code)
        torch.library.opcheck(ranking_distances_op, inputs)


def test_error_messages():
    query, gallery = torch.randn(2, 3), torch.randn(4, 3)
    ids = torch.zeros(2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    for compute in (wide_rank_statistics, ranking_distances):
        with pytest.raises(ValueError, match=r"metric must be one of .*, got 'l1'"):
            compute(query, gallery, *ids, metric="l1")
        with pytest.raises(TypeError, match="query must be float32"):
            compute(query.double(), gallery.double(), *ids)
        with pytest.raises(ValueError, match=r"gallery must have shape \(G, 3\)"):
            compute(query, gallery[:, 1:], *ids)
        with pytest.raises(RuntimeError, match="query must not require a gradient"):
            compute(query.clone().requires_grad_(), gallery, *ids)
    gallery[3, 1] = torch.inf
    query[1, 1] = torch.inf
    with pytest.raises(ValueError, match="distances must hold no NaN, got nan in row 8"):
        wide_rank_statistics(query, gallery, *ids, first_row=7)
    if HAS_EXTENSION:
        index = GalleryIndex.build(ids[1]).identities
        with pytest.raises(RuntimeError, match="the gallery index must list items in range"):
            ranking_distances_op(
                query, gallery, ids[0] + 5, index.start, index.items, row_lengths(query),
                row_lengths(gallery), 0,
            )  # fmt: skip
    with pytest.raises(ValueError, match=r"gallery_lengths must have shape \(4,\), got \(2,\)"):
        ranking_distances(query, gallery, *ids, gallery_lengths=row_lengths(query))
