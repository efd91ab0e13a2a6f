import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vireid_fast.data.check import check_dataset
from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.datasets.sysu_mm01 import read_sysu_layout
from vireid_fast.data.structure import (
    CameraCount,
    Structure,
    count_structure,
    describe_differences,
)
from vireid_fast.data.table import DatasetError, ImageTable
from vireid_fast.data.tracklets import TrackletTable


def table_of(counts, splits):
    """A table with counts[camera][identity] images, without files."""
    entries = [
        (identity, camera, index)
        for camera, identities in counts.items()
        for identity, images in identities.items()
        for index in range(1, images + 1)
    ]
    person_ids, camera_ids, image_indices = np.array(sorted(entries), np.int64).T
    return ImageTable(
        root=Path("nowhere"),
        paths=tuple(f"{n}.jpg" for n in range(len(entries))),
        person_ids=person_ids,
        camera_ids=camera_ids,
        modality=np.isin(camera_ids, (3, 6)).astype(np.int64),
        image_indices=image_indices,
        splits={split: np.array([*ids], np.int64) for split, ids in splits.items()},
    )


@pytest.fixture(scope="module")
def sysu(shared_dir):
    derived = json.loads((shared_dir / "fixtures/sysu_mm01/derived_structure.json").read_text())
    counts = {
        int(camera): {int(identity): n for identity, n in identities.items()}
        for camera, identities in derived["counts"].items()
    }
    return counts, {split: derived[f"{split}_id"] for split in ("train", "val", "test")}


def test_published_sysu_structure_has_the_documented_sums():
    published = DATASETS["sysu_mm01"].published
    assert published.num_identities("train+val") == 395
    assert published.num_rows("train+val", "visible") == 22258
    assert published.num_rows("train+val", "infrared") == 11909
    assert published.num_rows("train", "visible") == 20284
    assert published.num_rows("train", "infrared") == 9929
    assert published.num_rows("test", "visible") == 6775
    assert published.sizes == {
        "test queries": 3803,
        "single-shot gallery of the all-search": 301,
        "single-shot gallery of the indoor-search": 112,
    }


def test_real_sysu_structure_is_accepted(sysu):
    report = check_dataset(table_of(*sysu), "sysu_mm01")
    assert report.compared
    assert report.deviations == ()
    assert report.ok


def test_incomplete_sysu_copy_is_named(sysu):
    counts, splits = sysu
    splits = {**splits, "val": splits["val"][:71]}
    counts = {**counts, 6: {i: n for i, n in counts[6].items() if i != splits["test"][0]}}
    report = check_dataset(table_of(counts, splits), "sysu_mm01")
    assert not report.ok
    for line in (
        "train+val: 367 identities, published 395",
        "val: 71 identities, published 99",
        "train+val: 11,349 infrared images, published 11,909",
        "test: 3,783 infrared images, published 3,803",
        "test: camera 6 has 1,900 infrared images, published 1,920",
        "test: camera 6 has 95 infrared identities, published 96",
        "all: 15,772 infrared images, published 15,792",
        "test queries: 3,783 images, published 3,803",
    ):
        assert line in report.deviations
    assert not any(line.startswith("train:") for line in report.deviations)
    assert not any("camera 3" in line for line in report.deviations if line.startswith("test"))


def test_camera_absent_from_the_copy_is_named(sysu):
    counts, splits = sysu
    counts = {camera: ids for camera, ids in counts.items() if camera != 2}
    deviations = check_dataset(table_of(counts, splits), "sysu_mm01").deviations
    assert "test: camera 2 has 0 visible images, published 1,565" in deviations
    assert "single-shot gallery of the indoor-search: 56 images, published 112" in deviations
    assert "single-shot gallery of the all-search: 245 images, published 301" in deviations


def test_published_scene_regions_structure():
    published = DATASETS["scene_regions"].published
    assert published.total == {"visible": 7288, "infrared": 3644}
    assert published.num_identities("train+val") == 686
    counts = {camera: dict.fromkeys(range(1, 912), 2) for camera in range(1, 7)}
    splits = {"train": range(1, 602), "val": range(602, 687), "test": range(687, 912)}
    table = table_of(counts, splits)
    assert check_dataset(table, "scene_regions").ok


def test_scene_regions_archive_equals_its_published_structure(shared_dir):
    counts, splits = {}, {}
    with tarfile.open(shared_dir / "data" / "scene-regions-sysu.tar") as archive:
        for member in archive:
            if match := re.search(r"cam(\d)/(\d+)/\d+\.jpg$", member.name):
                camera, identity = int(match[1]), int(match[2])
                of_camera = counts.setdefault(camera, {})
                of_camera[identity] = of_camera.get(identity, 0) + 1
            elif match := re.search(r"exp/(\w+)_id\.txt$", member.name):
                text = archive.extractfile(member).read().decode()
                splits[match[1]] = [int(word) for word in text.split(",")]
    report = check_dataset(table_of(counts, splits), "scene_regions")
    assert report.compared
    assert report.deviations == ()
    assert sum(report.counted.total.values()) == 10932


def test_name_without_published_structure_is_only_counted(make_layout):
    report = check_dataset(read_sysu_layout(make_layout()), "mine")
    assert (report.compared, report.deviations, report.ok) == (False, (), True)
    counted = report.to_json()
    assert counted["identities"] == {"train": 3, "val": 1, "test": 2, "train+val": 4}
    assert counted["images"]["train"] == {"visible": 24, "infrared": 12}
    assert counted["images"]["all"] == {"visible": 48, "infrared": 24}
    assert counted["cameras"]["test"]["infrared"]["6"] == {"images": 4, "identities": 2}
    # Sizes of SYSU-MM01's protocol are counted for sets that are known to have its cameras.
    assert counted["sizes"] == {} and counted["unit"] == "images" and "frames" not in counted
    assert counted["decoded"] == 0


def test_decoding_lists_bad_images(make_layout):
    root = make_layout(pixels=True)
    whole = (root / "cam2/0003/0001.jpg").read_bytes()
    (root / "cam2/0003/0001.jpg").write_bytes(whole[:300])
    (root / "cam6/0005/0002.jpg").write_bytes(b"")
    calls = []
    table = read_sysu_layout(root)
    report = check_dataset(table, "mine", decode=True, progress=lambda *c: calls.append(c))
    assert calls == [(n, len(table)) for n in range(1, len(table) + 1)]
    assert not report.ok
    content = json.loads(json.dumps(report.to_json()))
    assert content["decoded"] == len(table)
    assert content["ok"] is False
    first, second = content["bad_images"]
    assert first["path"].endswith("cam2/0003/0001.jpg")
    assert first["reason"].startswith("a damaged or unsupported image")
    assert second["path"].endswith("cam6/0005/0002.jpg")
    assert second["reason"] == "an empty file"


def test_problems_and_warnings_reach_the_report(make_layout):
    table = read_sysu_layout(make_layout())
    report = check_dataset(replace(table, problems=("p",), warnings=("w",)), "mine")
    assert (report.problems, report.warnings, report.ok) == (("p",), ("w",), False)


@pytest.mark.parametrize("name", DATASETS)
def test_registered_readers_take_root_and_strict(tmp_path, name):
    """And the split where a set has several; all name the root that is not there."""
    entry = DATASETS[name]
    options = {"split": 1} if entry.splits else {}
    for strict in (True, False):
        with pytest.raises(DatasetError, match=re.escape(str(tmp_path / "absent"))):
            entry.read(tmp_path / "absent", strict=strict, **options)


def tracklet_table(lengths, roles=None):
    """Tracklets of persons 1 (train) and 2 (test), modality and camera by their position."""
    start = np.cumsum([0, *lengths])
    owner = np.repeat(np.arange(len(lengths)), lengths)
    frames = ImageTable(
        root=Path("nowhere"),
        paths=tuple(f"{n}.jpg" for n in range(len(owner))),
        person_ids=np.where(owner < 3, 1, 2),
        camera_ids=owner % 2 + 5,
        modality=owner % 2,
        image_indices=np.arange(len(owner)),
        splits={"train": np.array([1]), "val": np.array([], int), "test": np.array([2])},
        roles=None if roles is None else np.asarray(roles)[owner],
    )
    return TrackletTable(frames, start[:-1], np.asarray(lengths))


def test_tracklets_frames_and_roles_are_counted():
    counted = count_structure(tracklet_table([4, 2, 1, 3, 5], roles=[-1, -1, -1, 1, 0]))
    assert counted == Structure(
        identities={"train": 1, "val": 0, "test": 1},
        rows={
            "train": {"visible": 2, "infrared": 1},
            "val": {"visible": 0, "infrared": 0},
            "test": {"visible": 1, "infrared": 1},
        },
        unit="tracklets",
        frames={
            "train": {"visible": 5, "infrared": 2},
            "val": {"visible": 0, "infrared": 0},
            "test": {"visible": 5, "infrared": 3},
        },
        cameras={
            "train": {"visible": {5: CameraCount(2, 1)}, "infrared": {6: CameraCount(1, 1)}},
            "val": {"visible": {}, "infrared": {}},
            "test": {"visible": {5: CameraCount(1, 1)}, "infrared": {6: CameraCount(1, 1)}},
        },
        total={"visible": 3, "infrared": 2},
        total_frames=15,
        sizes={
            "visible queries": 0, "infrared queries": 1, "visible gallery": 1,
            "infrared gallery": 0,
        },
    )  # fmt: skip
    assert counted.parts == ("train", "test")


def test_only_what_is_published_is_compared():
    counted = count_structure(tracklet_table([4, 2, 1, 3, 5], roles=[-1, -1, -1, 1, 0]))
    published = Structure(
        identities={"train": 1, "test": 2, "auxiliary": 3},
        rows={"train": {"infrared": 4}, "test": {"visible": 1}},
        unit="tracklets",
        frames={"test": {"infrared": 3, "visible": 6}},
        sizes={"infrared queries": 2, "visible gallery": 1},
    )
    assert describe_differences(counted, published) == [
        "test: 1 identities, published 2",
        "auxiliary: 0 identities, published 3",
        "train: 1 infrared tracklets, published 4",
        "test: 5 visible frames, published 6",
        "infrared queries: 1 tracklets, published 2",
    ]
    assert describe_differences(counted, counted) == []
    # A split without the other's counts gives no sum to compare.
    partly = Structure({"train": 1, "val": 1}, {"train": {"visible": 2}})
    assert describe_differences(counted, partly) == [
        "val: 0 identities, published 1", "train+val: 1 identities, published 2",
    ]  # fmt: skip


def test_report_of_tracklets():
    report = check_dataset(tracklet_table([4, 2, 1, 3, 5]), "mine")
    assert [line.split() for line in str(report).splitlines()[1:-1]] == [
        ["split", "identities", "visible", "frames", "infrared", "frames"],
        ["train", "1", "2", "5", "1", "2"],
        ["test", "1", "1", "5", "1", "3"],
        ["all", "3", "2"],
    ]
    values = report.to_json()
    assert values["tracklets"] == {
        "train": {"visible": 2, "infrared": 1}, "test": {"visible": 1, "infrared": 1},
        "all": {"visible": 3, "infrared": 2},
    }  # fmt: skip
    assert values["frames"]["test"] == {"visible": 5, "infrared": 3}
    assert values["cameras"]["test"]["infrared"]["6"] == {"tracklets": 1, "identities": 1}


def test_report_as_text(make_layout):
    root = make_layout(pixels=True)
    (root / "cam1/0001/0001.jpg").write_bytes(b"")
    (root / "exp/val_id.txt").write_text("1")
    table = read_sysu_layout(root, strict=False)
    lines = str(check_dataset(table, "scene_regions", decode=True)).splitlines()
    assert lines[0] == f"scene_regions in {root}"
    assert lines[1].split() == ["split", "identities", "visible", "infrared"]
    assert lines[2].split() == ["train", "3", "24", "12"]
    assert lines[5].split() == ["train+val", "4", "32", "16"]
    assert lines[6].split() == ["all", "48", "24"]
    assert lines[7:10] == [
        "  test queries: 8 images",
        "  single-shot gallery of the all-search: 8 images",
        "  single-shot gallery of the indoor-search: 4 images",
    ]
    text = "\n".join(lines)
    assert re.search(r"problem: .*one split only, got 1 in train and val: 1\.", text)
    assert "deviation: train: 3 identities, published 601" in lines
    assert f"bad image: {root / 'cam1/0001/0001.jpg'}: an empty file" in lines
    assert lines[-1] == "The data set is not complete and sound."
    good = str(check_dataset(replace(table, problems=()), "mine"))
    assert good.endswith("No published structure to compare with; nothing is wrong with the files.")
    sound = table_of(
        {camera: dict.fromkeys(range(1, 912), 2) for camera in range(1, 7)},
        {"train": range(1, 602), "val": range(602, 687), "test": range(687, 912)},
    )
    assert str(check_dataset(sound, "scene_regions")).endswith("Equal to the published structure.")
