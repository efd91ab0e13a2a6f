"""Providers that are called once, allowances, and what is asked of time and memory."""

import importlib
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
CPU = torch.device("cpu")
# Long enough that a sample is one call.
_work = partial(time.sleep, 0.03)


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        names = ("timing", "memory", "results_file", "cases.case")
        yield [importlib.import_module(name) for name in names]
    finally:
        sys.path.pop(0)


def _measured(timing, *providers, rounds=2):
    comparison = timing.Comparison(providers, CPU)
    comparison.first_outputs()
    comparison.warm_up(timing.Budget(seconds=0.0))
    for _ in range(rounds):
        comparison.round()
    return comparison


def test_a_provider_may_be_called_once(modules):
    timing = modules[0]
    calls = []
    slow = timing.Provider("slow", "peer", lambda: calls.append(_work()), once=True)
    comparison = _measured(timing, timing.Provider("fused", "fused", _work), slow)
    found = comparison.summary(slow, comparison.fused[0], "host")
    assert len(calls) == 1 and found["calls"] == 1 and found["rounds"] == 2
    # Sleeping takes no time of the processor, which counts where it is less.
    assert found["milliseconds"] == found["first_call_milliseconds"] < 30
    assert "calls" not in comparison.summary(*comparison.fused * 2, "host")


def test_memory_of_a_single_call_is_not_poisoned(modules):
    timing = modules[0]
    seen = []

    def note():
        seen.append(torch.are_deterministic_algorithms_enabled())
        _work()

    _measured(
        timing, timing.Provider("fused", "fused", note),
        timing.Provider("slow", "peer", note, once=True), rounds=0,
    )  # fmt: skip
    assert seen[0] and not seen[-1]


def test_an_allowance_counts_as_time(modules):
    timing = modules[0]
    floor = timing.Provider("floor", "floor", _work, allowance=2.0)
    comparison = _measured(timing, timing.Provider("fused", "fused", _work), floor)
    found = comparison.summary(floor, comparison.fused[0], "host")
    assert found["milliseconds"] > 2030 and found["ratio"] > 2


def test_records_hold_what_is_asked_of_memory(modules, tmp_path, monkeypatch):
    timing, memory, results_file, case_module = modules
    case = case_module.Case(
        "g", "f", "a", "1", lambda device: None, devices=("cpu",), graphs=False, microseconds=5.0,
        memory=("fused", "peer"), megabytes=3.0, whole_megabytes=9.0,
    )  # fmt: skip
    monkeypatch.setattr(results_file, "GROUPS", {"g": (case,)})
    fused, peer = (timing.Provider(name, name, _work) for name in ("fused", "peer"))
    comparison = _measured(timing, fused, peer)
    file = results_file.ResultFile(tmp_path, "g", "cpu")
    peaks = {"fused": memory.Peak(2_000_000, 8_000_000), "peer": memory.Peak(6_000_000, 9_000_000)}
    file.add(case, comparison, peaks)
    own, other = file._records
    assert own["target_megabytes"] == 3.0 and own["memory_megabytes"] == 2.0
    assert own["whole_megabytes"] == 8.0 and own["target_whole_megabytes"] == 9.0
    assert own["target_microseconds"] == 5.0
    assert other["memory_ratio"] == 3.0 and "whole_megabytes" not in other
