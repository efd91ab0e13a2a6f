"""k-reciprocal re-ranking from features to the Q x G distances: k1 20, k2 6, lambda 0.3.

The dense peer is the published algorithm in numpy; from some thousand items on it is called once.
The floor is the product of all items with all items in float32, which is less than what a plain
exact search computes; the targets ask for less time than that.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from baselines.reranking import dense_rerank
from retrieval_inputs import (
    MARKET,
    REGDB,
    SYSU,
    VCM,
    all_pairs_product,
    all_pairs_product_into,
    chosen_rows,
    clustered,
    isotropic,
)
from timing import Budget, Provider, Target
from torch import Tensor

from cases.case import Case, Workload
from vireid_fast import knn, rerank
from vireid_fast.retrieval import rerank_galleries, rerank_top_k

Features = Callable[[int, int], Tensor]
_DENSE = "dense numpy, as published"
_PRODUCT, _INTO = "full N x N torch.mm", "the same, into memory that is there"
_PARAMETERS = (20, 6, 0.3)
_SYSU_IDENTITIES = 96
_TRIALS = 10
# The dense peer needs 22 bytes for each pair of items.
_DENSE_BYTES = 22.5


def _matrix(
    size: tuple[int, int], width: int, features: Features, dense: Target, product: Target,
    once: bool, device: torch.device,
) -> Workload:  # fmt: skip
    """One gallery; `dense` and `product` are targets, `dense` 0 leaves that peer out."""
    items = features(sum(size), width).to(device)
    query, gallery = items[: size[0]], items[size[0] :]
    providers = [Provider("fused", "fused", partial(rerank, query, gallery, *_PARAMETERS))]
    if dense != 0:
        arrays = query.cpu().numpy(), gallery.cpu().numpy()
        run = partial(dense_rerank, *arrays, *_PARAMETERS)
        providers.append(Provider(_DENSE, "peer", run, target=dense, once=once))
    floor = partial(all_pairs_product, items)
    providers.append(Provider(_PRODUCT, "floor", floor, target=product))
    providers.append(Provider(_INTO, "floor", all_pairs_product_into(items)))

    def check(outputs: dict[str, Any]) -> None:
        found = outputs["fused"].cpu()
        if dense != 0:
            _assert_same(found, torch.from_numpy(outputs[_DENSE]))
        elif device.type == "cuda":
            _assert_same(found, rerank(query.cpu(), gallery.cpu(), *_PARAMETERS))
        assert found.shape == size and bool(torch.isfinite(found).all())

    return Workload(tuple(providers), check)


def _trials(device: torch.device) -> Workload:
    """The ten trials of SYSU-MM01, whose queries are the same."""
    num_query, num_gallery = SYSU
    pool = clustered(num_query + _TRIALS * num_gallery, 2048, identities=_SYSU_IDENTITIES)
    query, *galleries = pool.to(device).split([num_query, *[num_gallery] * _TRIALS])
    one_by_one = "ten calls"

    def each() -> list[Tensor]:
        return [rerank(query, gallery, *_PARAMETERS) for gallery in galleries]

    providers = (
        Provider("fused", "fused", partial(rerank_galleries, query, galleries, *_PARAMETERS)),
        Provider(one_by_one, "variant", each),
        Provider(
            "one trial", "floor", partial(rerank, query, galleries[0], *_PARAMETERS), target=0.5
        ),
    )

    def check(outputs: dict[str, Any]) -> None:
        for found, expected in zip(outputs["fused"], outputs[one_by_one], strict=True):
            assert torch.equal(found, expected)

    return Workload(providers, check)


def _lists(items: int, width: int, top: int, device: torch.device) -> Workload:
    """Lists instead of a matrix; a tenth of the items are queries."""
    features = clustered(items, width).to(device)
    query, gallery = features[: items // 10], features[items // 10 :]
    providers = (
        Provider("fused", "fused", partial(rerank_top_k, query, gallery, top, *_PARAMETERS)),
        Provider("exact neighbours alone", "floor", partial(knn, features, features, 21)),
    )

    def check(outputs: dict[str, Any]) -> None:
        distances, indices = outputs["fused"][:2]
        assert indices.shape == (len(query), top)
        assert bool((distances.diff(dim=1) >= 0).all()) and bool(torch.isfinite(distances).all())
        # Nearly all of the 25 items of a cluster find each other.
        identities = items // 25
        rows = chosen_rows(len(query), device)
        same = (indices[rows, :10] + len(query)) % identities == rows[:, None] % identities
        assert same.float().mean() > 0.9

    return Workload(providers, check)


def _assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 but where rounding decides the end of a neighbour list."""
    differing = ((found - expected).abs() > 1e-5).float().mean().item()
    assert differing <= 2e-3, f"{differing:.2%} of the distances differ by more than 1e-5"


def _case(
    name: str, size: tuple[int, int], width: int, *, dense: Target = None, product: Target = None,
    features: Features = clustered, once: bool = False, memory: bool = False,
    megabytes: float | None = None, devices: tuple[str, ...] = ("cpu",),
    microseconds: float | None = None,
) -> Case:  # fmt: skip
    measured = ("fused", *((_DENSE,) if dense != 0 else ())) if memory else ()
    return Case(
        "rerank", "rerank", name, f"{size[0]} x {size[1]}, D {width}",
        partial(_matrix, size, width, features, dense, product, once), devices=devices,
        graphs=False, budget=Budget(seconds=10.0, least_rounds=5), slow=once, memory=measured,
        megabytes=megabytes, microseconds=microseconds,
    )  # fmt: skip


def _parts(items: int) -> tuple[int, int]:
    return items // 5, items - items // 5


_ON_GPU = {"dense": 0, "devices": ("cuda",)}
CASES = (
    _case(
        "Market-1501, D 512", MARKET, 512, dense=60.0, product=1 / 0.9, once=True, memory=True,
        megabytes=600,
    ),
    _case(
        "Market-1501, D 2048", MARKET, 2048, dense=20.0, product=1 / 0.75, once=True, memory=True,
        megabytes=600,
    ),
    _case("Market-1501, D 512, isotropic", MARKET, 512, dense=0, features=isotropic),
    _case("Market-1501, D 2048, isotropic", MARKET, 2048, dense=0, features=isotropic),
    _case("20000 items", _parts(20_000), 512, dense=50.0, once=True),
    _case("10000 items", _parts(10_000), 512, dense=40.0, once=True, memory=True),
    _case("5000 items", _parts(5000), 512, dense=30.0, once=True, memory=True),
    _case("1000 items", _parts(1000), 512),
    _case(
        "SYSU", SYSU, 2048, dense=20.0, once=True,
        features=partial(clustered, identities=_SYSU_IDENTITIES),
    ),
    _case("RegDB", REGDB, 2048, once=True),
    _case("HITSZ-VCM", VCM, 2048, once=True),
    Case(
        "rerank", "rerank_galleries", "SYSU, ten trials", "3803 x 10 of 301, D 2048", _trials,
        graphs=False, budget=Budget(seconds=15.0, least_rounds=5), slow=True,
    ),
    _case("20000 items, D 512", _parts(20_000), 512, microseconds=5e3, **_ON_GPU),
    _case("Market-1501, D 2048, on a GPU", MARKET, 2048, microseconds=12e3, **_ON_GPU),
    Case(
        "rerank", "rerank_top_k", "100000 items", "10000 x 90000, D 2048, 100 each",
        partial(_lists, 100_000, 2048, 100), devices=("cuda",), graphs=False, microseconds=150e3,
        memory=("fused",),
    ),
)  # fmt: skip
