"""Layouts of synthetic sets: read by the readers of the real ones, repeatable, and protected."""

import csv
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vireid_fast.data.check import check_folder
from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.datasets.llcm import read_llcm
from vireid_fast.data.datasets.manifest import read_manifest
from vireid_fast.data.datasets.regdb import read_regdb
from vireid_fast.data.synthetic import (
    LAYOUTS,
    contact_sheet,
    is_synthetic,
    render_person,
    sample_identity,
    write_layout,
    write_sysu_layout,
)

SIZE = (32, 16)
SMALL = {"identities": 4, "size": SIZE, "seed": 5}
IMAGES = ("sysu_mm01", "regdb", "llcm", "manifest")


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    """One small set of each layout of images."""
    folder = tmp_path_factory.mktemp("layouts")
    for name in IMAGES:
        assert write_layout(name, folder / name, views=2, **SMALL)
    return {name: folder / name for name in IMAGES}


@pytest.mark.parametrize("layout", IMAGES)
def test_the_reader_accepts_the_set(sets, layout):
    reports = check_folder(layout, sets[layout], decode=True)
    assert reports.ok, str(reports)
    for report in reports.reports:
        assert report.synthetic and not report.warnings
        assert report.counted.num_identities("train") > 0
    assert reports.reports[0].decoded == sum(reports.reports[0].counted.total.values())


@pytest.mark.parametrize("layout", IMAGES)
def test_equal_arguments_give_equal_files_and_write_nothing_twice(sets, tmp_path, layout):
    root = tmp_path / "set"
    done = []
    write_layout(layout, root, views=2, **SMALL, progress=lambda *call: done.append(call))
    assert done == [(n, 4) for n in range(1, 5)]
    assert files_of(root) == files_of(sets[layout]) and is_synthetic(root)
    assert not write_layout(layout, root, views=2, **SMALL)
    assert write_layout(layout, root, views=1, **SMALL)
    captions = json.loads((root / "captions.json").read_text())
    assert list(captions) == ["0001", "0002", "0003", "0004"]


@pytest.mark.parametrize("layout", IMAGES)
def test_an_interrupted_set_is_drawn_again(sets, tmp_path, layout):
    root = tmp_path / "set"

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_layout(layout, root, views=2, **SMALL, progress=interrupt)
    assert not is_synthetic(root)
    assert write_layout(layout, root, views=2, **SMALL)
    assert files_of(root) == files_of(sets[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_foreign_folders_are_kept(sets, tmp_path, layout):
    """Files of a person, real data, and a set of another layout."""
    for place in ("notes.txt", "Visible/1/a.png", "idx/mine.txt", "images/1.txt", "exp/a/b.txt"):
        root = tmp_path / place.replace("/", "_")
        (root / place).parent.mkdir(parents=True)
        (root / place).write_text("mine")
        (root / "synth.json").write_text("{}")
        before = files_of(root)
        with pytest.raises(FileExistsError, match="is no synthetic set of ours in this layout"):
            write_layout(layout, root)
        assert files_of(root) == before
    other = sets["llcm" if layout != "llcm" else "regdb"]
    before = files_of(other)
    with pytest.raises(FileExistsError, match="is no synthetic set of ours in this layout"):
        write_layout(layout, other)
    assert files_of(other) == before
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is no folder"):
        write_layout(layout, tmp_path / "file")


def test_marker_of_the_first_layout_stays_as_it_was(tmp_path):
    """Sets that exist are not drawn again by a newer version of the package."""
    write_sysu_layout(tmp_path, identities=3, views=1, size=SIZE, splits=(0.34, 0.33, 0.33))
    assert json.loads((tmp_path / "synth.json").read_text()) == {
        "identities": 3, "views": 1, "size": [32, 16], "seed": 0, "splits": [0.34, 0.33, 0.33],
        "tracklets": 0, "tracklet_frames": 12, "quality": 92, "camera_dropout": 0.0,
        "generator_version": 1,
    }  # fmt: skip
    assert list(json.loads((tmp_path / "synth.json").read_text()))[-1] == "generator_version"


def test_regdb(sets):
    root = sets["regdb"]
    lists = {path.name: path.read_text().splitlines() for path in (root / "idx").iterdir()}
    assert len(lists) == 40
    form = r"(Visible|Thermal)/(\d)/(female|male)_(front|back)_([vt])_\d{5}_\2\.bmp (\d)"
    halves = set()
    for split in range(1, 11):
        held = {}
        for part in ("train", "test"):
            for word, folder in (("visible", "Visible"), ("thermal", "Thermal")):
                found = [re.fullmatch(form, x) for x in lists[f"{part}_{word}_{split}.txt"]]
                assert all(m and m[1] == folder and m[5] == word[0] for m in found)
                pairs = sorted({(int(m[2]), int(m[6])) for m in found})
                # Two persons of two images each, labelled from 0.
                assert [label for _, label in pairs] == [0, 1] and len(found) == 4
                held.setdefault(part, [i for i, _ in pairs])
                assert held[part] == [i for i, _ in pairs]
        assert sorted(held["train"] + held["test"]) == [1, 2, 3, 4]
        halves.add(tuple(held["train"]))
    assert len(halves) > 1
    table = read_regdb(root, split=3)
    for row in table.rows([2], modality=1):
        # Frames count through all persons; the second person's first one is the third.
        view = int(re.search(r"_t_(\d{5})_", table.paths[row])[1]) - 3
        with Image.open(table.file(row)) as picture:
            drawn = render_person(sample_identity(5, 2), 6, view, SIZE)
            np.testing.assert_array_equal(np.asarray(picture), drawn)


def test_llcm(sets):
    root = sets["llcm"]
    table = read_llcm(root)
    test = table.rows("test")
    assert all(table.paths[row].startswith("test_") for row in test)
    for row in test:
        parts = table.paths[row].split("/")
        whole = root / parts[0].removeprefix("test_") / parts[2] / parts[3]
        assert whole.read_bytes() == table.file(row).read_bytes()
        assert f"_c{table.camera_ids[row]:02d}_" in parts[3]
    assert set(table.camera_ids[table.rows("test", modality=0)]) == {1, 2, 3, 4}
    assert set(table.camera_ids[table.rows("test", modality=1)]) == {1, 2, 4}
    # No two of the cameras that are drawn by one camera show the same picture.
    contents = {table.file(row).read_bytes() for row in range(len(table))}
    assert len(contents) == len(table)
    assert (root / "idx" / "test_id.txt").read_text() == (
        ",".join(map(str, table.splits["test"])) + "\n"
    )


def test_llcm_without_its_test_folders(sets, tmp_path):
    write_layout("llcm", tmp_path, views=2, **SMALL)
    before = read_llcm(tmp_path)
    for folder in ("test_vis", "test_nir"):
        (tmp_path / folder).rename(tmp_path / f"moved_{folder}")
    after = read_llcm(tmp_path)
    for name in ("person_ids", "camera_ids", "modality", "image_indices"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_manifest_of_images_and_of_tracklets(sets, tmp_path):
    table = read_manifest(sets["manifest"])
    assert len(table) == 4 * 6 * 2
    tests = table.rows("test")
    np.testing.assert_array_equal(table.roles[tests], table.modality[tests])
    assert write_layout("manifest", tmp_path, tracklets=2, tracklet_frames=3, **SMALL)
    with open(tmp_path / "manifest.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0] == {
        "path": "images/0001/cam1/T1/001.jpg", "person_id": "1", "camera_id": "1",
        "modality": "visible", "split": rows[0]["split"], "tracklet": "T1", "frame": "1",
    }  # fmt: skip
    walks = read_manifest(tmp_path)
    assert len(walks) == 4 * 6 * 2 and set(walks.length) == {3}
    assert {split: ids.tolist() for split, ids in walks.splits.items()} == {
        split: ids.tolist() for split, ids in table.splits.items()
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_writer_has_a_reader_and_the_common_options(layout):
    assert layout in DATASETS
    options = inspect.signature(LAYOUTS[layout]).parameters
    assert {"root", "identities", "size", "seed", "progress"} <= options.keys()
    assert all(option.default is not inspect.Parameter.empty
               for name, option in options.items() if name != "root")  # fmt: skip


def test_options_that_a_layout_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"layout must be one of .*'coco'"):
        write_layout("coco", tmp_path)
    with pytest.raises(
        ValueError,
        match=r"tracklets must be left out for the layout regdb, got 2\. It takes identities, s",
    ):
        write_layout("regdb", tmp_path / "set", tracklets=2)
    with pytest.raises(ValueError, match=r"test_share must lie in \[0, 1\], got 2"):
        write_layout("llcm", tmp_path / "set", test_share=2)
    with pytest.raises(ValueError, match="write_regdb_layout: views must be at least 1, got 0"):
        write_layout("regdb", tmp_path / "set", views=0)
    assert not (tmp_path / "set").exists()


def test_contact_sheet_of_a_data_set(sets, tmp_path):
    """A column for each camera and view, visible ones first."""
    tile = (20, 10)
    table = read_llcm(sets["llcm"])
    sheet = contact_sheet(table, identities=2, views=2, tile=tile)
    assert sheet.size == (7 * 2 * (10 + 4) + 4, 2 * (20 + 4) + 4)
    row = table.rows([1], modality=0, cameras=[1])[1]
    with Image.open(table.file(row)) as picture:
        expected = np.asarray(picture.resize((10, 20), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(np.asarray(sheet)[4:24, 18:28], expected)
    write_layout("manifest", tmp_path, tracklets=1, tracklet_frames=5, **SMALL)
    walks = read_manifest(tmp_path)
    sheet = contact_sheet(walks, identities=1, views=2, tile=SIZE)
    # Of five frames the first and the third.
    with Image.open(tmp_path / "images/0001/cam1/T1/003.jpg") as picture:
        np.testing.assert_array_equal(np.asarray(sheet)[4:36, 24:40], np.asarray(picture))
