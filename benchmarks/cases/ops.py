"""Retrieval ops: distances, nearest neighbours, re-ranking, ranks."""

from functools import partial
from typing import Any

import numpy as np
import torch
from baselines.retrieval import dense_rerank, matmul_top_k, rank_statistics_loop
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload, peers_of
from vireid_fast import knn, pairwise_distance, rank_statistics, rerank
from vireid_fast.testing import assert_error_budget, make_features

# Rows of a large result that the gate holds against float64, spread over the whole.
_GATE_ROWS = 32


def _distance(rows: int, columns: int, width: int, naive: bool, device: torch.device) -> Workload:
    x = make_features(rows, width, device=device, seed=1)
    y = make_features(columns, width, device=device, seed=2)
    differences = "donot_use_mm_for_euclid_dist"
    providers = [
        Provider("fused", "fused", lambda: pairwise_distance(x, y)),
        Provider("torch.cdist", "peer", lambda: torch.cdist(x, y)),
        Provider(
            "torch.cdist, by differences", "peer",
            lambda: torch.cdist(x, y, compute_mode=differences),
        ),
        # 2 rows columns width FLOP, without which no distance of this size is known.
        Provider("GEMM of the same size", "floor", lambda: x @ y.T),
    ]  # fmt: skip
    if naive:
        run = partial(pairwise_distance, x, y, backend="reference")
        providers.append(Provider("reference", "reference", run))

    def check(outputs: dict[str, Tensor]) -> None:
        chosen = _gate_rows(rows, device)
        reference = pairwise_distance(x[chosen], y, backend="reference")
        exact = pairwise_distance(x[chosen].double(), y.double(), backend="reference")
        assert_error_budget(outputs["fused"][chosen], reference, exact)
        for name in peers_of(providers, outputs):
            # The GEMM form of a peer cancels; this only makes sure that it does the same work.
            torch.testing.assert_close(outputs[name][chosen].double(), exact, rtol=1e-4, atol=0)

    return Workload(tuple(providers), check)


def _neighbours(items: int, width: int, k: int, naive: bool, device: torch.device) -> Workload:
    x = make_features(items, width, device=device, seed=1)
    providers = [
        Provider("fused", "fused", lambda: knn(x, x, k)),
        Provider("torch mm + topk", "peer", lambda: matmul_top_k(x, x, k)),
        # 2 items^2 width FLOP; a search that used the symmetry would need half of them.
        Provider("GEMM of the same size", "floor", lambda: x @ x.T),
    ]
    if naive:
        run = partial(knn, x, x, k, backend="reference")
        providers.append(Provider("reference", "reference", run))

    def check(outputs: dict[str, Any]) -> None:
        chosen = _gate_rows(items, device)
        reference = knn(x[chosen], x, k, backend="reference")
        wide = x.double()
        exact = knn(wide[chosen], wide, k, backend="reference").distances
        every = pairwise_distance(
            wide[chosen], wide, metric="squared_euclidean", backend="reference"
        )
        assert_error_budget(outputs["fused"].distances[chosen], reference.distances, exact)
        for name in ("fused", *peers_of(providers, outputs)):
            distances, indices = outputs[name][:2]
            # Rounding may swap near neighbours: what counts is how near the found ones are.
            found = every.gather(1, indices[chosen])
            torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-9)
            torch.testing.assert_close(distances[chosen].double(), exact, rtol=1e-4, atol=1e-2)

    return Workload(tuple(providers), check)


def _rerank(num_query: int, num_gallery: int, width: int, device: torch.device) -> Workload:
    x = _identity_features(num_query + num_gallery, width).to(device)
    query, gallery = x[:num_query], x[num_query:]
    query_array, gallery_array = query.cpu().numpy(), gallery.cpu().numpy()
    dense = "dense numpy (same algorithm)"
    providers = (
        Provider("fused", "fused", lambda: rerank(query, gallery)),
        Provider(dense, "peer", lambda: dense_rerank(query_array, gallery_array, 20, 6, 0.3)),
        # Every distance between all items enters the lists or the row maxima.
        Provider("GEMM of all items", "floor", lambda: x @ x.T),
    )

    def check(outputs: dict[str, Any]) -> None:
        error = (outputs["fused"].cpu() - torch.from_numpy(outputs[dense])).abs().amax(1)
        # Where rounding decides the end of a list, the sets and with them whole rows differ.
        flipped = int((error > 1e-5).sum())
        assert flipped <= 0.005 * num_query, f"{flipped} of {num_query} rows differ"

    return Workload(providers, check)


def _ranks(
    num_query: int, num_gallery: int, identities: int, drop_group: bool, device: torch.device
) -> Workload:
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(num_query, num_gallery, generator=generator).to(device)
    query_ids = torch.arange(num_query, device=device) % identities
    gallery_ids = torch.arange(num_gallery, device=device) % identities
    # Two query cameras and four gallery cameras, of which one stands in a query's place.
    query_groups = torch.arange(num_query, device=device) % 2
    gallery_groups = torch.arange(num_gallery, device=device) // identities % 4 + 1
    inputs = (distances, query_ids, gallery_ids, query_groups, gallery_groups)
    arrays = [part.cpu().numpy() for part in inputs]
    run = partial(rank_statistics, *inputs, drop="same_group" if drop_group else "none")
    loop = "numpy argsort per query"
    providers = (
        Provider("fused", "fused", run),
        Provider(loop, "peer", lambda: rank_statistics_loop(*arrays, drop_group)),
        Provider("reference", "reference", partial(run, backend="reference")),
        # Each distance has to be read once: num_query num_gallery 4 bytes.
        Provider("one read of the distances", "floor", distances.sum),
    )

    def check(outputs: dict[str, Any]) -> None:
        for name in (loop, "reference"):
            for found, expected in zip(outputs["fused"], outputs[name], strict=True):
                np.testing.assert_allclose(found.cpu(), torch.as_tensor(expected).cpu(), rtol=1e-12)

    return Workload(providers, check)


def _identity_features(items: int, width: int) -> Tensor:
    """Features of 20 images an identity, so that reciprocal sets have the size of real ones."""
    identities = max(1, items // 20)
    centres = make_features(identities, width, seed=1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(identities, (items,), generator=generator)
    return centres[ids] + make_features(items, width, seed=2)


def _gate_rows(rows: int, device: torch.device) -> Tensor:
    return torch.linspace(0, rows - 1, min(rows, _GATE_ROWS), device=device).long()


_case = partial(Case, "ops", graphs=False, budget=Budget(seconds=4.0))

# The reference of a distance takes seconds at full size; a case of its own times it on fewer rows.
CASES = (
    _case(
        "pairwise_distance", "SYSU", "3803 x 301, D 2048",
        partial(_distance, 3803, 301, 2048, False),
    ),
    _case(
        "pairwise_distance", "RegDB", "2060 x 2060, D 512",
        partial(_distance, 2060, 2060, 512, False),
    ),
    _case(
        "pairwise_distance", "128 queries of SYSU", "128 x 301, D 2048",
        partial(_distance, 128, 301, 2048, True),
    ),
    _case("knn", "5000 items", "N 5000, D 512, k 21", partial(_neighbours, 5000, 512, 21, False)),
    _case("knn", "500 items", "N 500, D 512, k 21", partial(_neighbours, 500, 512, 21, True)),
    # Its peer takes seconds, and a GPU machine is there for minutes.
    _case(
        "rerank", "5000 items", "1000 x 4000, D 512", partial(_rerank, 1000, 4000, 512),
        devices=("cpu",),
    ),
    _case("rerank", "1000 items", "200 x 800, D 512", partial(_rerank, 200, 800, 512)),
    _case(
        "rank_statistics", "SYSU", "3803 x 301, 96 identities",
        partial(_ranks, 3803, 301, 96, True),
    ),
    _case(
        "rank_statistics", "RegDB", "2060 x 2060, 206 identities",
        partial(_ranks, 2060, 2060, 206, False),
    ),
    # Worst case: the kernel counts against the positives, and a fifth of the gallery is positive.
    _case(
        "rank_statistics", "many positives", "2060 x 2060, 5 identities",
        partial(_ranks, 2060, 2060, 5, False),
    ),
)  # fmt: skip
