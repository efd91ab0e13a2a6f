"""RegDB's reader: identities by folder, ten splits, and every way in which a copy can be broken."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from vireid_fast.data.check import check_dataset, check_folder
from vireid_fast.data.datasets.regdb import read_regdb
from vireid_fast.data.table import DatasetError

# Folder numbers far from labels, one of them written with zeros.
TRAIN, TEST = (7, 30), (12, 412)


def write_lists(root, split, halves, views=2):
    """idx of one split; labels count the identities of a half in the order given."""
    (root / "idx").mkdir(parents=True, exist_ok=True)
    for part, ids in halves.items():
        for folder, word, letter in (("Visible", "visible", "v"), ("Thermal", "thermal", "t")):
            lines = []
            for label, i in enumerate(ids):
                for view in range(views):
                    path = f"{folder}/{i}/male_back_{letter}_{view:05d}_{i}.bmp"
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    (root / path).touch()
                    lines.append(f"{path} {label}")
            (root / "idx" / f"{part}_{word}_{split}.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "RegDB"
    write_lists(root, 1, {"train": TRAIN, "test": TEST})
    write_lists(root, 2, {"train": (412, 7), "test": (30, 12)})
    return root


def lines_of(root, name):
    return (root / "idx" / name).read_text().splitlines()


def rewrite(root, name, lines):
    (root / "idx" / name).write_text("\n".join(lines) + "\n")


def expect_problem(root, pattern, split=1):
    """The problem is raised by a strict read and listed by a lenient one."""
    with pytest.raises(DatasetError, match=pattern):
        read_regdb(root, split=split)
    assert any(re.search(pattern, p) for p in read_regdb(root, strict=False, split=split).problems)


def test_rows_of_a_split(root):
    table = read_regdb(root)
    expected = [
        (i, modality, f"{folder}/{i}/male_back_{letter}_0000{view}_{i}.bmp", view + 1)
        for i in (7, 12, 30, 412)
        for modality, folder, letter in ((0, "Visible", "v"), (1, "Thermal", "t"))
        for view in range(2)
    ]
    found = zip(table.person_ids, table.modality, table.paths, table.image_indices, strict=True)
    assert list(found) == expected
    np.testing.assert_array_equal(table.camera_ids, table.modality + 1)
    assert {k: v.tolist() for k, v in table.splits.items()} == {
        "train": [7, 30], "val": [], "test": [12, 412],
    }  # fmt: skip
    assert table.roles is None and table.problems == table.warnings == ()
    assert all(table.file(row).is_file() for row in range(len(table)))


def test_splits_differ_in_their_halves_only(root):
    second = read_regdb(root, split=2)
    assert second.splits["train"].tolist() == [7, 412]
    assert second.splits["test"].tolist() == [12, 30]
    assert second.paths == read_regdb(root, split=1).paths


@pytest.mark.parametrize("split", [0, 11, 1.0])
def test_there_are_ten_splits(root, split):
    with pytest.raises(ValueError, match=rf"split must be 1 to 10, got {split}"):
        read_regdb(root, split=split)


def test_windows_lines_and_paths_are_read(root):
    lines = [f".\\{line}".replace("/", "\\") for line in lines_of(root, "train_visible_1.txt")]
    (root / "idx" / "train_visible_1.txt").write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n")
    assert read_regdb(root).paths == read_regdb(root, split=2).paths


def test_missing_root_and_nothing_listed(tmp_path):
    with pytest.raises(DatasetError, match="folder with Visible, Thermal and idx, got no such"):
        read_regdb(tmp_path / "absent")
    for strict in (True, False):
        with pytest.raises(
            DatasetError,
            match=r"must hold images as Visible/.*got none(.|\n)*train_visible_1.txt: the index",
        ):
            read_regdb(tmp_path, strict=strict)


@pytest.mark.parametrize("name", ["train_visible_1", "test_thermal_1"])
def test_missing_or_empty_index(root, name):
    (root / "idx" / f"{name}.txt").write_text("\n")
    expect_problem(root, rf"{name}\.txt: the index file holds no line\. Restore it")
    (root / "idx" / f"{name}.txt").write_bytes(b"\xff\xfe\x00")
    expect_problem(root, rf"{name}\.txt: the index file must be a readable text")
    (root / "idx" / f"{name}.txt").unlink()
    expect_problem(root, rf"{name}\.txt: the index file is missing\. Restore it")
    assert read_regdb(root, split=2).problems == ()


@pytest.mark.parametrize(
    "line",
    [
        "Visible/7/male_back_v_00000_7.bmp",
        "Visible/7/male_back_v_00000_7.bmp seven",
        "Visible/male_back_v_00000_7.bmp 0",
        "Visible/seven/male_back_v_00000_7.bmp 0",
        "Thermal/7/male_back_t_00000_7.bmp 0",
        "/data/RegDB/Visible/7/male_back_v_00000_7.bmp 0",
        "../Visible/7/male_back_v_00000_7.bmp 0",
    ],
)
def test_lines_of_another_form(root, line):
    lines = lines_of(root, "train_visible_1.txt")
    rewrite(root, "train_visible_1.txt", [lines[0], line, *lines[1:]])
    expect_problem(
        root,
        rf"train_visible_1\.txt: every line must be <folder>/.*got '{re.escape(line)}' in line 2\.",
    )
    assert len(read_regdb(root, strict=False)) == 16


def test_missing_files_are_named(root):
    for name in ("Thermal/12/male_back_t_00001_12.bmp", "Thermal/412/male_back_t_00000_412.bmp"):
        (root / name).unlink()
    expect_problem(
        root,
        r"test_thermal_1\.txt: every listed image must exist, got 2 of 4 that do not: "
        r"Thermal/12/male_back_t_00001_12\.bmp, Thermal/412/",
    )
    assert len(read_regdb(root, strict=False)) == 14


def test_identities_in_train_and_test(root):
    for word in ("visible", "thermal"):
        shutil.copy(root / f"idx/train_{word}_2.txt", root / f"idx/test_{word}_1.txt")
    expect_problem(
        root, r"idx, split 1: an identity must be in one split only, got 1 in train and test: 7\."
    )
    # A leaked image is still one row.
    table = read_regdb(root, strict=False)
    assert len(table.paths) == len(set(table.paths))


def test_training_identity_of_one_modality(root):
    lines = [line for line in lines_of(root, "train_thermal_1.txt") if "/30/" not in line]
    rewrite(root, "train_thermal_1.txt", lines)
    expect_problem(
        root, r"every train identity must have visible and infrared .*1 without infrared images: 30"
    )


def test_test_identity_of_one_modality_is_a_warning(root):
    lines = [line for line in lines_of(root, "test_visible_1.txt") if "/412/" not in line]
    rewrite(root, "test_visible_1.txt", lines)
    assert any("1 test identities have no visible image: 412" in w
               for w in read_regdb(root).warnings)  # fmt: skip


def test_labels_that_contradict_the_folders(root):
    lines = lines_of(root, "test_thermal_1.txt")
    rewrite(root, "test_thermal_1.txt", [line[:-1] + "1" for line in lines])
    expect_problem(
        root, r"every identity must have one label, got 1 with several: identity 12 with .* 0, 1\."
    )
    expect_problem(root, r"every label must have one identity, .*: label 1 with identities 12, 412")


@pytest.mark.parametrize("path", ["\0Thermal/1/a.bmp", "Thermal/1/\x1b[1m.bmp"])
def test_names_that_no_folder_or_terminal_takes(root, path):
    file = root / "idx" / "train_thermal_1.txt"
    file.write_text(f"{path} 0\n{file.read_text()}")
    with pytest.raises(DatasetError, match="that do not") as error:
        read_regdb(root)
    assert repr(path) in str(error.value) and path not in str(error.value)


def test_repeated_lines_count_once(root):
    lines = lines_of(root, "train_visible_1.txt")
    rewrite(root, "train_visible_1.txt", [*lines, lines[0], lines[0]])
    table = read_regdb(root)
    assert len(table) == 16
    assert any("2 lines are repeated; each image counts once" in w for w in table.warnings)


def test_ten_splits_are_checked_and_equal_ones_printed_once(root):
    for split in range(3, 11):
        write_lists(root, split, {"train": (12, 30), "test": (7, 412)})
    gone = root / "Thermal/412/male_back_t_00001_412.bmp"
    gone.unlink()
    text = str(check_folder("regdb", root))
    assert len(re.findall(r"_\d+\.txt: every listed image must exist", text)) == 10
    gone.touch()
    reports = check_folder("regdb", root)
    assert len(reports.reports) == 10 and reports.to_json()["splits"][9]["split"] == 10
    assert str(reports).startswith(f"regdb in {root}, splits 1, 2, 3, 4, 5, 6, 7, 8, 9, 10\n")
    assert "deviation: train: 4 visible images, published 2,060" in str(reports)
    (report,) = check_folder("regdb", root, split=4).reports
    assert report.split == 4 and str(report).startswith(f"regdb in {root}, split 4\n")
    with pytest.raises(ValueError, match="--split must be 1 to 10, got 11"):
        check_folder("regdb", root, split=11)


def test_images_are_decoded_once_for_all_splits(root):
    for split in range(3, 11):
        write_lists(root, split, {"train": TRAIN, "test": TEST})
    reports = check_folder("regdb", root, decode=True).reports
    # The stand-ins are empty files.
    assert [len(report.bad_images) for report in reports] == [16] + [0] * 9
    assert [report.decoded for report in reports] == [16] + [0] * 9


def test_a_published_split_is_complete(tmp_path, shared_dir):
    """The split file of an older code base has the real halves of identities, ten each."""
    splits = scipy.io.loadmat(shared_dir / "fixtures" / "regdb" / "RegDB_split.mat")
    train, test = (splits[name].astype(int).tolist() for name in ("TrainIdx", "TestIdx"))
    write_lists(tmp_path, 1, {"train": train[0], "test": test[0]}, views=10)
    report = check_dataset(read_regdb(tmp_path), "regdb")
    assert report.ok and str(report).endswith("Equal to the published structure.")
    # A model of split 1 meets its own training identities in the test of split 2.
    leaked = len({*train[0]} & {*test[1]})
    assert leaked > 0
    for word in ("visible", "thermal"):
        folder = {"visible": "Visible", "thermal": "Thermal"}[word]
        rewrite(tmp_path, f"test_{word}_1.txt", [
            f"{path.relative_to(tmp_path).as_posix()} {label}"
            for label, i in enumerate(test[1])
            for path in sorted((tmp_path / folder / str(i)).iterdir())
        ])  # fmt: skip
    with pytest.raises(DatasetError, match=rf"got {leaked} in train and test"):
        read_regdb(tmp_path)
