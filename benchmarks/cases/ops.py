"""Distances and ranks; what is made of them has groups of its own."""

from functools import partial
from typing import Any

import numpy as np
import torch
from baselines.evaluators import rank_statistics_loop
from timing import Budget, Provider
from torch import Tensor

from cases.case import Case, Workload, peers_of
from vireid_fast import pairwise_distance, rank_statistics
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
