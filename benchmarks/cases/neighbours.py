"""Exact k = 21 nearest neighbours of unit rows, by squared Euclidean distance.

faiss' flat indices are filled beforehand. Inner products order unit rows as distances do, which is
the quickest that faiss has.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from baselines.neighbours import faiss_index, numpy_top_k, scipy_top_k, torch_top_k
from retrieval_inputs import (
    MARKET,
    SYSU,
    VCM,
    all_pairs_product,
    chosen_rows,
    clustered,
    isotropic,
)
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload, peers_of
from vireid_fast import knn, pairwise_distance
from vireid_fast.testing import assert_error_budget

_K = 21
_INNER, _SQUARED = "faiss IndexFlatIP", "faiss IndexFlatL2"
_PRODUCT = "full N x N torch.mm"
_NO_FAISS = "faiss is not installed; pip install faiss-cpu"
# Every provider of more items takes long enough for one call.
_FEW = 20_000


def _within(
    features: Callable[[int, int], Tensor], items: int, width: int, faiss_target: float | None,
    plain: tuple[str, ...], device: torch.device,
) -> Workload:  # fmt: skip
    """The neighbours of all items among themselves."""
    x = features(items, width).to(device)
    floor = Provider(_PRODUCT, "floor", partial(all_pairs_product, x), once=items > _FEW)
    return _workload(x, x, faiss_target, plain, floor, items > _FEW)


def _between(
    features: Callable[[int, int], Tensor], size: tuple[int, int], width: int,
    faiss_target: float | None, device: torch.device,
) -> Workload:  # fmt: skip
    """The neighbours of queries in a gallery."""
    query, gallery = features(sum(size), width).to(device).split(size)
    floor = Provider("GEMM of the same size", "floor", partial(torch.mm, query, gallery.T))
    return _workload(query, gallery, faiss_target, ("torch",), floor, once=False)


def _workload(
    query: Tensor, database: Tensor, faiss_target: float | None, plain: tuple[str, ...],
    floor: Provider, once: bool,
) -> Workload:  # fmt: skip
    on_cpu = query.device.type == "cpu"
    arrays = [side.cpu().numpy() for side in (query, database)] if on_cpu else []
    providers = [Provider("fused", "fused", partial(knn, query, database, _K))]
    if on_cpu:
        providers.append(_faiss(_INNER, *arrays, faiss_target, once))
    # Of many items one peer is enough: each takes minutes.
    if on_cpu and not once:
        providers.append(_faiss(_SQUARED, *arrays, None, once))
    known = {
        "torch": ("torch mm + topk", partial(torch_top_k, query, database, _K), False),
        "numpy": ("numpy matmul + argpartition", partial(numpy_top_k, *arrays, _K), True),
        "scipy": ("scipy cdist + argpartition", partial(scipy_top_k, *arrays, _K), True),
    }  # fmt: skip
    for key in plain:
        name, run, slow = known[key]
        providers.append(Provider(name, "peer", run, once=once or slow))
    if len(database) <= 1000:
        run = partial(knn, query, database, _K, backend="reference")
        providers.append(Provider("reference", "reference", run))
    providers.append(floor)
    return Workload(tuple(providers), partial(_check, query, database, providers))


def _faiss(kind: str, query: Any, database: Any, target: float | None, once: bool) -> Provider:
    if find_spec("faiss") is None:
        return Provider(kind, "peer", None, target=target, absent=_NO_FAISS)
    index = faiss_index(database, kind.split()[1])
    return Provider(kind, "peer", lambda: index.search(query, _K), target=target, once=once)


def _check(
    query: Tensor, database: Tensor, providers: list[Provider], outputs: dict[str, Any]
) -> None:
    chosen = chosen_rows(len(query), query.device)
    reference = knn(query[chosen], database, _K, backend="reference")
    wide = query[chosen].double()
    every = pairwise_distance(
        wide, database.double(), metric="squared_euclidean", backend="reference"
    )
    exact = every.sort(1).values[:, :_K]
    assert_error_budget(outputs["fused"].distances[chosen], reference.distances, exact)
    for name in ("fused", *peers_of(providers, outputs)):
        indices = torch.as_tensor(outputs[name][1]).to(query.device)[chosen]
        # Rounding may swap near neighbours: what counts is how near the found ones are.
        found = every.gather(1, indices.long()).sort(1).values
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)


_KINDS = {"clustered": (clustered, 2.0), "isotropic": (isotropic, 1.0)}


def _case(
    items: int, width: int, kind: str, *, plain: tuple[str, ...] = ("torch",),
    memory: bool = False,
) -> Case:  # fmt: skip
    features, target = _KINDS[kind]
    return Case(
        "neighbours", "knn", f"{items} items, D {width}, {kind}", f"N {items}, D {width}, k {_K}",
        partial(_within, features, items, width, target, plain), devices=("cpu",), graphs=False,
        budget=Budget(seconds=12.0, least_rounds=3 if items <= _FEW else 1),
        memory=("fused",) if memory else (), slow=items > 5000,
    )  # fmt: skip


def _search(width: int, kind: str) -> Case:
    features, target = _KINDS[kind]
    return Case(
        "neighbours", "knn", f"Market-1501 queries in its gallery, D {width}, {kind}",
        f"{MARKET[0]} x {MARKET[1]}, D {width}, k {_K}",
        partial(_between, features, MARKET, width, target), devices=("cpu",), graphs=False,
        budget=Budget(seconds=12.0), slow=True,
    )  # fmt: skip


def _gpu_case(
    items: int, width: int, microseconds: float | None, megabytes: float | None = None
) -> Case:
    # The product of a million items takes 31 seconds in float32.
    seconds = Budget(seconds=12.0, least_rounds=1 if items > 200_000 else 3)
    plain = ("torch",) if items <= 200_000 else ()
    return Case(
        "neighbours", "knn", f"{items} items, D {width}", f"N {items}, D {width}, k {_K}",
        partial(_gpu, items, width, plain), devices=("cuda",), graphs=False, budget=seconds,
        microseconds=microseconds, whole_megabytes=megabytes, memory=("fused",),
    )  # fmt: skip


def _gpu(items: int, width: int, plain: tuple[str, ...], device: torch.device) -> Workload:
    x = clustered(items, width).to(device)
    half = x[: len(x) // 100].bfloat16()
    whole = x.bfloat16()
    # A hundredth of the rows, at the rate of tensor cores.
    floor = Provider("bfloat16 product of all pairs", "floor", lambda: half @ whole.T, scale=100)
    return _workload(x, x, None, plain, floor, once=False)


CASES = (
    *(
        _case(items, 512, kind, plain=plain)
        for items, plain in (
            (500, ("torch",)),
            (5000, ("torch", "numpy", "scipy")),
            (10_000, ("torch",)),
            (20_000, ("torch", "numpy")),
        )
        for kind in _KINDS
    ),
    *(_case(sum(size), 2048, "clustered") for size in (SYSU, VCM)),
    *(_case(sum(MARKET), width, kind) for width in (512, 2048) for kind in _KINDS),
    *(_case(100_000, 512, kind, plain=(), memory=True) for kind in _KINDS),
    *(_search(width, kind) for width in (512, 2048) for kind in _KINDS),
    _gpu_case(20_000, 512, None),
    _gpu_case(100_000, 2048, None),
    _gpu_case(1_000_000, 512, 4e6, 16_000),
)
