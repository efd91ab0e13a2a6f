"""HITSZ-VCM's reader: both trees, rows from 1, and every way in which a copy is broken."""

import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from vireid_fast.data.check import check_dataset, check_folder
from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.datasets.hitsz_vcm import read_vcm_layout
from vireid_fast.data.structure import Structure, count_structure, describe_differences
from vireid_fast.data.table import DatasetError

# person, digit of the modality, camera, tracklet, frames
TRAIN = (
    (3, 2, 3, 1, (1, 2, 3)),
    (3, 1, 2, 1, (10, 9)),
    (12, 1, 1, 1, (4,)),
    (12, 2, 12, 2, (5, 6)),
)
TEST = ((7, 2, 1, 1, (1, 2)), (7, 1, 2, 1, (1, 2, 3)), (7, 1, 2, 2, (4, 5)), (8, 2, 3, 1, (7, 8)))
QUERIES = (2, 3)


def file_of(person, digit, camera, frame):
    return f"{person:04d}/{'ir' if digit == 1 else 'rgb'}/D{camera}/{frame}.jpg"


def write(root, frames_in=("Train", "Test"), lists_in="info"):
    info = root / lists_in
    info.mkdir(parents=True, exist_ok=True)
    for part, folder, tracks in zip(("train", "test"), frames_in, (TRAIN, TEST), strict=True):
        names, rows = [], []
        for person, digit, camera, tracklet, frames in tracks:
            first = len(names) + 1
            for frame in frames:
                path = root / folder / file_of(person, digit, camera, frame)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                names.append(f"{person:04d}M{digit}D{camera}T{tracklet}F{frame}.jpg")
            rows.append(f"{digit} {first} {len(names)} {person:04d} {camera}")
        (info / f"{part}_name.txt").write_text("\n".join(names) + "\n")
        (info / f"track_{part}_info.txt").write_text("\n".join(rows) + "\n")
    (info / "query_IDX.txt").write_text(" ".join(map(str, QUERIES)) + " \n")
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    return write(tmp_path / "VCM")


def change(root, name, line, text):
    """Replace one line, from 1, of a list."""
    file = root / "info" / name
    lines = file.read_text().splitlines()
    lines[line - 1] = text
    file.write_text("\n".join(lines) + "\n")


def expect_problem(root, pattern):
    with pytest.raises(DatasetError, match=pattern):
        read_vcm_layout(root)
    table = read_vcm_layout(root, strict=False)
    assert any(re.search(pattern, problem) for problem in table.problems)
    return table


def tracks_of(table):
    """What the table says of each tracklet, with its paths."""
    return [
        (int(person), int(camera), int(modality), int(role),
         [table.frames.paths[row] for row in table.frame_rows(n)])
        for n, (person, camera, modality, role) in enumerate(zip(
            table.person_ids, table.camera_ids, table.modality, table.roles, strict=True))
    ]  # fmt: skip


def expected_tracks(train="Train/", test="Test/"):
    tracks = []
    for folder, part in ((train, TRAIN), (test, TEST)):
        for number, (person, digit, camera, _, frames) in enumerate(part, start=1):
            role = -1 if part is TRAIN else int(number in QUERIES)
            paths = [folder + file_of(person, digit, camera, frame) for frame in frames]
            tracks.append((person, camera, 1 if digit == 1 else 0, role, paths))
    return tracks


def test_tracklets(root):
    table = read_vcm_layout(root)
    assert tracks_of(table) == expected_tracks()
    assert {name: ids.tolist() for name, ids in table.splits.items()} == {
        "train": [3, 12], "val": [], "test": [7, 8],
    }  # fmt: skip
    assert table.start.tolist() == [0, 3, 5, 6, 8, 10, 13, 15]
    assert table.length.tolist() == [3, 2, 1, 2, 2, 3, 2, 2]
    assert table.frames.image_indices.tolist() == [
        1, 2, 3, 1, 2, 1, 1, 2, 1, 2, 1, 2, 3, 1, 2, 1, 2,
    ]  # fmt: skip
    assert table.partner is None
    assert all(table.frames.file(row).is_file() for row in range(len(table.frames)))
    # Identity 8 has no infrared tracklet.
    assert table.problems == ()
    assert [re.sub(r".*: ", "", w) for w in table.warnings] == [
        "8. They give queries without a match, or none at all."
    ]


@pytest.mark.parametrize(
    ("frames_in", "lists_in"),
    [
        (("data", "data"), "info"),
        (("data", "data"), ""),
        (("data", "data"), "data"),
        ((".", "."), "info"),
        ((".", "."), ""),
        (("Train", "Test"), ""),
    ],
)
def test_flat_trees(tmp_path, frames_in, lists_in):
    root = write(tmp_path, frames_in, lists_in)
    prefix = {".": "", "data": "data/"}
    before = [prefix.get(folder, f"{folder}/") for folder in frames_in]
    assert tracks_of(read_vcm_layout(root)) == expected_tracks(*before)


def test_short_tracklets_are_left_out_where_asked(root):
    full = expected_tracks()
    for frames in (1, 2, 3):
        kept = [track for track in full if len(track[4]) >= frames]
        assert tracks_of(read_vcm_layout(root, min_frames=frames)) == kept
    assert len(read_vcm_layout(root, min_frames=4)) == 0


@pytest.mark.parametrize(
    "name",
    ["train_name", "track_train_info", "test_name", "track_test_info", "query_IDX"],
)
def test_missing_and_empty_lists(root, name):
    file = root / "info" / f"{name}.txt"
    file.write_text("\n \n")
    expect_problem(root, rf"info/{name}\.txt: the list holds no line\. Restore it")
    file.unlink()
    expect_problem(root, rf"info/{name}\.txt: the list is missing\. Restore it")
    file.write_bytes(b"\xff\xfe\x00")
    expect_problem(root, rf"info/{name}\.txt: the list must be a readable text, got 'utf-8'")


def test_a_set_without_lists_or_root(root, tmp_path):
    shutil.rmtree(root / "info")
    for strict in (True, False):
        with pytest.raises(DatasetError, match=r"VCM: the data root must hold tracklets as Train"):
            read_vcm_layout(root, strict=strict)
        with pytest.raises(DatasetError, match="must be a folder with Train, Test and info, or"):
            read_vcm_layout(tmp_path / "none", strict=strict)


@pytest.mark.parametrize(
    "text",
    [
        "0003X2D3T1F1.jpg",
        "003M2D3T1F1.jpg",
        "0003M3D3T1F1.jpg",
        "0003M2D3F1.jpg",
        "0003M2D3T1F",
        "0003M2D3T1F../1.jpg",
        "",
    ],
)
def test_malformed_names(root, text):
    change(root, "train_name.txt", 2, text)
    table = expect_problem(
        root, rf"train_name\.txt: every line must name a frame as in 0001M1D2T3F4\.jpg.* "
        rf"got {re.escape(repr(text))} in line 2\. Restore",
    )  # fmt: skip
    # The tracklet of that frame is left out; blank lines do not shift the rows behind them.
    assert tracks_of(table) == expected_tracks()[1:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 1 3 3", r"every line must be `modality start end person camera`.*got '2 1 3 3' in"),
        ("2 1 3 3 3 3", "every line must be `modality start end person camera`"),
        ("3 1 3 3 3", "modality 1 or 2, got '3 1 3 3 3' in line 1"),
        ("2 1 x 3 3", "every line must be `modality start end person camera`"),
        ("2 1.0 3 3 3", "every line must be `modality start end person camera`"),
        ("", "every line must be .* got '' in line 1"),
        ("2 0 3 3 3", r"start must be at least 1, got 0 in line 1\. Rows count from 1"),
        ("2 -1 3 3 3", "start must be at least 1, got -1 in line 1"),
        ("2 3 1 3 3", "start must not lie behind end, got 3 to 1 in line 1"),
        ("2 1 9 3 3", r"end must be at most 8, the last line of train_name\.txt, got 9 in line 1"),
        (
            "1 1 3 3 3",
            r"identity and modality of its frames, got infrared 3 for 0003/rgb/D3/1\.jpg",
        ),
        ("2 1 3 4 3", r"identity and modality of its frames, got visible 4 for 0003/rgb/D3/1\.jpg"),
        ("2 1 4 3 3", r"identity and modality of its frames, got visible 3 for 0003/ir/D2/10\.jpg"),
    ],
)
def test_bad_tracks(root, text, message):
    change(root, "track_train_info.txt", 1, text)
    table = expect_problem(root, rf"info/track_train_info\.txt: .*{message}")
    assert tracks_of(table) == expected_tracks()[1:]


def test_many_bad_lines_are_one_problem(root):
    for line in range(1, 5):
        change(root, "track_test_info.txt", line, f"2 {line} 99 7 1")
    table = expect_problem(
        root, r"got 99 in line 1, 99 in line 2, 99 in line 3 and 1 more\. Restore the lists"
    )
    assert tracks_of(table) == expected_tracks()[:4]


def test_rows_outside_every_tracklet_and_in_several(root):
    change(root, "track_train_info.txt", 1, "2 1 2 3 3")
    change(root, "track_test_info.txt", 3, "1 5 7 7 2")
    table = read_vcm_layout(root)
    assert any("train_name.txt: 1 frames are part of no tracklet" in w for w in table.warnings)
    assert any("test_name.txt: 1 frames are part of several" in w for w in table.warnings)
    assert tracks_of(table)[6][4] == [f"Test/0007/ir/D2/{frame}.jpg" for frame in (3, 4, 5)]


def test_another_camera_than_the_names_is_a_warning(root):
    change(root, "track_test_info.txt", 2, "1 3 5 7 9")
    table = read_vcm_layout(root)
    assert any("1 tracklets have another camera" in w and "Lines 2." in w for w in table.warnings)
    assert table.camera_ids[5] == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 0", r"query_IDX\.txt: every entry must be a line of the test list, 1 to 4, got '0' in"),
        ("2 5", "1 to 4, got '5' in line 1"),
        ("2 -3", "1 to 4, got '-3' in line 1"),
        ("2,3", "1 to 4, got '2,3' in line 1"),
        ("2 3 3", "a query must be listed once, got 1 repeated entries"),
        ("2\n3", r"the queries must stand in one line, got 2\. Join the lines"),
    ],
)
def test_bad_queries(root, text, message):
    (root / "info" / "query_IDX.txt").write_text(text)
    expect_problem(root, message)


def test_query_rows_count_bad_lines_of_the_test_list(root):
    change(root, "track_test_info.txt", 1, "broken")
    table = expect_problem(root, "got 'broken' in line 1")
    assert tracks_of(table) == [*expected_tracks()[:4], *expected_tracks()[5:]]


def test_visible_queries_are_a_warning(root):
    (root / "info" / "query_IDX.txt").write_text("1 2 3\n")
    table = read_vcm_layout(root)
    assert table.roles.tolist() == [-1] * 4 + [1, 1, 1, 0]
    assert any("got 1 visible ones: lines 1 of the test list" in w for w in table.warnings)


def test_missing_frames_are_listed(root):
    (root / "Train/0003/rgb/D3/2.jpg").unlink()
    shutil.rmtree(root / "Test/0007/ir")
    table = expect_problem(
        root, r"train_name\.txt: every listed image must exist, got 1 of 8 that do not: "
        r"Train/0003/rgb/D3/2\.jpg\. Restore",
    )  # fmt: skip
    assert any("got 5 of 9 that do not: Test/0007/ir/D2/1.jpg" in p for p in table.problems)
    expected = expected_tracks()
    expected[0][4].pop(1)
    # Two tracklets have no frame left.
    assert tracks_of(table) == [*expected[:5], expected[7]]


def test_identities_in_training_and_test(root):
    change(root, "test_name.txt", 1, "0003M2D1T1F1.jpg")
    change(root, "test_name.txt", 2, "0003M2D1T1F2.jpg")
    change(root, "track_test_info.txt", 1, "2 1 2 3 1")
    for frame in (1, 2):
        path = root / "Test" / file_of(3, 2, 1, frame)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    expect_problem(
        root, r"VCM/info: an identity must be in one split only, got 1 in train and test"
    )


def test_training_identities_of_one_modality(root):
    file = root / "info" / "track_train_info.txt"
    file.write_text("\n".join(file.read_text().splitlines()[1:]) + "\n")
    expect_problem(root, "every train identity must have .* got 1 without visible images: 3")


def test_check_counts_what_the_public_code_takes(root):
    entry = DATASETS["hitsz_vcm"]
    report = check_dataset(entry.read(root, strict=False), "hitsz_vcm")
    assert not report.ok
    assert report.counted.sizes["training"] == 4
    assert report.counted.sizes["training and test"] == 8
    assert report.counted.sizes["infrared queries"] == 2
    assert report.counted.sizes["infrared queries, 12 frames or more"] == 0
    for line in (
        "train: 2 identities, published 500",
        "test: 2 identities, published 427",
        "all: 17 frames, published 463,259",
        "training: 4 tracklets, published 11,061",
        "training and test: 8 tracklets, published 21,863",
        "infrared queries: 2 tracklets, published 5,159",
        "infrared queries, 12 frames or more: 0 tracklets, published 4,584",
        "visible gallery, 12 frames or more: 0 tracklets, published 5,099",
        "infrared training, 12 frames or more: 0 tracklets, published 4,291",
        "visible training, 12 frames or more: 0 tracklets, published 5,460",
    ):
        assert line in report.deviations
    # What no public source tells is not compared.
    assert not any(d.startswith("train:") and "tracklets" in d for d in report.deviations)


def test_published_counts_agree_with_each_other():
    published = DATASETS["hitsz_vcm"].published
    rows, sizes = published.rows["test"], published.sizes
    assert sizes["infrared queries"] == rows["infrared"]
    assert sizes["visible gallery"] == rows["visible"]
    assert sizes["training and test"] - sizes["training"] == sum(rows.values())


def test_long_tracklets_are_counted(tmp_path):
    names = [f"0001M{m}D1T1F{f}.jpg" for m in (1, 2) for f in range(1, 25)]
    tracks = ["1 1 11 1 1", "1 12 24 1 1", "2 25 36 1 1", "2 37 48 1 1"]
    root = write(tmp_path)
    (root / "info/train_name.txt").write_text("\n".join(names))
    (root / "info/track_train_info.txt").write_text("\n".join(tracks))
    for name in names:
        path = root / "Train" / file_of(1, int(name[5]), 1, name.split("F")[1][:-4])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (report,) = check_folder("hitsz_vcm", root).reports
    sizes = report.counted.sizes
    assert sizes["infrared training, 12 frames or more"] == 1
    assert sizes["visible training, 12 frames or more"] == 2
    assert "infrared training, 12 frames or more: 1 tracklets" in str(report)


def test_scene_tracks(shared_dir, tmp_path):
    """The real set's lists, with empty files in place of the pictures."""
    with tarfile.open(shared_dir / "data" / "scene-tracks-vcm.tar") as archive:
        for member in archive:
            if "/info/" in f"/{member.name}" and member.isfile():
                member.name = f"info/{Path(member.name).name}"
                archive.extract(member, tmp_path, filter="data")
            elif member.isfile():
                path = tmp_path / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    table = read_vcm_layout(tmp_path)
    assert table.problems == table.warnings == ()
    assert len(table.rows("train")) == 1112
    assert len(table.rows("test")) == 360
    assert np.bincount(table.roles + 1).tolist() == [1112, 180, 180]
    assert (table.modality[table.roles == 1] == 1).all()
    published = DATASETS["scene_tracks"].published
    assert isinstance(published, Structure)
    assert describe_differences(count_structure(table), published) == []
