"""Feature files that say how they were made, and the tables that say it again."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from vireid_fast.config import EvaluationConfig
from vireid_fast.data.feature_files import write_features
from vireid_fast.engine.evaluation_files import (
    evaluate_files,
    override_settings,
    processing_notes,
    read_feature_set,
    read_processing,
)
from vireid_fast.engine.tables import results_table
from vireid_fast.retrieval.evaluation import evaluate
from vireid_fast.retrieval.results import combine

OPTIONS = {"mode": None, "shots": None, "permutations": None, "metric": None, "rerank": None}


@pytest.fixture
def write(tmp_path):
    """Write a feature file of two modalities and return its path."""

    def save(name, seed=0, **metadata):
        rows = np.arange(60)
        arrays = {
            "features": np.random.default_rng(seed).standard_normal((60, 4)),
            "person_ids": rows % 9, "camera_ids": rows // 10 + 1, "modality": rows // 9 % 2,
            "roles": rows // 18 % 2,
        }  # fmt: skip
        write_features(tmp_path / name, arrays, metadata)
        return tmp_path / name

    return save


def printed(results):
    console = Console(file=io.StringIO(), width=200)
    console.print(results_table(results))
    return console.file.getvalue()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_notes_come_back(write, suffix):
    notes = processing_notes({"flip": "concatenated", "L2": "each part"}, 7)
    path = write(f"a{suffix}", **notes, method="csdn", split="test")
    assert read_processing(path) == ({"flip": "concatenated", "L2": "each part"}, 7)
    assert read_processing(write(f"b{suffix}", method="csdn", split="test")) == ({}, None)


def test_two_files_add_up_unless_they_contradict(write):
    query = write("q.npz", **processing_notes({"flip": "none"}))
    gallery = write("g.npz", **processing_notes({"L2": "whole"}, 2))
    assert read_processing(query, gallery) == ({"flip": "none", "L2": "whole"}, 2)
    other = write("h.npz", **processing_notes({"flip": "mean"}))
    match = r"h\.npz: metadata 'processing\.flip' must be 'none' as in .*q\.npz, got 'mean'"
    with pytest.raises(ValueError, match=match):
        read_processing(query, other)
    with pytest.raises(ValueError, match="metadata 'data_split' must be a whole number, got 'x'"):
        read_processing(write("x.npz", data_split="x"))


def test_both_directions_unless_one_is_named(write):
    path = write("all.npz", **processing_notes({"flip": "none"}, 4))
    results = evaluate_files(None, None, path, protocol="regdb/agw", **OPTIONS)
    assert list(results) == ["infrared-visible", "visible-infrared"]
    features = read_feature_set(path)
    for mode, result in results.items():
        expected = evaluate(features, "regdb/agw", mode, processing={"flip": "none"}, split=4)
        assert result.to_json() == expected.to_json()
    one = evaluate_files(
        None, None, path, protocol="regdb/agw", **{**OPTIONS, "mode": "visible-infrared"}
    )
    assert one["plain"].to_json() == results["visible-infrared"].to_json()
    reranked = {**OPTIONS, "rerank": (4, 2, 0.3), "mode": "all"}
    (name,) = evaluate_files(None, None, write("b.npz"), protocol="market1501", **reranked)
    assert name == "reranked"


def test_options_that_two_files_do_not_take(write):
    pair = (write("q.npz"), write("g.npz"), None)
    for option, value in (("mode", "all"), ("shots", 1)):
        match = f"--{option} must be left out with --query and --gallery, got {value}"
        with pytest.raises(ValueError, match=match):
            evaluate_files(*pair, protocol="bupt/full", **{**OPTIONS, option: value})


def test_options_override_a_run():
    own = EvaluationConfig(protocol="sysu/agw", mode="indoor", shots=10)
    assert override_settings(own, None, None, None) == ("sysu/agw", "indoor", 10)
    assert override_settings(own, "sysu/official", None, 1) == ("sysu/official", "indoor", 1)
    assert override_settings(own, None, "all", None) == ("sysu/agw", "all", 10)
    assert override_settings(own, "regdb/agw", None, None) == ("regdb/agw", None, None)


def test_each_direction_is_printed_with_its_conditions(write):
    path = write("all.npz", **processing_notes({"flip": "[concatenated]"}, 4))
    lines = printed(evaluate_files(None, None, path, protocol="regdb/agw", **OPTIONS)).splitlines()
    for mode, queries in (("infrared-visible", 27), ("visible-infrared", 33)):
        assert (
            f"regdb/agw, mode {mode}, split 4 of 10, 1 trial, {queries} of {queries} queries "
            f"valid, gallery {60 - queries}, dot distance, in %"
        ) in lines
    # Brackets are no markup.
    assert lines.count("features: flip [concatenated]") == 2
    assert lines.count("re-ranking: none") == 2


def test_what_is_not_known_is_said(write):
    features = read_feature_set(write("all.npz"))
    plain = evaluate(features, "regdb/agw", "infrared-visible")
    text = printed({"plain": plain})
    assert "split unknown of 10" in text and "features: processing not stated" in text
    executed = evaluate(features, "llcm/official-code", "visible-infrared")
    assert "mode visible-infrared (as executed: the drawn images query), 1-shot" in printed(
        {"plain": executed}
    )


def test_plain_and_reranked_share_a_table(write):
    features = read_feature_set(write("all.npz"))
    plain, reranked = (
        evaluate(features, "bupt/full", "visible-infrared", rerank=parameters)
        for parameters in (None, (4, 2, 0.3))
    )
    text = printed({"plain": plain, "reranked": reranked})
    assert text.count("bupt/full") == 1 and "re-ranking: as each row says" in text
    assert "reranked (4, 2, 0.3)" in text
    assert "re-ranking: (4, 2, 0.3)" in printed({"reranked": reranked})


def test_a_mean_over_splits_names_them(write):
    features = read_feature_set(write("all.npz"))
    runs = [
        evaluate(features, "regdb/mpanet", "infrared-visible", split=split) for split in (2, 5, 9)
    ]
    text = printed({"plain": combine(runs)})
    assert "3 runs, splits 2, 5, 9 of 10, 3 trials, 27 of 27 queries valid, gallery 33" in text
    assert "± over trials" in text
    # Where galleries differ from trial to trial, the least and the most are named.
    fewer = replace(runs[1], trials=(replace(runs[1].trials[0], valid_queries=3, gallery_size=9),))
    text = printed({"plain": combine([runs[0], fewer])})
    assert "3 to 27 of 27 queries valid, gallery 9 to 33" in text
