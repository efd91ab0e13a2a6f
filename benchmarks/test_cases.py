"""One benchmark a case: the gate, then rounds that interleave all providers."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from cases import Case
from memory import peak_memory
from results_file import ResultFile
from timing import Budget, Comparison

_QUICK = Budget(seconds=0.3, least_rounds=1, most_rounds=3)
# A GPU machine is there for ten minutes.
_GPU_SECONDS = 1.5


def _budget(case: Case, device: torch.device, quick: bool) -> Budget:
    if quick:
        return _QUICK
    if device.type == "cuda":
        return dataclasses.replace(case.budget, seconds=_GPU_SECONDS)
    return case.budget


@pytest.fixture(autouse=True)
def stream(device: torch.device) -> Iterator[None]:
    """A backward runs on the stream of its forward, and the default one cannot be captured."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device)):
        yield


# The slowest peers take a minute a call.
@pytest.mark.timeout(1800)
def test_case(
    case: Case,
    device: torch.device,
    benchmark,
    results: ResultFile | None,
    pytestconfig: pytest.Config,
):
    record = results is not None and benchmark.enabled
    if record:
        results.forget(case)
    workload = case.build(device)
    comparison = Comparison(workload.providers, device, case.graphs)
    outputs = comparison.first_outputs()
    workload.check(outputs)
    quick = pytestconfig.getoption("--quick")
    rounds = comparison.warm_up(_budget(case, device, quick))
    benchmark.pedantic(comparison.round, rounds=rounds, iterations=1)
    for clock in comparison.clocks:
        for provider, fused in comparison.pairs:
            found = comparison.summary(provider, fused, clock)
            told = (
                f"{found['ratio']:.2f} ({found['p20']:.2f}-{found['p80']:.2f})"
                if "ratio" in found
                else found["absent"]
            )
            benchmark.extra_info[f"{provider.name} / {fused.name} {clock}"] = told
    measured = {
        name: peak_memory(case, name, workload, device) for name in case.memory if name in outputs
    }
    if record:
        results.add(case, comparison, measured)
