"""CMC and precision-recall curves: against naive loops, and against the results they belong to."""

import numpy as np
import pytest
import torch

from vireid_fast.engine.report.curves import cmc_curve, precision_recall_curve
from vireid_fast.engine.report.judged import Judged, ranks_by_result
from vireid_fast.retrieval.evaluation import evaluate_modes, evaluate_pair
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.protocols import PROTOCOLS, default_modes
from vireid_fast.retrieval.right_ranks import RightRanks


def _features(name: str, count: int = 160) -> FeatureSet:
    """A set that every protocol can judge: cameras of SYSU-MM01, both roles."""
    generator = torch.Generator().manual_seed(5)
    cameras = torch.randint(1, 7, (count,), generator=generator)
    people = torch.randint(0, 9, (count,), generator=generator)
    infrared = torch.isin(cameras, torch.tensor([3, 6])).long()
    return FeatureSet(
        torch.randn(count, 6, generator=generator) + people[:, None] % 3,
        people,
        cameras,
        infrared,
        None,
        infrared if name.startswith(("vcm", "market")) else torch.arange(count) % 2,
    )


def _permutations(features: FeatureSet) -> dict[tuple[int, int], np.ndarray]:
    """Ten orders of the images of each camera and identity."""
    generator = np.random.default_rng(1)
    found = {}
    for camera, person in set(
        zip(features.camera_ids.tolist(), features.person_ids.tolist(), strict=True)
    ):
        own = (features.camera_ids == camera) & (features.person_ids == person)
        orders = [1 + generator.permutation(int(own.sum())) for _ in range(10)]
        found[camera, person] = np.array(orders)
    return found


@pytest.mark.parametrize("rerank", [None, (5, 2, 0.3)])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_curves_agree_with_the_results_of_every_protocol(name, rerank):
    # bupt/official-bs64 wants more than 64 visible rows on each side.
    features = _features(name, 400 if name.startswith("bupt") else 160)
    permutations = _permutations(features) if PROTOCOLS[name].needs_permutations else None
    results = evaluate_modes(
        features, name, default_modes(name), permutations=permutations, rerank=rerank
    )
    judged = Judged(PROTOCOLS[name], features, features, permutations)
    ranks = dict(ranks_by_result(judged, results))
    for mode, result in results.items():
        cmc, mean = cmc_curve(mode, result), result.mean
        for rank in (1, 5, 10, 20):
            assert cmc.y[rank - 1] == pytest.approx(mean[f"R{rank}"], abs=1e-12)
        assert cmc.x.tolist() == list(range(1, len(cmc.x) + 1)) and 20 <= len(cmc.x) <= 50
        assert (np.diff(cmc.y) >= 0).all()
        curve = precision_recall_curve(mode, ranks[mode])
        assert curve.y[1:].mean() == pytest.approx(mean["mAP"], abs=1e-12)
        assert np.allclose(curve.x, np.linspace(0, 1, 101), atol=1e-12)


def test_precision_equals_a_naive_integral():
    lists = [[0, 3, 4], [2], [], [1, 2, 5, 9, 11, 12, 30]]
    crow = torch.tensor([0, *np.cumsum([len(ranks) for ranks in lists])])
    ranks = RightRanks(crow, torch.tensor([rank for own in lists for rank in own]))
    valid = [own for own in lists if own]

    def precision(own, recall):
        """At the first rank where the recall is reached."""
        hits = next(n for n in range(1, len(own) + 1) if n / len(own) >= recall)
        return hits / (own[hits - 1] + 1)

    curve = precision_recall_curve("plain", [ranks])
    assert curve.y[0] == pytest.approx(np.mean([1 / (own[0] + 1) for own in valid]))
    # The knots p / P of 1, 3 and 7 right items lie on a grid of 2100; middles miss them.
    places = (np.arange(2100) + 0.5) / 2100
    dense = np.mean([[precision(own, recall) for recall in places] for own in valid], axis=0)
    assert np.allclose(curve.y[1:], dense.reshape(100, 21).mean(axis=1), atol=1e-12)


def test_cmc_of_a_small_gallery_equals_naive_loops():
    query = FeatureSet(torch.eye(3), torch.tensor([1, 2, 7]), torch.full((3,), -1))
    rows = [[0.9, 0, 0], [0, 0.2, 0], [0.5, 0, 0], [0, 0.9, 0]]
    gallery = FeatureSet(torch.tensor(rows), torch.tensor([2, 2, 1, 3]), torch.full((4,), -1))
    result = evaluate_pair(query, gallery, "regdb/mpanet")
    # Identities in order: query 0 (2, 2, 1, 3) or so, first right at identity rank 1; query 1
    # (3, 2, ...), identity rank 1; query 2 has nobody.
    curve = cmc_curve("plain", result)
    assert curve.y[:3].tolist() == [0.0, 1.0, 1.0]
    assert len(curve.x) == 20 and curve.y[19] == result.mean["R20"] == 1.0


def test_several_trials_of_different_galleries_are_averaged():
    long, short = (RightRanks(torch.tensor([0, 1]), torch.tensor([rank])) for rank in (3, 0))
    curve = precision_recall_curve("plain", [long, short])
    assert curve.y[1:] == pytest.approx(np.full(100, (1 / 4 + 1) / 2))
