"""The benchmark cases: inputs at real sizes, providers, correctness gate and floor of each.

A case is one entry of `CASES`. Sizes: SYSU-MM01 all-search single-shot has 3803 queries and 301
gallery images, RegDB 2060 and 2060; CLIP features have 2048 (RN50 map) or 512 (projected) values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from baselines import cat_and_add, dense_rerank, matmul_top_k, rank_statistics_loop
from timing import Provider
from torch import Tensor

from vireid_fast import (
    knn,
    pairwise_distance,
    prompt_injection,
    rank_statistics,
    rerank,
)
from vireid_fast.testing import assert_error_budget, make_features, make_prompt_inputs

# Rows of a large result that the gate holds against float64, spread over the whole.
_GATE_ROWS = 32


@dataclass(frozen=True)
class Workload:
    """Providers on one set of inputs, and the gate that their first outputs must pass.

    Attributes:
        providers: The fused one first.
        check: Takes the outputs by provider name; raises AssertionError where one is wrong.
    """

    providers: tuple[Provider, ...]
    check: Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Case:
    """One line of the benchmark.

    Attributes:
        op: Public function.
        name: What the case stands for.
        shape: Sizes of the inputs, as text.
        build: Makes the inputs on a device.
        dtype: Name of the dtype of the inputs.
    """

    op: str
    name: str
    shape: str
    build: Callable[[torch.device], Workload]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"


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
        for name in _peers(providers):
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
        for name in ("fused", *_peers(providers)):
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


def _prompts(prompts: int, classes: int, backward: bool, device: torch.device) -> Workload:
    length, width, tokens, start = 12, 512, 4, 5  # "A photo of a X X X X person."
    inputs = make_prompt_inputs(prompts, length, width, classes, tokens, start, device=device)
    grad = make_features(prompts * length, width, device=device).view(prompts, length, width)
    inputs.context.requires_grad_(backward)

    def provide(inject: Callable[..., Tensor]) -> Callable[[], Sequence[Tensor]]:
        def run() -> Sequence[Tensor]:
            out = inject(*inputs)
            return (out, *torch.autograd.grad(out, inputs.context, grad)) if backward else (out,)

        return run

    # Forward: writes the prompts, reads the context of each, the template and the positions.
    # Backward: reads the context's window of the gradient, writes the gradient of all contexts.
    window = prompts * tokens * width
    moved = prompts * length * width + window + 2 * length * width
    moved += window + classes * tokens * width if backward else 0
    source, target = grad, torch.empty_like(grad)
    providers = (
        Provider("fused", "fused", provide(prompt_injection)),
        Provider("torch cat + add", "peer", provide(cat_and_add)),
        Provider("reference", "reference", provide(partial(prompt_injection, backend="reference"))),
        # A copy of the prompts reads and writes 2 x numel; the op moves another number of bytes.
        Provider(
            "bytes moved at the copy rate", "floor", lambda: target.copy_(source),
            scale=moved / (2 * grad.numel()),
        ),
    )  # fmt: skip

    def check(outputs: dict[str, Sequence[Tensor]]) -> None:
        wide = inputs._replace(
            template=inputs.template.double(), positions=inputs.positions.double(),
            context=inputs.context.detach().double().requires_grad_(backward),
        )  # fmt: skip
        exact = [prompt_injection(*wide, backend="reference")]
        if backward:
            exact += torch.autograd.grad(exact[0], wide.context, grad.double())
        for name in ("fused", "torch cat + add"):
            parts = zip(outputs[name], outputs["reference"], exact, strict=True)
            for found, reference, value in parts:
                assert_error_budget(found.detach(), reference.detach(), value.detach())

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


def _peers(providers: Sequence[Provider]) -> list[str]:
    return [provider.name for provider in providers if provider.role in ("peer", "reference")]


# The reference of a distance takes seconds at full size; a case of its own times it on fewer rows.
CASES = (
    Case(
        "pairwise_distance", "SYSU", "3803 x 301, D 2048",
        partial(_distance, 3803, 301, 2048, False),
    ),
    Case(
        "pairwise_distance", "RegDB", "2060 x 2060, D 512",
        partial(_distance, 2060, 2060, 512, False),
    ),
    Case(
        "pairwise_distance", "128 queries of SYSU", "128 x 301, D 2048",
        partial(_distance, 128, 301, 2048, True),
    ),
    Case("knn", "5000 items", "N 5000, D 512, k 21", partial(_neighbours, 5000, 512, 21, False)),
    Case("knn", "500 items", "N 500, D 512, k 21", partial(_neighbours, 500, 512, 21, True)),
    Case("rerank", "5000 items", "1000 x 4000, D 512", partial(_rerank, 1000, 4000, 512)),
    Case("rerank", "1000 items", "200 x 800, D 512", partial(_rerank, 200, 800, 512)),
    Case(
        "rank_statistics", "SYSU", "3803 x 301, 96 identities",
        partial(_ranks, 3803, 301, 96, True),
    ),
    Case(
        "rank_statistics", "RegDB", "2060 x 2060, 206 identities",
        partial(_ranks, 2060, 2060, 206, False),
    ),
    # Worst case: the kernel counts against the positives, and a fifth of the gallery is positive.
    Case(
        "rank_statistics", "many positives", "2060 x 2060, 5 identities",
        partial(_ranks, 2060, 2060, 5, False),
    ),
    *(
        Case(
            "prompt_injection", f"{prompts} prompts, {'forward + backward' if back else 'forward'}",
            f"{prompts} x 12 x 512 of 395 classes", partial(_prompts, prompts, 395, back),
        )
        for prompts in (64, 395)
        for back in (False, True)
    ),
)  # fmt: skip
