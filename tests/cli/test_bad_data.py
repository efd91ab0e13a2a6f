"""Data sets and images that cannot be used, and those that can although they look odd."""

import json
import shutil

import numpy as np
import pytest
import yaml
from command_line import train_arguments
from PIL import Image

from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.feature_files import read_features
from vireid_fast.data.synthetic import LAYOUTS


def _identities(root, split):
    return [int(n) for n in (root / "exp" / f"{split}_id.txt").read_text().strip().split(",")]


def _image(root, split, camera=3):
    return root / f"cam{camera}" / f"{_identities(root, split)[0]:04d}" / "0001.jpg"


def _truncate(path):
    path.write_bytes(path.read_bytes()[:400])


def _point_to(run, root, **data):
    """Make a run read its images from another folder."""
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["data"] |= {"root": str(root), **data}
    (run / "config.yaml").write_text(yaml.safe_dump(values))


@pytest.mark.parametrize("command", ["train", "pretrain", "check-data"])
def test_a_missing_folder(vireid, tmp_path, command):
    absent, run = tmp_path / "absent", tmp_path / "run"
    arguments = train_arguments(absent, run)[1:]
    if command == "check-data":
        arguments = ("--root", absent)
    message = vireid.error(command, *arguments)
    assert f"{absent}: the data root must be a folder" in message and "no such folder" in message
    assert not run.exists()


def test_no_folder_given(vireid, tmp_path):
    message = vireid.error("train", "--config", "csdn/sysu_mm01_small", "--run", tmp_path / "run")
    assert "data.root must name the data set's folder" in message


@pytest.mark.parametrize("command", ["train", "check-data"])
def test_an_empty_folder_lists_what_is_missing(vireid, tmp_path, command):
    empty = tmp_path / "empty"
    empty.mkdir()
    run = tmp_path / "run"
    options = train_arguments(empty, run)[1:] if command == "train" else ("--root", empty)
    done = vireid(command, *options)
    assert done.code == 1 and "Traceback" not in done.err and not run.exists()
    assert f"error: {empty}: the data root must hold images" in done.err
    assert f"{empty / 'cam6'}: the camera folder is missing" in done.err


def _lose_camera(root):
    shutil.rmtree(root / "cam4")
    return "cam4: the camera folder is missing"


def _lose_list(root):
    for file in (root / "exp").glob("train_id.*"):
        file.unlink()
    return "train_id.txt: the id list is missing"


def _break_list(root):
    (root / "exp" / "train_id.txt").write_text("1,two")
    return "train_id.txt: the id list must hold numbers separated by commas, got 'two' as entry 2"


def _lose_infrared(root):
    person = _identities(root, "train")[0]
    for camera in (3, 6):
        shutil.rmtree(root / f"cam{camera}" / f"{person:04d}")
    return f"must have visible and infrared images, got 1 without infrared images: {person}."


def _lose_identity(root):
    person = _identities(root, "test")[0]
    for camera in range(1, 7):
        shutil.rmtree(root / f"cam{camera}" / f"{person:04d}")
    return f"every test identity must have images, got 1 without any: {person}."


@pytest.mark.parametrize(
    "damage", [_lose_camera, _lose_list, _break_list, _lose_infrared, _lose_identity]
)
def test_an_incomplete_data_set(vireid, root, tmp_path, damage):
    expected = damage(root)
    done = vireid(*train_arguments(root, tmp_path / "run"))
    assert done.code == 1 and expected in done.err and not (tmp_path / "run").exists()
    checked = vireid("check-data", "--root", root)
    assert checked.code == 1 and "problem: " in checked.out and expected in checked.out


def test_an_unknown_data_set(vireid, root, tmp_path):
    message = vireid.error("check-data", "--root", root, "--data", "sysu")
    assert f"--data must be one of {sorted(DATASETS)}, got 'sysu'" in message
    message = vireid.error(*train_arguments(root, tmp_path / "run", "data.name=sysu"))
    assert "data.name must be one of" in message


def test_a_folder_whose_name_is_a_number(vireid, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root.rename(tmp_path / "2024")
    _break_list(tmp_path / "2024")
    assert "error: 2024/exp/train_id.txt" in vireid.error(*train_arguments("2024", "run"))


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
def test_a_damaged_training_image(vireid, root, tmp_path, content):
    bad, run = _image(root, "train"), tmp_path / "run"
    if content is None:
        _truncate(bad)
    else:
        bad.write_bytes(content)
    message = vireid.error(*train_arguments(root, run))
    assert str(bad) in message and "--skip-bad-images" in message
    assert not run.exists()


def test_damaged_images_are_skipped_on_request(vireid, root, tmp_path):
    bad = [_image(root, "train"), _image(root, "val"), _image(root, "test", camera=1)]
    for path in bad:
        _truncate(path)
    report = tmp_path / "report.json"
    assert vireid("check-data", "--root", root, "--decode", "--json", report).code == 1
    found = json.loads(report.read_text())["bad_images"]
    assert {entry["path"] for entry in found} == {str(path) for path in bad}
    run = tmp_path / "run"
    done = vireid.ok(*train_arguments(root, run, "--skip-bad-images"))
    for path in bad[:2]:
        assert f"damaged images skipped: 1: {path} (" in done.err
    done = vireid.ok("extract", "--run", run)
    assert f"damaged images skipped: 1: {bad[2]} (" in done.err
    rows = 12 * len(_identities(root, "test")) - 1
    assert len(read_features(run / "features" / "test.npz")["features"]) == rows


def test_a_damaged_test_image_stops_extract_and_keeps_the_features(vireid, root, run):
    _point_to(run, root)
    vireid.ok("extract", "--run", run)
    before = (run / "features" / "test.npz").read_bytes()
    bad = _image(root, "test")
    _truncate(bad)
    for command in (("extract", "--run", run), ("eval", "--run", run)):
        message = vireid.error(*command)
        assert f"{bad} must be a readable image" in message
    assert (run / "features" / "test.npz").read_bytes() == before
    assert not (run / "results.json").exists()
    for command in (("extract", "--run", run), ("eval", "--run", run),
                    ("eval", "--run", run, "--mode", "indoor")):  # fmt: skip
        done = vireid.ok(*command, "--skip-bad-images")
        assert f"damaged images skipped: 1: {bad} (" in done.err
    message = vireid.error("eval", "--features", run / "f.npz", "--skip-bad-images")
    assert "--skip-bad-images must come with --run" in message


def test_images_of_every_mode_are_read(vireid, root, run):
    _point_to(run, root)
    folder = _image(root, "test").parent.parent.parent / "cam1" / _image(root, "test").parent.name
    values = np.random.default_rng(0).integers(0, 256, (64, 32), dtype=np.uint8)
    Image.fromarray(values).save(folder / "0003.png")
    Image.fromarray(values.astype(np.uint16) * 257).save(folder / "0004.png")
    Image.fromarray(np.stack([values] * 4, 2), "RGBA").save(folder / "0005.png")
    Image.fromarray(np.stack([values] * 4, 2), "CMYK").save(folder / "0006.jpg")
    Image.fromarray(values).convert("1").save(folder / "0007.png")
    Image.fromarray(values).convert("P").save(folder / "0008.bmp")
    vireid.ok("extract", "--run", run)
    features = read_features(run / "features" / "test.npz")
    rows = {
        int(index): features["features"][row]
        for row, index in enumerate(features["image_indices"])
        if features["camera_ids"][row] == 1
        and features["person_ids"][row] == _identities(root, "test")[0]
    }
    assert sorted(rows) == list(range(1, 9)) and all(np.isfinite(f).all() for f in rows.values())
    # Grey, the same grey in 16 bits, and with an alpha channel are one image.
    np.testing.assert_array_equal(rows[3], rows[4])
    np.testing.assert_array_equal(rows[3], rows[5])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--identities", "2"), "identities must be at least 3, got 2"),
        (("--views", "0"), "views must be at least 1, got 0"),
        (("--height", "0"), "size must be at least 16, got 0"),
        (("--seed", "-1"), "seed must be at least 0, got -1"),
        (("--layout", "coco"), f"--layout must be one of {list(LAYOUTS)}, got 'coco'"),
        (("--layout", "llcm", "--tracklets", "1"), "must be left out for the layout llcm"),
        (("--layout", "manifest", "--tracklets", "-1"), "tracklets must be at least 0, got -1"),
        (("--sheet", "sheet.jpg"), "--sheet must end in .png, got sheet.jpg"),
    ],
)
def test_bad_options_of_synth(vireid, tmp_path, options, expected):
    assert expected in vireid.error("synth", "--out", tmp_path / "set", *options)
    assert not (tmp_path / "set").exists()


def test_synth_leaves_other_folders_alone(vireid, run):
    before = sorted(path.name for path in run.iterdir())
    assert "is no synthetic set of ours" in vireid.error("synth", "--out", run)
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_demo_of_too_few_persons(vireid, tmp_path):
    message = vireid.error("demo", "--identities", "9", "--run", tmp_path / "demo")
    assert "--identities must be at least 30, got 9" in message
    assert not (tmp_path / "demo").exists()
