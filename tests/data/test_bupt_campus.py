"""BUPTCampus' reader: pairs, roles, the auxiliary set, and every way in which a copy is broken."""

import json
import re
import shutil
from pathlib import Path

import pytest

from vireid_fast.data.check import check_dataset, check_folder
from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.datasets.bupt_campus import read_bupt_campus
from vireid_fast.data.table import DatasetError

CAMERAS = ("LS3", "G25", "CQ1", "W4", "TSG1", "TSG2")
LISTS = {
    "train.txt": ["11 RGB/IR W4 1", "2 RGB/IR LS3 1", "11 RGB/IR TSG2 2"],
    "train_auxiliary.txt": ["5 RGB/IR G25 1"],
    "query.txt": ["7 IR CQ1 1", "9 RGB W4 1"],
    "gallery.txt": ["7 RGB LS3 1", "7 IR LS3 1", "9 IR TSG1 1", "9 RGB TSG1 1"],
}
# Frames of a tracklet; 3 where nothing is said.
LENGTHS = {("11", "TSG2", "2"): 5, ("9", "TSG1", "1"): 1}
FILES = {"train.txt": -1, "train_auxiliary.txt": -1, "query.txt": 1, "gallery.txt": 0}


def paths_of(person, modality, camera, tracklet):
    count = LENGTHS.get((person, camera, tracklet), 3)
    return [f"{person}/{modality}/{camera}/{tracklet}/{124000 + n}.jpg" for n in range(count)]


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "BUPTCampus"
    listing: dict = {}
    for lines in LISTS.values():
        for line in lines:
            person, _, camera, tracklet = line.split()
            # The public set lists both modalities of every tracklet.
            for modality in ("IR", "RGB"):
                paths = paths_of(person, modality, camera, tracklet)
                for path in paths:
                    file = root / "DATA" / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.touch()
                cameras = listing.setdefault(person, {}).setdefault(modality, {})
                cameras.setdefault(camera, {})[tracklet] = paths
    (root / "data_paths.json").write_text(json.dumps(listing))
    for name, lines in LISTS.items():
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def expected_tracks():
    """(person, camera, modality, role, paths) in the order of the lists."""
    tracks = []
    for name, lines in LISTS.items():
        for line in lines:
            person, words, camera, tracklet = line.split()
            for modality in ("RGB", "IR"):
                if modality in words.split("/"):
                    paths = [f"DATA/{p}" for p in paths_of(person, modality, camera, tracklet)]
                    tracks.append((int(person), CAMERAS.index(camera) + 1,
                                   int(modality == "IR"), FILES[name], paths))  # fmt: skip
    return tracks


def tracks_of(table):
    return [
        (int(person), int(camera), int(modality), int(role),
         [table.frames.paths[row] for row in table.frame_rows(n)])
        for n, (person, camera, modality, role) in enumerate(zip(
            table.person_ids, table.camera_ids, table.modality, table.roles, strict=True))
    ]  # fmt: skip


def expect_problem(root, pattern):
    with pytest.raises(DatasetError, match=pattern):
        read_bupt_campus(root)
    table = read_bupt_campus(root, strict=False)
    assert any(re.search(pattern, problem) for problem in table.problems)
    return table


def change(root, **lines):
    """Append lines to lists: change(root, query="9 IR W4 1")."""
    for name, line in lines.items():
        with open(root / f"{name}.txt", "a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def test_tracklets(root):
    table = read_bupt_campus(root)
    assert tracks_of(table) == expected_tracks()
    assert {name: ids.tolist() for name, ids in table.splits.items()} == {
        "train": [2, 11], "val": [], "test": [7, 9], "auxiliary": [5],
    }  # fmt: skip
    # Pairs of the training lists are partners, those of the test are not said to be.
    assert table.partner.tolist() == [1, 0, 3, 2, 5, 4, 7, 6, *[-1] * 6]
    assert table.length.tolist() == [3, 3, 3, 3, 5, 5, 3, 3, 3, 3, 3, 3, 1, 1]
    assert table.root == root
    assert all(table.frames.file(row).is_file() for row in range(len(table.frames)))
    assert table.problems == table.warnings == ()
    assert table.rows("train+auxiliary").tolist() == list(range(8))
    assert table.rows("auxiliary", modality=1).tolist() == [7]


def test_the_folder_of_the_pictures_is_a_root_too(root, monkeypatch):
    expected = tracks_of(read_bupt_campus(root))
    table = read_bupt_campus(root / "DATA")
    assert tracks_of(table) == expected
    assert table.root == root
    monkeypatch.chdir(root / "DATA")
    assert tracks_of(read_bupt_campus(".")) == expected


def test_pictures_of_another_folder_name(root):
    (root / "DATA").rename(root / "frames")
    table = read_bupt_campus(root / "frames")
    assert table.frames.paths[0] == "frames/11/RGB/W4/1/124000.jpg"
    assert table.frames.file(0).is_file()


def test_pictures_beside_the_lists(root):
    for folder in (root / "DATA").iterdir():
        folder.rename(root / folder.name)
    (root / "DATA").rmdir()
    assert read_bupt_campus(root).frames.paths[0] == "11/RGB/W4/1/124000.jpg"


def test_windows_separators(root):
    text = (root / "data_paths.json").read_text()
    (root / "data_paths.json").write_text(re.sub(r"/(?=\w)", r"\\\\", text))
    assert tracks_of(read_bupt_campus(root)) == expected_tracks()


@pytest.mark.parametrize("strict", [True, False])
def test_a_set_that_cannot_be_read_at_all(root, tmp_path, strict):
    with pytest.raises(DatasetError, match=r"a folder with DATA, data_paths\.json and the"):
        read_bupt_campus(tmp_path / "none", strict=strict)
    for text, got in (("{", "Expecting property name"), ("[]", "object of persons, got list")):
        (root / "data_paths.json").write_text(text)
        with pytest.raises(DatasetError, match=rf"data_paths\.json: the list of paths .*{got}"):
            read_bupt_campus(root, strict=strict)
    (root / "data_paths.json").write_text("{}")
    with pytest.raises(DatasetError, match="the data root must hold tracklets in DATA, listed in"):
        read_bupt_campus(root, strict=strict)
    (root / "data_paths.json").unlink()
    with pytest.raises(DatasetError, match=r"must hold data_paths\.json beside its folder DATA"):
        read_bupt_campus(root, strict=strict)


@pytest.mark.parametrize("name", ["train.txt", "query.txt", "gallery.txt"])
def test_missing_and_empty_lists(root, name):
    (root / name).write_text("\n")
    expect_problem(root, rf"{name}: the list holds no line")
    (root / name).unlink()
    expect_problem(root, rf"{name}: the list is missing")


def test_a_set_without_auxiliary_identities(root):
    (root / "train_auxiliary.txt").unlink()
    table = read_bupt_campus(root)
    assert any("train_auxiliary.txt: the list is missing" in w for w in table.warnings)
    assert table.splits["auxiliary"].tolist() == []
    assert tracks_of(table) == [*expected_tracks()[:6], *expected_tracks()[8:]]
    assert table.partner.tolist() == [1, 0, 3, 2, 5, 4, *[-1] * 6]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "train",
            "11 RGB W4 1",
            r"`person RGB/IR camera tracklet`, camera one of LS3, G25, .*TSG2",
        ),
        ("train", "11 RGB/IR W4", "every line must be .*got '11 RGB/IR W4' in line 4"),
        ("train", "x RGB/IR W4 1", "every line must be .*got 'x RGB/IR W4 1' in line 4"),
        ("train", "11 RGB/IR W5 1", "every line must be .*got '11 RGB/IR W5 1' in line 4"),
        ("query", "7 RGB/IR LS3 1", "`person RGB or IR camera tracklet`.*got '7 RGB/IR LS3 1' in"),
        ("gallery", "7 FakeIR LS3 1", "every line must be .*got '7 FakeIR LS3 1' in line 5"),
        ("train", "11 RGB/IR W4 1", "tracklet must be listed once, got '11 RGB/IR W4 1' in line 4"),
        ("gallery", "9 RGB TSG1 1", "tracklet must be listed once, got '9 RGB TSG1 1' in line 5"),
        (
            "train",
            "11 RGB/IR W4 8",
            r"must name a tracklet of data_paths\.json with frames, got '11",
        ),
        (
            "query",
            "8 RGB W4 1",
            r"must name a tracklet of data_paths\.json with frames, got '8 RGB",
        ),
    ],
)
def test_bad_lines(root, name, line, message):
    change(root, **{name: line})
    table = expect_problem(root, rf"BUPTCampus/{name}\.txt: .*{message}")
    assert tracks_of(table) == expected_tracks()


@pytest.mark.parametrize(
    "frames", [[], None, "a.jpg", [1], ["/etc/a.jpg"], ["../../a.jpg"], ["11/../../a.jpg"]]
)
def test_bad_paths_of_a_tracklet(root, frames):
    """One half of a pair is unusable: the pair is left out."""
    file = root / "data_paths.json"
    listing = json.loads(file.read_text())
    listing["11"]["IR"]["W4"]["1"] = frames
    file.write_text(json.dumps(listing))
    table = expect_problem(root, r"train\.txt: every line must name a tracklet .* in line 1\.")
    assert tracks_of(table) == expected_tracks()[2:]
    assert table.partner[:6].tolist() == [1, 0, 3, 2, 5, 4]


def test_missing_frames_are_listed(root):
    (root / "DATA/11/RGB/TSG2/2/124003.jpg").unlink()
    shutil.rmtree(root / "DATA/2/IR")
    table = expect_problem(
        root, r"data_paths\.json: every listed image must exist, got 4 of 42 that do not: "
        r"DATA/2/IR/LS3/1/124000\.jpg",
    )  # fmt: skip
    expected = expected_tracks()
    expected[4][4].pop(3)
    # The visible tracklet of identity 2 has lost its partner.
    assert tracks_of(table) == [*expected[:3], *expected[4:]]
    assert table.partner.tolist() == [1, 0, -1, 4, 3, 6, 5, *[-1] * 6]
    assert any("got 1 without infrared images: 2" in problem for problem in table.problems)


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ({"query": "11 RGB W4 1"}, "train and test: 11"),
        ({"gallery": "2 IR LS3 1"}, "train and test: 2"),
        ({"train_auxiliary": "11 RGB/IR W4 1"}, "train and auxiliary: 11"),
        ({"gallery": "5 RGB G25 1"}, "test and auxiliary: 5"),
    ],
)
def test_identities_in_two_splits(root, lines, parts):
    change(root, **lines)
    expect_problem(root, rf"an identity must be in one split only, got 1 in {parts}\. Restore")


def test_a_query_that_is_in_the_gallery_has_two_rows(root):
    change(root, gallery="9 RGB W4 1")
    table = read_bupt_campus(root)
    expected = expected_tracks()
    assert tracks_of(table) == [*expected, (9, 4, 0, 0, expected[9][4])]
    assert any("1 tracklets are in query.txt and in gallery.txt" in w for w in table.warnings)


def test_queries_without_a_match_are_a_warning(root):
    change(root, query="2 RGB LS3 1")
    file = root / "gallery.txt"
    file.write_text("\n".join(LISTS["gallery.txt"][1:]) + "\n")
    warnings = read_bupt_campus(root, strict=False).warnings
    assert any("1 infrared queries have no visible match" in w and ": identities 7." in w
               for w in warnings)  # fmt: skip
    assert any("1 visible queries have no infrared match" in w and ": identities 2." in w
               for w in warnings)  # fmt: skip


def test_uneven_pairs_are_a_warning(root):
    file = root / "data_paths.json"
    listing = json.loads(file.read_text())
    listing["2"]["IR"]["LS3"]["1"].pop()
    file.write_text(json.dumps(listing))
    (warning,) = read_bupt_campus(root).warnings
    assert "1 aligned pairs have more frames in one modality: identity 2, camera 1" in warning


def test_check_compares_with_the_published_counts(root):
    entry = DATASETS["bupt_campus"]
    report = check_dataset(entry.read(root, strict=False), "bupt_campus")
    assert not report.ok
    for line in (
        "train: 2 identities, published 1,074",
        "auxiliary: 1 identities, published 930",
        "test: 2 identities, published 1,076",
        "train: 3 visible tracklets, published 3,574",
        "train: 11 infrared frames, published 398,069",
        "auxiliary: 3 visible frames, published 104,575",
        "visible queries: 1 tracklets, published 540",
        "infrared queries: 1 tracklets, published 536",
        "visible gallery: 2 tracklets, published 2,422",
        "infrared gallery: 2 tracklets, published 2,422",
    ):
        assert line in report.deviations
    assert str(check_folder("bupt_campus", root)) == str(report)


def test_published_counts_agree_with_each_other():
    published = DATASETS["bupt_campus"].published
    for word in ("visible", "infrared"):
        roles = published.sizes[f"{word} queries"] + published.sizes[f"{word} gallery"]
        assert published.rows["test"][word] == roles
    frames = published.frames
    # Published: 796,138 frames of training.
    assert sum(frames["train"].values()) == 796138
    assert sum(published.identities.values()) == 3080
