"""Reports of feature files and of sets in memory."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vireid_fast.data.feature_files import write_features
from vireid_fast.engine.report import report_of_features
from vireid_fast.retrieval.evaluation import evaluate, evaluate_pair
from vireid_fast.retrieval.feature_set import FeatureSet

COUNT = 60


def _set(seed: int = 1, *, people: int = 6) -> FeatureSet:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, people, (COUNT,), generator=generator)
    cameras = torch.randint(1, 7, (COUNT,), generator=generator)
    infrared = torch.isin(cameras, torch.tensor([3, 6])).long()
    rows = torch.randn(COUNT, 5, generator=generator) + ids[:, None]
    return FeatureSet(rows, ids, cameras, infrared)


def _write(path: Path, features: FeatureSet, notes: dict[str, str], paths=None) -> Path:
    columns = {f.name: getattr(features, f.name) for f in dataclasses.fields(features)}
    arrays = {name: own.numpy() for name, own in columns.items() if own is not None}
    write_features(path, arrays, notes, paths)
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    (tmp_path / "images").mkdir()
    names = [f"{row:02d}.png" for row in range(COUNT)]
    for row, name in enumerate(names):
        pixels = np.full((40, 20, 3), 4 * row, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    return names


def test_one_file_with_its_images(tmp_path, images):
    features = _set()
    notes = {"root": str(tmp_path / "images"), "method": "mine", "processing.flip": "averaged"}
    file = _write(tmp_path / "all.npz", features, notes, images)
    report = report_of_features(features=file, protocol="sysu/agw", rerank=(4, 2, 0.3))
    assert list(report.results) == ["plain", "reranked"]
    assert report.results["plain"].mean == evaluate(features, "sysu/agw").mean
    again = evaluate(features, "sysu/agw", rerank=(4, 2, 0.3))
    assert report.results["reranked"].mean == again.mean
    assert report.facts["method"] == "mine" and report.facts["features"] == "flip averaged"
    assert report.facts["CMC ranks"] == "count distinct identities"
    assert report.facts["source"] == "all.npz" and str(tmp_path) not in str(report.facts)
    items = [m.item for q in report.ranked for own in q.lists.values() for m in own]
    assert {item.name for item in items} <= set(images)
    assert all(item.picture.height == 128 and item.picture.width == 64 for item in items)
    assert report.training == report.method_pictures == report.notes == ()


def test_images_elsewhere_and_nowhere(tmp_path, images):
    file = _write(tmp_path / "all.npz", _set(), {"root": "/no/such/folder"}, images)
    nowhere = report_of_features(features=file, protocol="sysu/agw")
    assert all(q.query.picture is None for q in nowhere.ranked)
    assert nowhere.notes == ("Images are shown without a picture: their folder /no/such/folder is "
                             "not on this machine.",)  # fmt: skip
    found = report_of_features(features=file, protocol="sysu/agw", root=tmp_path / "images")
    assert all(q.query.picture is not None for q in found.ranked)
    (tmp_path / "images" / images[0]).unlink()
    for name in images[1:]:
        (tmp_path / "images" / name).write_bytes(b"no image")
    (note,) = report_of_features(features=file, protocol="sysu/agw", root=tmp_path / "images").notes
    assert "images are shown without a picture" in note and "and" in note


def test_paths_that_leave_their_folder_are_refused(tmp_path, images):
    file = _write(tmp_path / "all.npz", _set(), {}, ["../" + name for name in images])
    with pytest.raises(ValueError, match=r"path must stay in .*\.\./"):
        report_of_features(features=file, protocol="sysu/agw", root=tmp_path / "images")


def test_a_query_and_a_gallery_file(tmp_path):
    query, gallery = _set(2), _set(3)
    files = [_write(tmp_path / f"{n}.npz", s, {}) for n, s in (("q", query), ("g", gallery))]
    report = report_of_features(*files, protocol="market1501", rerank=(4, 2, 0.3))
    assert report.results["plain"].mean == evaluate_pair(query, gallery, "market1501").mean
    assert list(report.results) == ["plain", "reranked"]
    assert report.facts["CMC ranks"] == "count images or tracklets"
    assert all(q.query.name.startswith("q.npz, row ") for q in report.ranked)
    names = [m.item.name for q in report.ranked for m in q.lists["plain"]]
    assert all(name.startswith("g.npz, row ") for name in names)
    assert [own.name for own in report.histograms][-1] == "across modalities"
    assert sum(report.histograms[-1].pairs) > 0


def test_one_set_may_be_query_and_gallery():
    features = dataclasses.replace(_set(), modality=None)
    report = report_of_features(features, features, protocol="llcm/idkl")
    assert report.results["plain"].gallery_size == COUNT
    assert [own.name for own in report.histograms] == ["query to gallery"]
    assert set(report.feature_map.modality.tolist()) == {-1}
    assert report.facts["source"] == "60 rows in memory and 60 rows in memory"


def test_modes_and_shots_have_names():
    features = _set()
    both = report_of_features(features=features, protocol="regdb/agw", rerank=(4, 2, 0.3))
    assert list(both.results) == [
        "infrared-visible", "infrared-visible, reranked",
        "visible-infrared", "visible-infrared, reranked",
    ]  # fmt: skip
    assert all(q.query.modality == "infrared" for q in both.ranked)
    shots = report_of_features(features=features, protocol="sysu/agw", shots=(1, 2))
    assert list(shots.results) == ["all, 1-shot", "all, 2-shot"]
    assert [c.name for c in shots.precision_recall] == list(shots.results)


def test_one_identity_and_no_valid_query():
    report = report_of_features(features=_set(people=1), protocol="regdb/agw")
    assert report.results["infrared-visible"].mean["R1"] == 1
    assert all(own.pairs[1] == 0 for own in report.histograms)
    apart = _set()
    apart.person_ids[apart.modality == 1] += 100
    report = report_of_features(features=apart, protocol="regdb/agw")
    assert report.results == {} and report.ranked == ()
    assert report.notes[0].startswith("No result: evaluation: query must hold at least one valid")


@pytest.mark.parametrize(("arguments", "match"), [
    ({}, "source must be a query with a gallery, or features"),
    ({"query": _set(), "features": _set()}, "source must be a query with a gallery"),
    ({"features": _set(), "protocol": "sysu"}, "protocol must be one of"),
    ({"features": _set(), "mode": "outdoor"}, "mode must be one of"),
    ({"features": _set(), "map_method": "umap"}, "map must be one of"),
    ({"features": _set(), "queries": 0}, "queries must be"),
    ({"query": _set(), "gallery": _set(), "mode": "all"}, "mode must be left out"),
    ({"query": _set(), "gallery": _set(), "shots": 1}, "shots must be left out"),
])  # fmt: skip
def test_bad_arguments_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        report_of_features(**{"protocol": "sysu/agw", **arguments})
