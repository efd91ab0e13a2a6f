"""CMC, mAP and mINP on cases small enough to work out by hand."""

import pytest
import torch

from vireid_fast.ops import rank_statistics
from vireid_fast.retrieval.metrics import METRIC_NAMES, average, metrics_from_ranks


def make_statistics():
    """Three queries on five items: hits at ranks 1 and 3, at rank 4, and none at all."""
    gallery = torch.tensor([1, 3, 1, 2, 3])
    distances = torch.arange(5.0).repeat(3, 1)
    return rank_statistics(distances, torch.tensor([1, 2, 9]), gallery)


def test_hand_made_case():
    found = metrics_from_ranks(make_statistics(), 5, cmc="image")
    assert (found.valid_queries, found.gallery_size) == (2, 5)
    assert found.cmc.tolist() == [0.5, 0.5, 0.5, 1.0, 1.0]
    assert (found.R1, found.R5, found.R10, found.R20) == (0.5, 1.0, 1.0, 1.0)
    assert found.mAP == pytest.approx(((1 + 2 / 3) / 2 + 1 / 4) / 2, rel=1e-15)
    assert found.mINP == pytest.approx((2 / 3 + 1 / 4) / 2, rel=1e-15)


def test_identity_curve_counts_each_identity_once():
    found = metrics_from_ranks(make_statistics(), 5)
    # Before the hit of the second query stand three images of two identities.
    assert found.cmc.tolist() == [0.5, 0.5, 1.0, 1.0, 1.0]
    assert found.mAP == metrics_from_ranks(make_statistics(), 5, cmc="image").mAP


def test_gallery_larger_than_the_named_ranks():
    distances = torch.arange(25.0).repeat(25, 1)
    labels = torch.arange(25)
    found = metrics_from_ranks(rank_statistics(distances, labels, labels), 25)
    assert [found.R1, found.R5, found.R10, found.R20] == [1 / 25, 5 / 25, 10 / 25, 20 / 25]
    assert found.cmc[-1] == 1


def test_no_valid_query_is_an_error():
    statistics = rank_statistics(torch.zeros(2, 3), torch.tensor([1, 2]), torch.tensor([3, 4, 5]))
    with pytest.raises(ValueError, match="at least one valid query, got 2 queries without"):
        metrics_from_ranks(statistics, 3)


def test_average_over_trials():
    one = metrics_from_ranks(make_statistics(), 5, cmc="image")
    same = torch.tensor([4])
    two = metrics_from_ranks(rank_statistics(torch.zeros(1, 1), same, same), 1)
    summary = average([one, two])
    assert list(summary.mean) == list(METRIC_NAMES)
    assert summary.mean["R1"] == pytest.approx(0.75)
    assert summary.std["R1"] == pytest.approx(0.25)
    assert summary.std["R20"] == 0
    assert average([one]).std["mAP"] == 0
    with pytest.raises(ValueError, match="trials must hold at least one trial"):
        average([])


def test_error_messages():
    with pytest.raises(ValueError, match="cmc must be one of"):
        metrics_from_ranks(make_statistics(), 5, cmc="cuhk")
    with pytest.raises(ValueError, match="gallery_size must be at least 1, got 0"):
        metrics_from_ranks(make_statistics(), 0)
