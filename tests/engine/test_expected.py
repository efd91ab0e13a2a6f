"""A result is compared with the range that other models of the same training give."""

import json
import math

import pytest

from vireid_fast.engine.expected import compare_files
from vireid_fast.retrieval.metrics import METRIC_NAMES


def _result(r1, **changes):
    values = dict.fromkeys(METRIC_NAMES, 0.5) | {"R1": r1}
    rules = {"protocol": "sysu/agw", "mode": "all", "shots": 1, "metric": "dot", "rerank": None}
    return values | rules | {"runs": 1, "valid_queries": 9, "gallery_size": 9} | changes


@pytest.fixture
def write(tmp_path):
    def make(name, value):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return make


@pytest.fixture
def three(write):
    return [write(f"{n}.json", {"plain": _result(0.6 + 0.01 * n)}) for n in range(3)]


def test_the_range_is_the_prediction_interval(write, three):
    found = compare_files(write("own.json", {"plain": _result(0.65)}), three)
    r1 = found[0]
    # Quantile of Student's t with 2 degrees of freedom, from tables; the deviation is 0.01.
    reach = 4.3027 * 0.01 * math.sqrt(1 + 1 / 3)
    assert (r1.result, r1.metric, r1.models) == ("plain", "R1", 3)
    assert r1.low == pytest.approx(0.61 - reach, abs=1e-6)
    assert r1.high == pytest.approx(0.61 + reach, abs=1e-6)
    assert r1.inside and [each.metric for each in found] == list(METRIC_NAMES)
    far = compare_files(write("own.json", {"plain": _result(0.67)}), three)
    assert [each.inside for each in far] == [False] + [True] * 5


def test_a_mean_of_runs_has_a_narrower_range(write, three):
    own = write("own.json", {"plain": _result(0.61, runs=9)})
    r1 = compare_files(own, three)[0]
    assert r1.high - 0.61 == pytest.approx(4.3027 * 0.01 * math.sqrt(1 / 9 + 1 / 3), abs=1e-6)


def test_files_of_every_kind(write, three, tmp_path):
    again = _result(0.7, rerank={"k1": 20, "k2": 6, "lambda_value": 0.3})
    written = [
        write("flat.json", _result(0.6) | {"reranked": again}),
        write("bench.json", {"study": "x", "results": {"plain": _result(0.61), "reranked": again}}),
    ]
    write("run/results.json", {"plain": _result(0.62), "reranked": again})
    found = compare_files(tmp_path / "run", written)
    assert {each.result for each in found} == {"plain", "reranked"} and len(found) == 12
    assert {each.result for each in compare_files(tmp_path / "run", [*written, *three])} == {
        "plain"
    }


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"plain": _result(0.6, mode="indoor")}, "one in common with all of EXPECTED.*indoor"),
        ({"plain": _result(0.6, valid_queries=8)}, "plain.valid_queries must be 9 as in"),
        ({"plain": _result(60.0)}, "plain.R1 must be a fraction, got 60.0"),
        ({"plain": _result(float("nan"))}, "plain.R1 must be a fraction, got nan"),
        ({"plain": _result(0.6, runs=0)}, "plain.runs must be a positive number"),
        ({}, "must hold results of an evaluation"),
        ([1], "must hold results of an evaluation"),
        ("[" * 100_000, "must be JSON"),
        ("\x00\xff", "must be JSON"),
    ],
)
def test_what_cannot_be_compared(write, three, own, message):
    with pytest.raises(ValueError, match=message):
        compare_files(write("own.json", own), three)


def test_a_range_needs_two_models_that_are_there(write, three, tmp_path):
    with pytest.raises(ValueError, match="EXPECTED must be at least two results, got 1"):
        compare_files(three[0], three[1:2])
    with pytest.raises(ValueError, match="file must exist"):
        compare_files(tmp_path / "nothing", three)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        compare_files(three[0], three, confidence=1.0)
    joint = write("joint.json", {"plain": _result(0.6, runs=2)})
    with pytest.raises(ValueError, match=r"joint.json: plain.runs must be 1, got 2"):
        compare_files(three[0], [three[1], joint])
