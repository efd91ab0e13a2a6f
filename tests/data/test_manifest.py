"""People's own data: what a manifest means, and what each mistake in it is answered with."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from vireid_fast.data.check import check_folder
from vireid_fast.data.datasets.manifest import read_manifest
from vireid_fast.data.structure import count_structure
from vireid_fast.data.table import DatasetError, ImageTable
from vireid_fast.data.tracklets import TrackletTable

COLUMNS = ("path", "person_id", "camera_id", "modality", "split")
# Two persons to train on and one to test.
ROWS = (
    ("b/1.jpg", 12, 2, "visible", "train"),
    ("b/0.jpg", 12, 2, "rgb", "train"),
    ("b/2.jpg", 12, 3, "infrared", "train"),
    ("a/1.png", 5, "", "IR", "train"),
    ("a/2.png", 5, 1, "0", "train"),
    ("c/1.jpg", 7, 6, "thermal", "query"),
    ("c/2.jpg", 7, 1, "Visible", "gallery"),
    ("c/3.jpg", -1, 1, "visible", "gallery"),
)
VIDEO = (*COLUMNS, "tracklet", "frame")


def video_rows():
    """Frames out of order; T10 of person 1 comes after T2."""
    return [
        (f"{person}/{kind}/T{track}/{frame}.jpg", person, camera, kind, split, f"T{track}", frame)
        for person, split in ((2, "test"), (1, "train"))
        for camera, kind in ((3, "infrared"), (1, "visible"))
        for track in (10, 2)
        for frame in (11, 9, 10)[: 3 if track == 2 else 2]
    ]


def write(folder: Path, rows, columns=COLUMNS, name="manifest.csv", touch=True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    place = columns.index("path") if "path" in columns else None
    for row in rows if touch and place is not None else ():
        file = folder / str(row[place])
        if ".." not in file.parts and str(row[place]):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return folder


def change(rows, number, **cells):
    """The rows with some cells of one of them replaced."""
    names = VIDEO[: len(rows[0])]
    row = tuple(cells.get(name, cell) for name, cell in zip(names, rows[number], strict=True))
    return [*rows[:number], row, *rows[number + 1 :]]


def expect_problem(root, pattern):
    with pytest.raises(DatasetError, match=pattern):
        read_manifest(root)
    table = read_manifest(root, strict=False)
    assert any(re.search(pattern, problem) for problem in table.problems)
    return table


def test_rows_are_sorted_and_typed(tmp_path):
    table = read_manifest(write(tmp_path, ROWS))
    assert isinstance(table, ImageTable) and table.root == tmp_path
    found = zip(table.person_ids, table.camera_ids, table.modality, table.paths,
                table.image_indices, table.roles, strict=True)  # fmt: skip
    assert list(found) == [
        (-1, 1, 0, "c/3.jpg", 1, 0),
        (5, -1, 1, "a/1.png", 1, -1),
        (5, 1, 0, "a/2.png", 1, -1),
        (7, 1, 0, "c/2.jpg", 1, 0),
        (7, 6, 1, "c/1.jpg", 1, 1),
        (12, 2, 0, "b/0.jpg", 1, -1),
        (12, 2, 0, "b/1.jpg", 2, -1),
        (12, 3, 1, "b/2.jpg", 1, -1),
    ]
    assert {k: v.tolist() for k, v in table.splits.items()} == {
        "train": [5, 12], "val": [], "test": [-1, 7],
    }  # fmt: skip
    assert table.problems == table.warnings == ()
    assert count_structure(table).sizes == {
        "visible queries": 0, "infrared queries": 1, "visible gallery": 2, "infrared gallery": 0,
    }  # fmt: skip


def test_root_may_be_the_file_or_its_folder(tmp_path):
    write(tmp_path / "set", ROWS)
    write(tmp_path / "set", ROWS, name="people.csv")
    assert read_manifest(tmp_path / "set").paths == read_manifest(tmp_path / "set/people.csv").paths
    assert read_manifest(tmp_path / "set" / "people.csv").root == tmp_path / "set"


def test_spreadsheets_are_read(tmp_path):
    """A byte order mark, quoted commas, spaces, blank lines, other columns in another order."""
    rows = [(f"note, {n}", split, f" {kind} ", f"{person} ", f" {path}", "")
            for n, (path, person, _, kind, split) in enumerate(ROWS)]  # fmt: skip
    names = ("note", "split", "modality", "person_id", "path", "extra")
    write(tmp_path, [(r[0], r[1], r[2], r[3], r[4].strip(), "") for r in rows], names)
    file = tmp_path / "manifest.csv"
    file.write_text("\ufeff" + file.read_text().replace("\n", "\n\n"), encoding="utf-8")
    table = read_manifest(tmp_path)
    assert sorted(table.paths) == sorted(row[0] for row in ROWS)
    assert set(table.camera_ids) == {-1}


def test_without_roles_the_protocol_draws(tmp_path):
    rows = [(*row[:4], "test" if row[4] in ("query", "gallery") else row[4]) for row in ROWS[:-1]]
    table = read_manifest(write(tmp_path, rows))
    assert table.roles is None and table.splits["test"].tolist() == [7]


def test_text_ids_are_numbered_in_sorted_order(tmp_path):
    names = {12: "zoe", 5: "anna", 7: "Bob"}
    cameras = {"": "", 1: "door", 2: "hall", 3: "attic", 6: "yard"}
    rows = [(p, names[i], cameras[c], kind, s) for p, i, c, kind, s in ROWS[:-1]]
    table = read_manifest(write(tmp_path, rows))
    by_path = {path: n for n, path in enumerate(table.paths)}
    # Upper case sorts first.
    order = [table.person_ids[by_path[p]] for p in ("c/1.jpg", "a/1.png", "b/0.jpg")]
    assert order == [1, 2, 3]
    cameras = [table.camera_ids[by_path[p]] for p in ("b/2.jpg", "a/2.png", "b/0.jpg", "c/1.jpg",
                                                      "a/1.png")]  # fmt: skip
    assert cameras == [1, 2, 3, 4, -1]
    assert any("person_id is text, numbered in sorted order: 1 = Bob, 2 = anna, 3 = zoe" in w
               for w in table.warnings)  # fmt: skip
    rows = [row for row in rows if row[0] != "b/2.jpg"]
    expect_problem(write(tmp_path, rows), r"without infrared images: zoe\.")


def test_tracklets(tmp_path):
    table = read_manifest(write(tmp_path, video_rows(), VIDEO))
    assert isinstance(table, TrackletTable) and table.root == tmp_path
    assert [table.frames.paths[int(n)] for n in table.start] == [
        f"{person}/{kind}/T{track}/9.jpg"
        for person in (1, 2) for kind in ("visible", "infrared") for track in (2, 10)
    ]  # fmt: skip
    assert table.length.tolist() == [3, 2] * 4
    assert [table.frames.paths[n].rsplit("/")[-1] for n in table.frame_rows(0)] == [
        "9.jpg", "10.jpg", "11.jpg",
    ]  # fmt: skip
    assert table.person_ids.tolist() == [1] * 4 + [2] * 4
    assert table.modality.tolist() == [0, 0, 1, 1] * 2
    counted = count_structure(table)
    assert (counted.unit, counted.rows["train"]) == ("tracklets", {"visible": 2, "infrared": 2})
    assert counted.frames["train"] == {"visible": 5, "infrared": 5}
    assert counted.total == {"visible": 4, "infrared": 4}


def test_frames_without_numbers_keep_the_order_of_the_manifest(tmp_path):
    rows = [row[:-1] for row in video_rows()]
    table = read_manifest(write(tmp_path, rows, VIDEO[:-1]))
    assert [table.frames.paths[n].rsplit("/")[-1] for n in table.frame_rows(0)] == [
        "11.jpg", "9.jpg", "10.jpg",
    ]  # fmt: skip


def test_an_empty_tracklet_column_lists_images(tmp_path):
    rows = [(*row, "", "") for row in ROWS]
    assert isinstance(read_manifest(write(tmp_path, rows, VIDEO)), ImageTable)


def test_tracklets_of_one_name_differ_by_person_camera_and_role(tmp_path):
    rows = [
        (f"{n}.jpg", person, camera, kind, split, "1", 0)
        for n, (person, camera, kind, split) in enumerate(
            [(1, 1, "rgb", "train"), (1, 2, "rgb", "train"), (1, 1, "ir", "train"),
             (2, 1, "rgb", "query"), (2, 1, "rgb", "gallery"), (2, 1, "ir", "gallery")]
        )
    ]  # fmt: skip
    table = read_manifest(write(tmp_path, rows, VIDEO))
    assert table.length.tolist() == [1] * 6
    assert sorted(table.roles.tolist()) == [-1, -1, -1, 0, 0, 1]


def test_parquet_equals_csv(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path, ROWS)
    expected = read_manifest(tmp_path)
    # Missing cameras are nulls, or NaN in a column of floats as pandas writes it.
    for missing, cast in ((None, int), (float("nan"), float)):
        cameras = [cast(row[2]) if row[2] != "" else missing for row in ROWS]
        columns = {
            "path": [row[0] for row in ROWS],
            "person_id": [row[1] for row in ROWS],
            "camera_id": cameras,
            "modality": [row[3] for row in ROWS],
            "split": [row[4] for row in ROWS],
            "note": [b"x"] * len(ROWS),
        }
        file = tmp_path / "people.parquet"
        parquet.write_table(pyarrow.table(columns), file)
        table = read_manifest(file)
        assert table.paths == expected.paths
        for name in ("person_ids", "camera_ids", "modality", "roles", "image_indices"):
            np.testing.assert_array_equal(getattr(table, name), getattr(expected, name))
    columns["split"][3] = "tarin"
    parquet.write_table(pyarrow.table(columns), file)
    with pytest.raises(DatasetError, match=r"split must be one of .*'tarin' in row 4\."):
        read_manifest(file)
    del columns["modality"]
    parquet.write_table(pyarrow.table(columns), file)
    with pytest.raises(DatasetError, match=r"got 'path', .* without modality"):
        read_manifest(file)
    file.write_bytes(b"PAR1 no parquet")
    with pytest.raises(DatasetError, match="must be a readable Parquet file, got"):
        read_manifest(file)
    file.rename(tmp_path / "manifest.parquet")
    with pytest.raises(DatasetError, match=r"folder with manifest.csv or .*, got both"):
        read_manifest(tmp_path)


def test_parquet_without_pyarrow_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "manifest.parquet").touch()
    with pytest.raises(RuntimeError, match="Run: pip install pyarrow, or write the manifest as"):
        read_manifest(tmp_path)


def test_no_manifest(tmp_path):
    with pytest.raises(DatasetError, match=r"manifest\.parquet, got no such file\. Check data"):
        read_manifest(tmp_path / "absent.csv")
    with pytest.raises(DatasetError, match="got a folder without one"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("column", ["path", "person_id", "modality", "split"])
def test_missing_column_is_named_with_those_present(tmp_path, column):
    kept = [name for name in COLUMNS if name != column]
    rows = [[cell for name, cell in zip(COLUMNS, row, strict=True) if name != column]
            for row in ROWS]  # fmt: skip
    write(tmp_path, rows, kept)
    present = ", ".join(map(repr, kept))
    with pytest.raises(DatasetError, match=rf"got {present} without {column}\. Add the missing"):
        read_manifest(tmp_path, strict=False)


def test_files_that_are_no_manifest(tmp_path):
    file = tmp_path / "manifest.csv"
    file.touch()
    with pytest.raises(DatasetError, match="got no header without path, person_id, modality, spl"):
        read_manifest(file)
    file.write_text("path;person_id;modality;split\n")
    with pytest.raises(DatasetError, match=r"got 'path;person_id;modality;split' without path"):
        read_manifest(file)
    file.write_text("path,person_id,path,modality,split\n")
    with pytest.raises(DatasetError, match="must name each column once, got path repeatedly"):
        read_manifest(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="must be a readable CSV file in UTF-8, got"):
        read_manifest(file)
    file.write_text('path,person_id,modality,split\n"a.jpg,1,visible,train\n')
    with pytest.raises(DatasetError, match="must be a readable CSV file in UTF-8, got"):
        read_manifest(file)


def test_empty_manifest(tmp_path):
    for strict in (True, False):
        with pytest.raises(DatasetError, match="must list at least one usable image, got none"):
            read_manifest(write(tmp_path, []), strict=strict)


def test_manifest_without_a_usable_row_says_why(tmp_path):
    with pytest.raises(DatasetError, match=r"got none\.\n.*split must be one of .*'x' in line 2"):
        read_manifest(write(tmp_path, [(*row[:4], "x") for row in ROWS]), strict=False)


@pytest.mark.parametrize(
    ("cells", "pattern"),
    [
        ({"modality": "depth"}, r"modality must be one of visible, .*'depth' in line 3\."),
        ({"modality": ""}, r"modality must be one of .*'' in line 3\."),
        ({"split": "trial"}, r"split must be one of train, val, test, query, gal.*'trial' in line"),
        ({"path": "/etc/passwd"}, r"path must be a path below the .*'/etc/passwd' in line 3\."),
        ({"path": "C:\\a.jpg"}, r"path must be a path below the manifest's folder, got 'C:"),
        ({"path": "b/../../a.jpg"}, r"path must be a path below the manifest's folder, got 'b/"),
        ({"path": ""}, r"path must be a path below the manifest's folder, got '' in line 3"),
        ({"path": "b/1.jpg"}, r"listed once, got 1 repeated: b/1\.jpg in line 2 and line 3\."),
        ({"path": "./b//1.jpg"}, r"listed once, got 1 repeated: b/1\.jpg in line 2 and line 3\."),
        ({"person_id": ""}, r"person_id must be an integer from 0, or a name, got '' in line 3"),
        ({"person_id": -4}, r"person_id must be an integer from 0, or a name, got '-4' in line 3"),
        ({"person_id": -1}, r"person_id must be -1, which is junk, in the gallery only, got '-1'"),
        ({"camera_id": -7}, r"camera_id must be an integer from 0, or a name, got '-7' in line 3"),
    ],
)
def test_bad_cells(tmp_path, cells, pattern):
    rows = change(ROWS, 1, **cells)
    touch = [row for row in rows if not str(row[0]).startswith(("/", "C:"))]
    write(tmp_path, touch)
    table = expect_problem(write(tmp_path, rows, touch=False), pattern)
    assert len(table) == len(ROWS) - 1


def test_a_path_inside_may_wander(tmp_path):
    write(tmp_path, ROWS)
    rows = change(change(ROWS, 0, path="b\\1.jpg"), 1, path="a/../b/./0.jpg")
    assert read_manifest(write(tmp_path, rows, touch=False)).paths[5:7] == ("b/0.jpg", "b/1.jpg")


def test_lines_of_another_length(tmp_path):
    root = write(tmp_path, ROWS)
    with open(root / "manifest.csv", "a") as stream:
        stream.write("b/9,1.jpg,12,2,visible,train\n")
    expect_problem(root, r"every line must have 5 cells as the header, got 6 in line 10\. Quote")


def test_mixed_and_doubly_written_ids(tmp_path):
    expect_problem(
        write(tmp_path, change(ROWS, 5, person_id="p7")),
        r"person_id must be an integer in every line or in none, got 4 integers and 1 texts: p7\.",
    )
    expect_problem(
        write(tmp_path, change(ROWS, 1, person_id="012")),
        r"person_id must write each number in one way, got 012 and 12\.",
    )
    # What a spreadsheet makes of integers beside empty cells.
    table = read_manifest(write(tmp_path, [(*r[:2], f"{r[2]}.0" if r[2] else "", *r[3:])
                                           for r in ROWS]))  # fmt: skip
    assert set(table.camera_ids) == {-1, 1, 2, 3, 6}


def test_missing_files_are_listed(tmp_path):
    root = write(tmp_path, ROWS)
    (root / "c/2.jpg").unlink()
    (root / "b/0.jpg").unlink()
    table = expect_problem(
        root, r"every listed image must exist, got 2 of 8 that do not: b/0\.jpg, c/2\.jpg\."
    )
    assert len(table) == 6


@pytest.mark.parametrize("split", ["query", "gallery", "test", "val"])
def test_identities_in_two_splits(tmp_path, split):
    part = "val" if split == "val" else "test"
    root = write(tmp_path, [*ROWS, ("b/9.jpg", 12, 2, "visible", split)])
    expect_problem(root, rf"in one split only, got 1 in train and {part}: 12\. Give all of its")


def test_training_identity_of_one_modality(tmp_path):
    expect_problem(
        write(tmp_path, change(ROWS, 3, modality="rgb")),
        r"every train identity must have .* got 1 without infrared images: 5\. Add images",
    )


def test_half_of_the_roles_or_splits(tmp_path):
    expect_problem(
        write(tmp_path, ROWS[:6]), r"split must be gallery in some rows where it is query in others"
    )
    expect_problem(
        write(tmp_path, ROWS[:5] + ROWS[6:]), r"split must be query in some rows where it is gall"
    )
    assert "there are no test identities" in read_manifest(write(tmp_path, ROWS[:5])).warnings[0]
    assert "there are no train identities" in read_manifest(write(tmp_path, ROWS[5:])).warnings[0]
    lone = [row for row in ROWS if row[0] != "c/1.jpg"]
    lone = [(*row[:4], "test" if row[4] == "gallery" else row[4]) for row in lone]
    warnings = read_manifest(write(tmp_path, lone[:-1])).warnings
    assert any("1 test identities have no infrared image: 7" in warning for warning in warnings)


def test_bad_tracklets(tmp_path):
    rows = video_rows()
    expect_problem(
        write(tmp_path, change(rows, 2, tracklet=""), VIDEO),
        r"tracklet must be given for every frame or for none, got '' in line 4\.",
    )
    expect_problem(
        write(tmp_path, change(rows, 2, frame="x"), VIDEO),
        r"frame must be an integer, got 'x' in line 4\.",
    )
    expect_problem(
        write(tmp_path, change(rows, 1, frame=11), VIDEO),
        r"frame must differ within a tracklet, got 1 repeated: 11 of 2/infrared/T10/9\.jpg and 2/",
    )


def test_check_data_has_nothing_to_compare_with(tmp_path):
    report = check_folder("manifest", write(tmp_path, video_rows(), VIDEO))
    lines = str(report).splitlines()
    assert lines[1].split() == ["split", "identities", "visible", "frames", "infrared", "frames"]
    assert lines[2].split() == ["train", "1", "2", "5", "2", "5"]
    assert lines[4].split() == ["all", "4", "4"]
    assert lines[-1].startswith("No published structure") and report.ok
    values = report.to_json()
    assert values["tracklets"]["train"] == {"visible": 2, "infrared": 2}
    assert values["frames"]["test"] == {"visible": 5, "infrared": 5}
    with pytest.raises(ValueError, match="--split must be left out for manifest, got 2"):
        check_folder("manifest", tmp_path, split=2)
