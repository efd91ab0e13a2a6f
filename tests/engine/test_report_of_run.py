"""Reports of runs of every method, whose weights are random: what they hold, and damaged inputs."""

import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from method_cases import CASES, IMAGES, tiny_config
from PIL import Image

from vireid_fast.config import Config
from vireid_fast.engine.checkpoint import (
    Checkpoint,
    follow,
    load_checkpoint,
    point_to,
    save_checkpoint,
)
from vireid_fast.engine.data_setup import read_table
from vireid_fast.engine.method_setup import card_of, facts, new_method
from vireid_fast.engine.report import report_of_run
from vireid_fast.engine.run_folder import RunFolder
from vireid_fast.engine.workflow import evaluate_run
from vireid_fast.report.content import Picture

VIT = ("clip.architecture=ViT-small",)


def _run(config: Config, path: Path) -> RunFolder:
    """A run that ends before its first step."""
    identities = len(read_table(config).identities(config.data.train_split))
    method = new_method(config, identities, load=False)
    run = RunFolder(path)
    run.start(config)
    folder = run.checkpoints / "0-first-0001"
    card = {**card_of(method, identities).to_json(), **facts(config, identities)}
    save_checkpoint(folder, Checkpoint(method.model.state_dict(), card))
    point_to(run.latest, folder)
    point_to(run.best, folder, rank=[0.25, 0.5], stage="first", epoch=1)
    line = {"stage": "first", "epoch": 1, "loss": 2.0, "val_R1": 0.5, "seconds": 1.0}
    run.metrics_file.write_text(json.dumps(line) + "\n")
    return run


@pytest.fixture(scope="module")
def runs(tiny_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    folder = tmp_path_factory.mktemp("runs")
    configs = {
        method: tiny_config(method, tiny_sets, "evaluation.rerank=[3, 2, 0.3]") for method in CASES
    }
    configs["csdn on a ViT"] = tiny_config("csdn", tiny_sets, *VIT)
    configs["clip_mc on a ViT"] = tiny_config("clip_mc", tiny_sets, *VIT)
    without = ("lsmrl.interaction=false", "lsmrl.grouped_blocks=0")
    configs["lsmrl without"] = tiny_config("lsmrl", tiny_sets, *without)
    return {name: _run(config, folder / name) for name, config in configs.items()}


TITLES = {
    "csdn": ["Attention across modalities"],
    "csdn on a ViT": ["Attention across modalities"],
    "clip4vi_reid": ["Attention across modalities"],
    "clip_mc": ["Attention across modalities", "Instance prompts"],
    "clip_mc on a ViT": ["Attention across modalities", "Instance prompts"],
    "lsmrl": ["Cross-modal interaction", "Attention within", "Attention after"],
    "lsmrl without": ["Attention across modalities", "Attention after"],
}


def _require_picture(picture: Picture) -> None:
    image = Image.open(io.BytesIO(picture.data))
    image.load()
    assert image.format == "JPEG" and image.size == (picture.width, picture.height)
    assert picture.kind == "image/jpeg" and picture.text


def _leaves(value: object) -> object:
    """Plain values that can be compared."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    if dataclasses.is_dataclass(value):
        return {f.name: _leaves(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: _leaves(own) for name, own in value.items()}
    return [_leaves(own) for own in value] if isinstance(value, tuple | list) else value


@pytest.mark.parametrize("name", TITLES)
def test_every_method_has_a_whole_report(runs, name):
    report = report_of_run(runs[name], queries=1)
    assert report.results and set(report.facts) >= {"method", "data", "protocol", "checkpoint"}
    assert "mAP 25.0%, R1 50.0%" in report.facts["checkpoint"]
    assert re.search(r": \d+ test (images|tracklets) of \d+ identities", report.facts["data"])
    names = list(report.results)
    assert [c.name for c in report.cmc] == [c.name for c in report.precision_recall] == names
    for cmc, precision in zip(report.cmc, report.precision_recall, strict=True):
        mean = report.results[cmc.name].mean
        assert cmc.y[[0, 4, 9, 19]] == pytest.approx([mean[f"R{k}"] for k in (1, 5, 10, 20)])
        assert precision.y[1:].mean() == pytest.approx(mean["mAP"])
    assert len(report.histograms) == 3 and report.feature_map.points.shape[1] == 2
    assert [(c.stage, c.name) for c in report.training] == [("first", "loss"), ("first", "val_R1")]
    for query in report.ranked:
        assert query.query.modality == "infrared"
        for matches in query.lists.values():
            for match in matches:
                assert match.item.modality == "visible"
                assert match.right == (match.item.person_id == query.query.person_id)
                _require_picture(match.item.picture)
    wanted, kinds = TITLES[name], len(report.ranked)
    titles = [own.title for own in report.method_pictures]
    assert len(titles) == len(wanted) * kinds
    for title, start in zip(titles, wanted * kinds, strict=True):
        assert title.startswith(start)
    for own in report.method_pictures:
        assert own.caption and own.pictures
        for picture in own.pictures:
            _require_picture(picture)
    assert report.notes == ()


def test_a_report_is_the_same_twice_and_from_what_an_evaluation_left(runs, tmp_path):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(runs["clip_mc"].path, run.path)
    first = _leaves(report_of_run(run))
    before = sorted(path for path in run.path.rglob("*"))
    assert _leaves(report_of_run(run)) == first
    assert sorted(path for path in run.path.rglob("*")) == before
    found = []
    results = evaluate_run(run, then=lambda *given: found.append(given))
    assert _leaves(report_of_run(run, features=found[0][1], results=results)) == first


def test_stored_features_are_used_only_if_the_checkpoint_made_them(runs, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(runs["csdn"].path, run.path)
    results = evaluate_run(run)
    calls = []
    name = "vireid_fast.engine.report.of_run.extract"

    def extract(*arguments):
        calls.append(arguments)
        raise RuntimeError("extracts")

    monkeypatch.setattr(name, extract)
    report = report_of_run(run)
    assert {k: r.mean for k, r in report.results.items()} == {k: r.mean for k, r in results.items()}
    file = run.features / "test.npz"
    data = file.read_bytes()
    file.write_bytes(data[:-100])
    with pytest.raises(RuntimeError, match="extracts"):
        report_of_run(run)
    file.write_bytes(data)
    folder, _ = follow(run.best)
    checkpoint = load_checkpoint(folder)
    checkpoint.model["pooled_neck.norm.weight"] += 1
    save_checkpoint(folder, checkpoint)
    with pytest.raises(RuntimeError, match="extracts"):
        report_of_run(run)


def test_other_stored_results_are_noted(runs, tmp_path):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(runs["csdn"].path, run.path)
    report = report_of_run(run)
    stored = {name: result.to_json() for name, result in report.results.items()}
    run.results_file.write_text(json.dumps(stored))
    assert report_of_run(run).notes == ()
    stored["plain"]["mAP"] += 0.01
    run.results_file.write_text(json.dumps(stored))
    (note,) = report_of_run(run).notes
    assert note.startswith("results.json holds other numbers for plain")


def test_a_damaged_image_gives_an_item_without_a_picture(runs, tiny_sets, tmp_path):
    shutil.copytree(tiny_sets / IMAGES, tmp_path / IMAGES)
    run = _run(tiny_config("csdn", tmp_path), tmp_path / "run")
    evaluate_run(run)
    for file in (tmp_path / IMAGES).rglob("*.jpg"):
        file.write_bytes(file.read_bytes()[:40])
    report = report_of_run(run)
    items = [match.item for q in report.ranked for m in q.lists.values() for match in m]
    assert items and all(item.picture is None for item in items)
    text = " ".join(report.notes)
    assert "images are shown without a picture" in text and "No attention maps of identity" in text
    assert report.method_pictures == ()


def test_no_valid_query_gives_a_note_instead_of_results(runs, tiny_sets, monkeypatch):
    run = runs["csdn"]
    table = read_table(run.config())
    people = table.person_ids.copy()
    # Nobody is seen in both modalities.
    people[table.modality == 1] += 1000
    splits = {name: np.concatenate([ids, ids + 1000]) for name, ids in table.splits.items()}
    apart = dataclasses.replace(table, person_ids=people, splits=splits)
    monkeypatch.setattr("vireid_fast.engine.report.of_run.read_table", lambda config: apart)
    report = report_of_run(run)
    assert report.results == {} and report.cmc == report.ranked == report.method_pictures == ()
    assert report.notes[0].startswith("No result: evaluation: query must hold at least one valid")
    assert len(report.histograms) == 3 and report.feature_map is not None


def test_without_its_data_a_run_has_the_report_of_its_features(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(Config(data=dataclasses.replace(Config().data, root=str(tmp_path / "gone"))))
    with pytest.raises(ValueError, match=r"data\.root must exist: the images.*config\.yaml"
                       r".*vireid report --features .*features/test\.npz"):  # fmt: skip
        report_of_run(run)


def test_bad_arguments_are_refused_before_anything_is_read(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="report: map must be one of"):
        report_of_run(run, map_method="umap")
    with pytest.raises(ValueError, match="report: queries must be"):
        report_of_run(run, queries=0)
