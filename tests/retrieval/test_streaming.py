"""Streamed rank statistics and evaluation: any rows of distances, any workspace, one result."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vireid_fast.ops import GalleryIndex, RankStatistics, pairwise_distance, rank_statistics
from vireid_fast.ops.rank_statistics.op import DROP_RULES
from vireid_fast.retrieval.distance_rows import (
    ROW_METRICS,
    DistanceRows,
    FeatureRows,
    MatrixRows,
)
from vireid_fast.retrieval.evaluation import (
    evaluate,
    evaluate_modes,
    evaluate_pair,
    evaluate_rows,
    evaluate_settings,
)
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.metrics import METRIC_NAMES
from vireid_fast.retrieval.protocols import PROTOCOLS
from vireid_fast.retrieval.rerank import rerank
from vireid_fast.retrieval.streaming import streamed_rank_statistics

QUERIES, GALLERY = 37, 61


class Recorded:
    """Rows made when asked for, which remember the largest block."""

    def __init__(self, distances: Tensor):
        self._distances = distances
        self.num_query, self.num_gallery = distances.shape
        self.dtype, self.device = distances.dtype, distances.device
        self.largest = 0

    def block(self, begin: int, end: int) -> Tensor:
        self.largest = max(self.largest, end - begin)
        return self._distances[begin:end].clone()


def make_case(device="cpu", dtype=torch.float32):
    features = torch.randn(QUERIES + GALLERY, 5, dtype=dtype, device=device)
    ids = torch.randint(9, (QUERIES + GALLERY,), device=device)
    groups = torch.randint(3, (QUERIES + GALLERY,), device=device)
    return tuple(part.split([QUERIES, GALLERY]) for part in (features, ids, groups))


def assert_same(found: RankStatistics, expected: RankStatistics) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.nan_to_num(-5), b.nan_to_num(-5))


@pytest.mark.parametrize("drop", DROP_RULES)
@pytest.mark.parametrize("metric", ROW_METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_the_matrix_for_every_workspace(drop, metric, dtype, device):
    features, ids, groups = make_case(device, dtype)
    distances = pairwise_distance(*features, metric=metric)
    expected = rank_statistics(distances, *ids, *groups, drop=drop)
    row = GALLERY * distances.element_size()
    for workspace in (row, 3 * row + 1, 1 << 26):
        recorded = Recorded(distances)
        for rows in (FeatureRows(*features, metric), MatrixRows(distances), recorded):
            assert isinstance(rows, DistanceRows)
            found = streamed_rank_statistics(rows, *ids, *groups, drop=drop, workspace=workspace)
            assert_same(found, expected)
        assert recorded.largest == min(QUERIES, workspace // row)


def test_an_index_serves_instead_of_the_labels():
    features, ids, groups = make_case()
    index = GalleryIndex.build(ids[1], groups[1])
    rows = FeatureRows(*features)
    assert_same(
        streamed_rank_statistics(rows, ids[0], index, groups[0], drop="same_group"),
        streamed_rank_statistics(rows, *ids, *groups, drop="same_group"),
    )
    with pytest.raises(ValueError, match="gallery_groups must be None with an index"):
        streamed_rank_statistics(rows, ids[0], index, *groups, drop="same_group")


def test_no_query_gives_empty_statistics():
    features, ids, _ = make_case()
    for rows in (FeatureRows(features[0][:0], features[1]), MatrixRows(torch.rand(0, GALLERY))):
        found = streamed_rank_statistics(rows, ids[0][:0], ids[1])
        assert all(part.shape == (0,) for part in found)


def test_error_messages():
    features, ids, groups = make_case()
    rows = FeatureRows(*features)
    match = f"workspace must be at least {4 * GALLERY} bytes, one row of {GALLERY} distances, got 9"
    with pytest.raises(ValueError, match=match):
        streamed_rank_statistics(rows, *ids, workspace=9)
    with pytest.raises(TypeError, match=r"workspace must be an integer, got 1\.5"):
        streamed_rank_statistics(rows, *ids, workspace=1.5)
    with pytest.raises(TypeError, match=r"rows must have num_query, .* Wrap features in"):
        streamed_rank_statistics(features[0], *ids)
    with pytest.raises(ValueError, match='gallery_groups must be given for drop="same_group"'):
        streamed_rank_statistics(rows, *ids, groups[0], drop="same_group")
    with pytest.raises(ValueError, match=rf"query_ids must have shape \({QUERIES},\)"):
        streamed_rank_statistics(rows, ids[0][1:], ids[1])
    broken = features[0].index_fill(0, torch.tensor(30), torch.nan)
    for bad in (
        FeatureRows(broken, features[1]),
        MatrixRows(pairwise_distance(broken, features[1])),
    ):
        with pytest.raises(ValueError, match="must hold no NaN, got nan in row 30"):
            streamed_rank_statistics(bad, *ids, workspace=8 * 4 * GALLERY)
    with pytest.raises(ValueError, match="FeatureRows: metric must be one of"):
        FeatureRows(*features, "l1")
    with pytest.raises(TypeError, match="MatrixRows: distances must be float32"):
        MatrixRows(torch.zeros(2, 3, dtype=torch.int64))


def make_set():
    """Rows of six cameras that fit SYSU-MM01, RegDB and LLCM."""
    cameras = torch.arange(240) % 6 + 1
    infrared = (cameras == 3) | (cameras == 6)
    return FeatureSet(
        torch.randn(240, 4) + 0.2 * (torch.arange(240) % 7)[:, None],
        torch.arange(240) % 7, cameras, modality=infrared.long(),
        roles=torch.arange(240) // 6 % 2,
    )  # fmt: skip


@pytest.mark.parametrize("protocol", sorted(set(PROTOCOLS) - {"sysu/official"}))
@pytest.mark.parametrize("rerank", [None, (5, 2, 0.3)])
def test_settings_share_distances_and_change_nothing(protocol, rerank):
    features = make_set()
    rules = PROTOCOLS[protocol]
    shots = (1, 3) if rules.draw_gallery else (1,)
    calls = []
    found = evaluate_settings(
        features, protocol, tuple(rules.modes), shots, rerank=rerank,
        progress=lambda *call: calls.append(call),
    )  # fmt: skip
    assert list(found) == [(mode, count) for mode in rules.modes for count in shots]
    for (mode, count), result in found.items():
        alone = evaluate(features, protocol, mode, count, rerank=rerank)
        assert result.to_json() == alone.to_json()
    assert calls == [(done, calls[-1][1]) for done in range(1, calls[-1][1] + 1)]
    modes = evaluate_modes(features, protocol, tuple(rules.modes), rerank=rerank)
    assert {mode: result.to_json() for mode, result in modes.items()} == {
        mode: found[mode, 1].to_json() for mode in rules.modes
    }


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"modes": ()}, "sysu/agw: mode must be given, got none"),
        ({"shots": ()}, "sysu/agw: shots must be given, got none"),
        ({"modes": ("all", "all")}, r"mode must be distinct, got \['all', 'all'\]"),
        ({"shots": (10, 1, 10)}, r"shots must be distinct, got \[10, 1, 10\]"),
        ({"modes": ("all", "")}, r"mode must be one of \['all', 'indoor'\], got ''"),
        ({"shots": (1, 0)}, "shots must be an integer of at least 1, got 0"),
        ({"protocol": "regdb/agw", "shots": (1, 2)}, "shots must be 1, since no galleries"),
    ],
)
def test_lists_of_settings_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        evaluate_settings(make_set(), **arguments)


@pytest.mark.parametrize("protocol", ["market1501", "bupt/full", "sysu/agw"])
def test_rows_of_any_kind_give_the_metrics_of_a_pair(protocol):
    features = make_set()
    rows = torch.arange(240)
    query, gallery = features.subset(rows % 4 == 0), features.subset(rows % 4 > 0)
    labels = query.person_ids, gallery.person_ids, query.camera_ids, gallery.camera_ids
    points = query.features.double(), gallery.features.double()
    plain = evaluate_pair(query, gallery, protocol).trials[0]
    metric = PROTOCOLS[protocol].metric
    reranked = evaluate_pair(query, gallery, protocol, metric="euclidean", rerank=(5, 2, 0.3))
    cases = [
        (FeatureRows(*points, metric), plain),
        (MatrixRows(pairwise_distance(*points, metric=metric)), plain),
        (MatrixRows(rerank(*points, 5, 2, 0.3)), reranked.trials[0]),
    ]
    for distances, expected in cases:
        for workspace in (8 * len(gallery), 1 << 20):
            found = evaluate_rows(distances, *labels, protocol, workspace=workspace)
            assert torch.equal(found.cmc, expected.cmc)
            assert replace(found, cmc=expected.cmc) == expected
            assert min(getattr(found, name) for name in METRIC_NAMES) > 0


def test_rows_need_cameras_where_the_protocol_drops_by_them():
    features, ids, groups = make_case()
    rows = FeatureRows(*features)
    evaluate_rows(rows, *ids, protocol="bupt/full")
    with pytest.raises(ValueError, match="market1501: gallery_cameras must be given"):
        evaluate_rows(rows, *ids, groups[0])
    with pytest.raises(ValueError, match=r"query camera_ids must be known, .* got -1 at row 0"):
        evaluate_rows(rows, *ids, torch.full_like(groups[0], -1), groups[1])
    with pytest.raises(ValueError, match="workspace must be at least"):
        evaluate_rows(rows, *ids, protocol="bupt/full", workspace=1)
