"""`vireid search` and `vireid extract --images` as a stranger uses them."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from vireid_fast.data.feature_files import read_features, read_metadata, read_paths


@pytest.fixture(scope="module")
def gallery(pristine_run) -> Path:
    """The test features of the run, which its own command wrote."""
    from vireid_fast.engine.run_folder import RunFolder
    from vireid_fast.engine.workflow import extract_run

    return extract_run(RunFolder.open(pristine_run.path), out=pristine_run.path / "all.npz")[0]


@pytest.fixture
def photos(pristine_run, gallery, tmp_path) -> Path:
    """Infrared images of the gallery under names of one's own."""
    names = [n for n in read_paths(gallery) if n.startswith("cam3/")]
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(names[:3]):
        shutil.copy(pristine_run.root / name, tmp_path / "photos" / f"{number}.jpg")
    return tmp_path / "photos"


def test_an_image_finds_itself_first(vireid, pristine_run, gallery, photos):
    outcome = vireid.ok("search", "--gallery", gallery, "--query", photos / "1.jpg",
                        "--run", pristine_run.path, "--top-k", 2, "--format", "json")  # fmt: skip
    values = json.loads(outcome.out)
    (query,) = values["queries"]
    assert query["query"] == "1.jpg" and query["person_id"] is None
    names = [n for n in read_paths(gallery) if n.startswith("cam3/")]
    assert query["matches"][0]["path"] == names[1] and len(query["matches"]) == 2
    assert values["gallery"]["rows"] == len(read_paths(gallery)) and outcome.err == ""


def test_a_folder_gives_a_table_for_each_image(vireid, pristine_run, gallery, photos, tmp_path):
    arguments = ("search", "--gallery", gallery, "--query", photos, "--model", pristine_run.path)
    outcome = vireid.ok(*arguments, "--gallery-modality", "visible", "--rerank", "4,2,0.3",
                        "--top-k", 17)  # fmt: skip
    for name in ("0.jpg", "1.jpg", "2.jpg"):
        assert f"query {name}" in outcome.out
    assert "re-ranking (4, 2, 0.3)" in outcome.out and "cam3/" not in outcome.out
    assert "All " in outcome.out and "fewer than the 17 asked for" in outcome.out
    text = tmp_path / "table.txt"
    assert f"written: {text}" in vireid.ok(*arguments, "--out", text).out
    assert "query 2.jpg" in text.read_text()
    (photos / "bad.jpg").write_bytes(b"no image")
    assert "bad.jpg must be a readable image" in vireid.error(*arguments)
    found = tmp_path / "found.json"
    outcome = vireid.ok(*arguments, "--skip-bad-images", "--format", "json", "--out", found)
    values = json.loads(found.read_text())
    assert len(values["queries"]) == 3 and "damaged images skipped: 1" in outcome.err
    assert [Path(each["path"]).name for each in values["skipped"]] == ["bad.jpg"]


def test_a_page_with_pictures(vireid, pristine_run, gallery, photos, tmp_path):
    page = tmp_path / "found.html"
    arguments = ("search", "--gallery", gallery, "--query", photos, "--run", pristine_run.path,
                 "--top-k", 2, "--format", "page", "--out", page)  # fmt: skip
    vireid.ok(*arguments)
    assert page.read_text().count("data:image/jpeg;base64,") == 3 + 3 * 2
    vireid.ok(*arguments, "--images", pristine_run.root)
    assert "No pictures of the gallery" not in page.read_text()


@pytest.mark.parametrize(("suffix", "dtype"), [(".npz", "float16"), (".safetensors", "float32")])
def test_features_of_own_images_can_search_but_not_be_judged(
    vireid, pristine_run, gallery, photos, tmp_path, suffix, dtype
):
    out = tmp_path / f"own{suffix}"
    outcome = vireid.ok("extract", "--run", pristine_run.path, "--images", photos, "--modality",
                        "infrared", "--dtype", dtype, "--out", out)  # fmt: skip
    assert f"features: {out}  3 images, width" in outcome.out
    arrays, notes = read_features(out), read_metadata(out)
    assert arrays["features"].dtype == dtype and set(arrays["person_ids"]) == {-1}
    assert notes["root"] == str(photos) and notes["dtype"] == dtype
    assert notes["checkpoint"] == read_metadata(gallery)["checkpoint"]
    assert read_paths(out) == ["0.jpg", "1.jpg", "2.jpg"]
    rows = [read_paths(gallery).index(n) for n in read_paths(gallery) if n.startswith("cam3/")][:3]
    np.testing.assert_allclose(
        arrays["features"], read_features(gallery)["features"][rows], atol=2e-3
    )
    found = vireid.ok("search", "--gallery", gallery, "--query", out, "--format", "json").out
    assert [q["matches"][0]["row"] for q in json.loads(found)["queries"]] == rows
    for options in (("--features", out), ("--query", out, "--gallery", gallery)):
        message = vireid.error("eval", *options)
        assert f"{out}: person_ids must tell who is shown, got -1 in every row" in message


def test_half_precision_evaluates_nearly_alike(vireid, pristine_run, tmp_path):
    scores = []
    for dtype in ("float32", "float16"):
        out, result = tmp_path / f"{dtype}.npz", tmp_path / "result.json"
        vireid.ok("extract", "--run", pristine_run.path, "--dtype", dtype, "--out", out)
        vireid.ok("eval", "--features", out, "--json", result)
        scores.append(json.loads(result.read_text())["mAP"])
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_the_gallery_of_another_model_is_refused(vireid, pristine_run, gallery, photos, tmp_path):
    other = tmp_path / "other.npz"
    notes = {**read_metadata(gallery), "checkpoint": "0" * 64}
    np.savez(other, **read_features(gallery), metadata=np.array(json.dumps(notes)))
    message = vireid.error("search", "--gallery", other, "--query", photos, "--run",
                           pristine_run.path)  # fmt: skip
    assert f"{other}: metadata 'checkpoint' must be" in message
    assert "Compare features that were made alike" in message


def test_bad_options_of_search(vireid, pristine_run, gallery, photos, tmp_path):
    run = ("--run", pristine_run.path)
    one = ("search", "--gallery", gallery, "--query", photos)
    for options, expected in (
        ((), "--run or --model must name the model for the query's features"),
        ((*run, "--model", run[1]), "--model must come without --run"),
        ((*run, "--format", "xml"), "--format must be one of ['table', 'json', 'page'], got 'xml'"),
        ((*run, "--format", "page"), "--out must name an .html file for a page, got None"),
        ((*run, "--format", "page", "--out", "a.txt"), "must name an .html file for a page"),
        ((*run, "--out", tmp_path), "--out must be a file, got the folder"),
        ((*run, "--images", tmp_path), "--images must come with --format page"),
        ((*run, "--rerank", "1,2"), "search: --rerank must be k1,k2,lambda, got '1,2'"),
        ((*run, "--top-k", 0), "--top-k must be at least 1, got 0"),
        ((*run, "--query-modality", "ir"), "--query-modality must be one of ['visible', "),
        ((*run, "--metric", "l1"), "--metric must be one of ['euclidean', 'cosine', 'dot']"),
        ((*run, "--checkpoint", "last"), "--checkpoint must be one of ['best', 'latest']"),
        (("--model", "org/model"), "path must be a folder on this machine, got 'org/model'"),
    ):
        assert expected in vireid.error(*one, *options)
    absent = vireid.error("search", "--gallery", gallery, "--query", "absent.jpg", *run)
    assert "--query must be an image, a folder of images or a feature file, got absent" in absent
    message = vireid.error("search", "--gallery", gallery, "--query", gallery, *run)
    assert "--query must be images with --run or --model, got the feature file" in message
    assert "--images must be an existing folder" in vireid.error(
        *one, *run, "--format", "page", "--out", tmp_path / "a.html", "--images", "absent"
    )
    (tmp_path / "empty").mkdir()
    message = vireid.error("search", "--gallery", gallery, "--query", tmp_path / "empty", *run)
    assert "empty must hold an image" in message
    assert sorted(os.listdir(tmp_path)) == ["empty", "photos"]


def test_bad_options_of_extract(vireid, pristine_run, photos, tmp_path):
    run, out = ("--run", pristine_run.path), ("--out", tmp_path / "own.npz")
    own = ("--images", photos)
    for options, expected in (
        ((), "--run must be given alone where --images is not, got none"),
        ((*run, "--model", run[1]), "--run must be given alone where --images is not, got --mod"),
        ((*run, "--modality", "visible"), "--modality must come with --images"),
        ((*run, *own, *out, "--split", "test"), "--split must come without --images, got test"),
        ((*run, *own, "--modality", "visible"), "--out must name the feature file of --images"),
        ((*run, *own, *out), "--modality must be visible or infrared with --images, got none"),
        ((*own, *out, "--modality", "visible"), "--run or --model must name the model"),
        ((*run, "--dtype", "int8"), "--dtype must be one of ['float32', 'float16'], got 'int8'"),
        ((*run, "--images", "absent", *out, "--modality", "visible"),
         "--images must be an image or a folder of images, got absent"),
    ):  # fmt: skip
        assert expected in vireid.error("extract", *options)
    assert not out[1].exists()
