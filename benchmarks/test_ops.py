"""One benchmark a case: the gate, then rounds that interleave all providers."""

import pytest
from cases import CASES, Case
from timing import Comparison


@pytest.mark.parametrize("case", CASES, ids=str)
def test_op(case: Case, device, benchmark, results):
    workload = case.build(device)
    comparison = Comparison(workload.providers, device)
    if benchmark.enabled:
        results.forget(case)
    workload.check(comparison.first_outputs())
    rounds = comparison.warm_up()
    benchmark.pedantic(comparison.round, rounds=rounds, iterations=1)
    for provider in workload.providers:
        summary = comparison.summary(provider)
        spread = f"{summary['ratio']:.2f} ({summary['p20']:.2f}-{summary['p80']:.2f})"
        benchmark.extra_info[provider.name] = spread
    if benchmark.enabled:
        results.add(case, comparison)
