"""Ranked lists: which queries, in which order, right and wrong by the protocol."""

import numpy as np
import pytest
import torch

from vireid_fast.engine.report.judged import Judged, ranks_by_result, setting_of
from vireid_fast.engine.report.ranked import choose_queries, main_result, ranked_queries
from vireid_fast.engine.report.shelf import row_shelf
from vireid_fast.retrieval.evaluation import evaluate_modes, evaluate_pair
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.protocols import PROTOCOLS, default_modes
from vireid_fast.retrieval.rerank import rerank as rerank_features

PARAMETERS = (5, 2, 0.3)


def _set(count: int, seed: int) -> FeatureSet:
    generator = torch.Generator().manual_seed(seed)
    cameras = torch.randint(1, 7, (count,), generator=generator)
    people = torch.randint(0, 8, (count,), generator=generator)
    infrared = torch.isin(cameras, torch.tensor([3, 6])).long()
    rows = torch.randn(count, 6, generator=generator) + people[:, None]
    return FeatureSet(rows, people, cameras, infrared, None, infrared)


def _ranked(judged, results, count=2):
    first = {name: trials[0] for name, trials in ranks_by_result(judged, results)}
    shelf = row_shelf(judged.query, "q"), row_shelf(judged.gallery, "g")
    return ranked_queries(judged, results, first, shelf, count)


@pytest.mark.parametrize("name", ["sysu/agw", "llcm/official-code", "vcm/mitml", "regdb/agw"])
def test_lists_equal_naive_ones(name):
    features, rules = _set(120, 2), PROTOCOLS[name]
    modes = default_modes(name)
    results = {}
    for kind, parameters in (("", None), (", reranked", PARAMETERS)):
        found = evaluate_modes(features, name, modes, rerank=parameters)
        results |= {f"{mode}{kind}": result for mode, result in found.items()}
    judged = Judged(rules, features, features)
    ranked, partners = _ranked(judged, results)
    main = modes[0]
    trial = judged.first_trial(setting_of(results[main]))
    query, gallery = features.subset(trial.query), features.subset(trial.gallery)
    groups = rules.groups(query.camera_ids), rules.groups(gallery.camera_ids)
    plain = -query.features.double() @ gallery.features.double().T
    again = rerank_features(query.features, gallery.features, *PARAMETERS)
    place = {f"q, row {row}": n for n, row in enumerate(trial.query.tolist())}
    assert [own.kind for own in ranked] == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2
    for own in ranked:
        assert own.query.modality == "infrared" and set(own.lists) == {main, f"{main}, reranked"}
        q = place[own.query.name]
        for result, distances in ((main, plain), (f"{main}, reranked", again)):
            kept = []
            for g in distances[q].argsort(stable=True).tolist():
                same = int(gallery.person_ids[g]) == own.query.person_id
                near = rules.drop != "none" and groups[0][q] == groups[1][g]
                if not near or (rules.drop == "same_group_and_id" and not same):
                    kept.append((g, same))
            hits = [rank for rank, (_, same) in enumerate(kept, start=1) if same]
            precision = np.mean([n / rank for n, rank in enumerate(hits, start=1)])
            assert own.precision[result] == pytest.approx(precision)
            assert own.first_right[result] == hits[0]
            shown = own.lists[result]
            assert [m.rank for m in shown] == list(range(1, len(shown) + 1))
            assert [m.right for m in shown] == [same for _, same in kept[:10]]
            rows = [int(trial.gallery[g]) for g, _ in kept[:10]]
            assert [m.item.name for m in shown] == [f"g, row {row}" for row in rows]
            values = [float(distances[q, g]) for g, _ in kept[:10]]
            assert [m.distance for m in shown] == pytest.approx(values)
    assert [own.kind for own in partners] == ["best", "median", "worst"]
    for own in partners:
        assert features.person_ids[own.query] == features.person_ids[own.gallery]


def test_a_pair_of_files_is_ranked():
    query, gallery = _set(9, 3), _set(20, 4)
    results = {"plain": evaluate_pair(query, gallery, "market1501")}
    ranked, _ = _ranked(Judged(PROTOCOLS["market1501"], query, gallery), results)
    assert {own.query.name.split(",")[0] for own in ranked} == {"q"}
    assert len({own.query.name for own in ranked}) == len(ranked)


def test_best_median_and_worst():
    precision = np.array([0.5, 1.0, np.nan, 0.1, 0.6, 1.0, 0.2, 0.4, 0.7, 0.3])
    chosen = choose_queries(precision, np.arange(10), 2)
    assert chosen == [
        ("best", 1), ("best", 5), ("median", 0), ("median", 4), ("worst", 3), ("worst", 6),
    ]  # fmt: skip


def test_queries_of_a_kind_are_of_different_people_where_there_are_enough():
    precision = np.array([1.0, 1.0, 1.0, 0.9, 0.5, 0.4, 0.3, 0.2, 0.1])
    people = np.array([7, 7, 7, 8, 1, 2, 3, 3, 3])
    best = [row for kind, row in choose_queries(precision, people, 3) if kind == "best"]
    assert best == [0, 3, 4]
    alone = choose_queries(precision, np.zeros(9), 3)
    assert [row for kind, row in alone if kind == "best"] == [0, 1, 2]


@pytest.mark.parametrize(("valid", "kinds"), [(0, []), (1, ["best"]), (2, ["best", "worst"]),
                                              (3, ["best", "median", "worst"]),
                                              (5, ["best", "median", "worst"])])  # fmt: skip
def test_few_queries_are_shown_once(valid, kinds):
    chosen = choose_queries(np.linspace(1, 0.1, valid), np.arange(valid), 3)
    assert [kind for kind, _ in chosen] == kinds
    assert len({row for _, row in chosen}) == len(chosen)


def test_the_main_result_has_infrared_queries_and_no_reranking():
    features = _set(80, 5)
    found = evaluate_modes(features, "regdb/agw")
    names = {"visible-infrared": found["visible-infrared"],
             "infrared-visible": found["infrared-visible"]}  # fmt: skip
    assert main_result(names) == "infrared-visible"
    again = evaluate_modes(features, "sysu/agw", ["all"], rerank=PARAMETERS)["all"]
    plain = evaluate_modes(features, "sysu/agw", ["all"])["all"]
    assert main_result({"reranked": again, "plain": plain}) == "plain"
    assert main_result({"reranked": again}) == "reranked"
