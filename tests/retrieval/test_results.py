"""What a result carries, and means over the runs of several splits."""

import json
import statistics
from dataclasses import replace

import pytest
import torch

from vireid_fast.retrieval.evaluation import evaluate
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.metrics import METRIC_NAMES
from vireid_fast.retrieval.results import RerankParameters, combine


def make_result(seed, split=None, protocol="regdb/agw", **options):
    generator = torch.Generator().manual_seed(seed)
    person_ids = torch.arange(40) % 7
    features = FeatureSet(
        torch.randn(40, 3, generator=generator), person_ids, torch.arange(40) % 4,
        modality=torch.arange(40) // 20,
    )  # fmt: skip
    return evaluate(features, protocol, "infrared-visible", split=split, **options)


def test_ten_models_are_ten_trials():
    results = [make_result(split, split) for split in range(1, 11)]
    combined = combine(results)
    assert combined.splits == tuple(range(1, 11)) and combined.runs == 10
    for name in METRIC_NAMES:
        values = [getattr(result.trials[0], name) for result in results]
        assert combined.mean[name] == pytest.approx(statistics.fmean(values), abs=1e-15)
        assert combined.std[name] == pytest.approx(statistics.pstdev(values), abs=1e-15)
    content = json.loads(json.dumps(combined.to_json()))
    assert content["splits"] == list(range(1, 11)) and content["runs"] == 10
    assert content["trials"] == len(content["per_trial"]) == 10
    assert combine([combine(results[:4]), combine(results[4:])]) == combined


def test_seeds_of_one_split_put_their_trials_together():
    results = [make_result(seed, protocol="llcm/paper") for seed in range(3)]
    combined = combine(results)
    assert len(combined.trials) == 30 and combined.runs == 3 and combined.splits == ()
    expected = statistics.fmean(trial.mAP for result in results for trial in result.trials)
    assert combined.mean["mAP"] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"protocol": "regdb/mpanet"}, "have one protocol, got 'regdb/agw' and 'regdb/mpanet'"),
        ({"mode": "visible-infrared"}, "have one mode, got 'infrared-visible' and 'visible-"),
        ({"metric": "cosine"}, "have one metric, got 'dot' and 'cosine'"),
        ({"shots": 2}, "have one shots, got None and 2"),
        ({"rerank": RerankParameters(20, 6, 0.3)}, r"have one rerank, got None and Rerank.*20"),
        ({"processing": {"flip": "none"}}, r"have one processing, got {} and {'flip': 'none'}"),
        ({"splits": (1,)}, r"splits must be distinct, got \[1\] more than once"),
        ({"splits": ()}, "know their splits, since regdb/agw has a model for each, got one wit"),
    ],
)
def test_results_that_do_not_belong_together(changes, match):
    first, second = make_result(1, 1), replace(make_result(2, 2), **changes)
    with pytest.raises(ValueError, match=match):
        combine([first, second])


def test_no_results():
    with pytest.raises(ValueError, match="results must hold at least one result, got 0"):
        combine([])


def test_result_carries_how_it_came_about():
    made = {"flip": "concatenated", "L2": "each part"}
    result = make_result(0, 3, processing=made, rerank=(4, 2, 0.3))
    made["flip"] = "changed later"
    content = json.loads(json.dumps(result.to_json()))
    shown = ("protocol", "mode", "shots", "metric", "processing", "rerank", "runs", "splits",
             "trials", "valid_queries", "total_queries", "gallery_size")  # fmt: skip
    assert {key: content[key] for key in shown} == {
        "protocol": "regdb/agw", "mode": "infrared-visible", "shots": None, "metric": "dot",
        "processing": {"flip": "concatenated", "L2": "each part"},
        "rerank": {"k1": 4, "k2": 2, "lambda_value": 0.3}, "runs": 1, "splits": [3], "trials": 1,
        "valid_queries": 20, "total_queries": 20, "gallery_size": 20,
    }  # fmt: skip
