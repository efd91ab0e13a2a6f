"""Ranks of right items: against naive loops, and against the metrics that follow from them."""

from dataclasses import replace

import pytest
import torch

from vireid_fast.retrieval.evaluation import evaluate_settings
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.protocols import PROTOCOLS, default_modes
from vireid_fast.retrieval.results import RerankParameters
from vireid_fast.retrieval.right_ranks import right_ranks
from vireid_fast.retrieval.searches import Search, Setting, Trial, plan_searches

DROPS = {"none": "regdb/mpanet", "same_group": "sysu/agw", "same_group_and_id": "llcm/paper"}


def _set(count: int, seed: int, *, ties: bool = False) -> FeatureSet:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 5, generator=generator)
    if ties:
        features = features.round()
    return FeatureSet(
        features,
        torch.randint(0, 6, (count,), generator=generator),
        torch.randint(1, 5, (count,), generator=generator),
    )


def _naive(rules, query: FeatureSet, gallery: FeatureSet) -> list[list[int]]:
    found = []
    for q in range(len(query)):
        distances = [
            (float((query.features[q].double() - row.double()).norm()), g)
            for g, row in enumerate(gallery.features)
        ]
        groups = [
            int(rules.groups(side.camera_ids)[n])
            for side, n in [(query, q), *((gallery, g) for g in range(len(gallery)))]
        ]
        same = [int(p) == int(query.person_ids[q]) for p in gallery.person_ids]
        kept = []
        for distance, g in sorted(distances):
            dropped = rules.drop != "none" and groups[g + 1] == groups[0]
            if rules.drop == "same_group_and_id":
                dropped = dropped and same[g]
            if not dropped:
                kept.append((distance, g))
        found.append([rank for rank, (_, g) in enumerate(kept) if same[g]])
    return found


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_equal_naive_loops(drop, ties, dtype):
    rules = replace(PROTOCOLS[DROPS[drop]], metric="euclidean")
    query, gallery = _set(13, 1, ties=ties), _set(29, 2, ties=ties)
    query, gallery = (replace(s, features=s.features.to(dtype)) for s in (query, gallery))
    (found,) = right_ranks(rules, query, gallery, [Trial(Setting("", 1))], "euclidean", None)
    expected = _naive(rules, query, gallery)
    assert found.crow.tolist() == [0, *torch.tensor([len(r) for r in expected]).cumsum(0).tolist()]
    assert found.ranks.tolist() == [rank for ranks in expected for rank in ranks]
    for q, ranks in enumerate(expected):
        precision = [(n + 1) / (rank + 1) for n, rank in enumerate(ranks)]
        own = found.average_precision()[q]
        assert own.isnan() if not ranks else abs(own - sum(precision) / len(ranks)) < 1e-12
        assert int(found.first()[q]) == (ranks[0] if ranks else -1)


@pytest.mark.parametrize("name", ["sysu/agw", "llcm/official-code", "llcm/paper", "regdb/agw"])
@pytest.mark.parametrize("rerank", [None, RerankParameters(4, 2, 0.3)])
def test_precisions_of_every_trial_average_to_its_metrics(name, rerank):
    rules, generator = PROTOCOLS[name], torch.Generator().manual_seed(4)
    cameras = torch.randint(1, 7, (90,), generator=generator)
    modality = (torch.isin(cameras, torch.tensor([3, 6]))).long()
    features = FeatureSet(
        torch.randn(90, 6, generator=generator),
        torch.randint(0, 7, (90,), generator=generator),
        cameras,
        modality,
    )
    settings = [Setting(mode, 1) for mode in default_modes(name)]
    results = evaluate_settings(features, name, default_modes(name), rerank=rerank)
    trials = {setting: [] for setting in settings}
    for search in plan_searches(features, rules, settings, None):
        sides = features.ascending(search.query), features.ascending(search.gallery)
        found = right_ranks(rules, *sides, search.trials, rules.metric, rerank)
        for trial, ranks in zip(search.trials, found, strict=True):
            trials[trial.setting].append(ranks)
    for setting, result in results.items():
        assert len(trials[setting]) == len(result.trials)
        for ranks, metrics in zip(trials[setting], result.trials, strict=True):
            precision = ranks.average_precision()
            assert int((ranks.counts > 0).sum()) == metrics.valid_queries
            assert abs(float(precision[ranks.counts > 0].mean()) - metrics.mAP) < 1e-12


def test_blocks_and_chosen_queries_change_nothing(monkeypatch):
    rules = PROTOCOLS["llcm/paper"]
    query, gallery = _set(11, 5), _set(17, 6)
    trials = [Trial(Setting("", 1)), Trial(Setting("", 1), query=torch.tensor([7, 2]))]
    whole, chosen = right_ranks(rules, query, gallery, trials, "dot", None)
    monkeypatch.setattr("vireid_fast.retrieval.right_ranks.WORKSPACE", 1)
    (rows, _) = right_ranks(rules, query, gallery, trials, "dot", None)
    assert rows.ranks.tolist() == whole.ranks.tolist()
    start = whole.crow.tolist()
    expected = [whole.ranks[start[q] : start[q + 1]].tolist() for q in (7, 2)]
    assert [part.tolist() for part in chosen.ranks.split(chosen.counts.tolist())] == expected


def test_no_query_and_no_right_item():
    rules, gallery = PROTOCOLS["regdb/mpanet"], _set(5, 8)
    query = replace(_set(2, 9), person_ids=torch.tensor([90, 91]))
    search = Search(torch.arange(2), torch.arange(5), [Trial(Setting("", 1))])
    (found,) = right_ranks(rules, query, gallery, search.trials, "euclidean", None)
    assert found.ranks.tolist() == [] and found.crow.tolist() == [0, 0, 0]
    assert found.average_precision().isnan().all() and found.first().tolist() == [-1, -1]
