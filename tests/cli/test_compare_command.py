"""`vireid compare`: verdict, exit code, and errors in one line."""

from pathlib import Path

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "scene_regions"
SEEDS = [RESULTS / f"csdn-seed{seed}.json" for seed in (1, 2, 3)]


def test_a_result_inside(vireid):
    printed = vireid.ok("compare", RESULTS / "clip4vi_reid-seed1.json", *SEEDS).out
    assert "expected, from 3 models" in printed and "all inside" in printed


def test_a_result_outside_is_named(vireid):
    done = vireid("compare", RESULTS / "warm-seed1.json", *SEEDS)
    assert done.code == 1 and "outside: plain R1, plain R5" in done.out


def test_one_model_is_no_range(vireid):
    error = vireid.error("compare", SEEDS[0], SEEDS[1])
    assert error.startswith("error: compare: EXPECTED must be at least two results, got 1.")
