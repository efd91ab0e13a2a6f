"""LLCM's reader: index files, camera folders or names, and every way in which a copy is broken."""

import random
import re
import shutil
from pathlib import Path

import pytest

from vireid_fast.data.check import check_dataset
from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.datasets.llcm import read_llcm
from vireid_fast.data.structure import count_structure
from vireid_fast.data.table import DatasetError

TRAIN, TEST = (1, 4), (3, 9)
# Camera 3 has no infrared images.
CAMERAS = {"vis": (1, 3), "nir": (1, 2)}


def name_of(person, camera, word, view=0):
    return f"{person:04d}_c{camera:02d}_s1855{camera:02d}_f701{view}_{word}.jpg"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def root(tmp_path) -> Path:
    """Two images for each person and camera; "cam" also stands above the root."""
    root = tmp_path / "camera" / "cam7" / "LLCM"
    (root / "idx").mkdir(parents=True)
    for word, cameras in CAMERAS.items():
        lists = {"train": [], "test": []}
        for part, ids in (("train", TRAIN), ("test", TEST)):
            for label, person in enumerate(ids):
                for camera in cameras:
                    for view in range(2):
                        name = name_of(person, camera, word, view)
                        touch(root / word / f"{person:04d}" / name)
                        lists[part].append(f"{word}/{person:04d}/{name} {label}")
                        if part == "test":
                            touch(root / f"test_{word}" / f"cam{camera}" / f"{person:04d}" / name)
        for part, lines in lists.items():
            (root / "idx" / f"{part}_{word}.txt").write_text("\n".join(lines) + "\n")
    (root / "test_nir" / "cam3").mkdir()
    (root / "idx" / "test_id.txt").write_text(",".join(map(str, TEST)) + "\n")
    return root


def expect_problem(root, pattern):
    with pytest.raises(DatasetError, match=pattern):
        read_llcm(root)
    assert any(re.search(pattern, problem) for problem in read_llcm(root, strict=False).problems)


def rows_of(table):
    columns = (table.person_ids, table.camera_ids, table.modality, table.image_indices)
    return list(zip(*(column.tolist() for column in columns), table.paths, strict=True))


def test_rows(root):
    expected = sorted(
        (person, camera, modality, view + 1,
         f"{folder}/{person:04d}/{name_of(person, camera, word, view)}")
        for modality, word in enumerate(CAMERAS)
        for camera in CAMERAS[word]
        for view in range(2)
        for persons, folder in ((TRAIN, word), (TEST, f"test_{word}/cam{camera}"))
        for person in persons
    )  # fmt: skip
    table = read_llcm(root)
    assert rows_of(table) == expected
    assert {k: v.tolist() for k, v in table.splits.items()} == {
        "train": [1, 4], "val": [], "test": [3, 9],
    }  # fmt: skip
    assert table.roles is None and table.problems == table.warnings == ()
    counted = count_structure(table)
    assert counted.rows["test"] == {"visible": 8, "infrared": 8}
    assert set(counted.cameras["test"]["infrared"]) == {1, 2}


def test_gallery_order_is_that_of_the_official_code(root):
    """For each test identity and existing camera folder one `random.choice` of the sorted files."""
    table = read_llcm(root)
    random.seed(3)
    official = [
        random.choice(sorted(str(f) for f in folder.iterdir()))
        for person in sorted(TEST)
        for camera in range(1, 10)
        if (folder := root / "test_vis" / f"cam{camera}" / f"{person:04d}").is_dir()
    ]
    random.seed(3)
    ours = []
    for person in table.identities("test").tolist():
        for camera in range(1, 10):
            rows = table.rows([person], modality=0, cameras=[camera])
            if len(rows):
                index = random.choice(sorted(table.image_indices[rows].tolist()))
                ours.append(str(table.file(int(rows[index - 1]))))
    assert ours == official


@pytest.mark.parametrize("words", [("vis",), ("nir",), ("vis", "nir")])
def test_lists_and_names_stand_in_for_test_folders(root, words):
    with_folders = [row[:4] for row in rows_of(read_llcm(root))]
    for word in words:
        shutil.rmtree(root / f"test_{word}")
    table = read_llcm(root)
    assert [row[:4] for row in rows_of(table)] == with_folders
    assert not any(path.startswith(tuple(f"test_{word}" for word in words)) for path in table.paths)
    for word in words:
        file = root / "idx" / f"test_{word}.txt"
        file.write_text(file.read_text().replace("_c01_", "_cam01_"))
        for path in list((root / word).glob("*/*_c01_*")):
            path.rename(str(path).replace("_c01_", "_cam01_"))
        # Names without a camera do no harm in the training lists.
        train = root / "idx" / f"train_{word}.txt"
        train.write_text(train.read_text().replace("_c01_", "_cam01_"))
    expect_problem(root, r"test_\w+\.txt: names must tell the camera .*, got 4 others: \w+/0003/")
    table = read_llcm(root, strict=False)
    assert (table.camera_ids[table.rows("train")] == -1).sum() == 4 * len(words)
    assert any("no camera in the names of 4 others" in warning for warning in table.warnings)


def test_missing_root_and_nothing_listed(tmp_path):
    with pytest.raises(DatasetError, match="folder with vis, nir, test_vis, test_nir and idx, got"):
        read_llcm(tmp_path / "absent")
    for strict in (True, False):
        with pytest.raises(DatasetError, match=r"must hold images as vis/(.|\n)*train_vis.txt: "):
            read_llcm(tmp_path, strict=strict)


@pytest.mark.parametrize("name", ["train_vis", "train_nir"])
def test_missing_or_empty_index(root, name):
    (root / "idx" / f"{name}.txt").write_text("")
    expect_problem(root, rf"{name}\.txt: the index file holds no line")
    (root / "idx" / f"{name}.txt").unlink()
    expect_problem(root, rf"{name}\.txt: the index file is missing")


def test_missing_empty_or_damaged_test_ids(root):
    source = root / "idx" / "test_id.txt"
    source.write_text("3,nine")
    expect_problem(root, r"test_id\.txt: the id list must hold numbers .*, got 'nine' as entry 2")
    source.write_text("\n")
    expect_problem(root, r"test_id\.txt: the id list holds no id\. Write the test identities")
    source.unlink()
    expect_problem(root, r"test_id\.txt: the id list is missing\. Write the test identities")


@pytest.mark.parametrize(
    "line", ["vis/0001/x.jpg", "vis/x.jpg 0", "nir/0001/x.jpg 0", "test_nir/cam1/0001/x.jpg 0"]
)
def test_lines_of_another_form(root, line):
    file = root / "idx" / "train_vis.txt"
    file.write_text(line + "\n" + file.read_text())
    expect_problem(root, rf"train_vis\.txt: every line must be .*got '{line}' in line 1\.")


def test_missing_files_and_folders(root):
    (root / "nir/0004" / name_of(4, 2, "nir")).unlink()
    expect_problem(root, r"train_nir\.txt: every listed image must exist, got 1 of 8 that do not")
    shutil.rmtree(root / "test_vis")
    (root / "test_vis" / "cam1").mkdir(parents=True)
    expect_problem(root, r"test_vis: the folder must hold images as cam<k>/.*, got none\. Restore")


def test_test_identity_without_images(root):
    (root / "idx" / "test_id.txt").write_text("3,9,77")
    expect_problem(
        root, r"every test identity must have images, got 1 without any: 77\. .*idx/test_id\.txt"
    )


@pytest.mark.parametrize("listed", [True, False])
def test_identities_in_train_and_test(root, listed):
    """Also where the test list leaves the leaked identity out: its images would be trained on."""
    touch(root / "test_vis" / "cam1" / "0004" / name_of(4, 1, "vis"))
    if listed:
        (root / "idx" / "test_id.txt").write_text("3,4,9")
    expect_problem(root, r"an identity must be in one split only, got 1 in train and test: 4\.")


def test_training_identity_of_one_modality(root):
    file = root / "idx" / "train_nir.txt"
    file.write_text("".join(x for x in file.read_text().splitlines(True) if "/0004/" not in x))
    expect_problem(root, r"every train identity must have .*1 without infrared images: 4")


def test_labels_that_contradict_the_folders(root):
    file = root / "idx" / "train_nir.txt"
    file.write_text(file.read_text().replace(".jpg 1", ".jpg 2"))
    expect_problem(root, r"every identity must have one label, got 1 .*identity 4 with labels 1, 2")


def test_oddities_are_warnings(root):
    touch(root / "test_vis" / "cam1" / "0055" / name_of(55, 1, "vis"))
    (root / "test_vis" / "copy of cam1").mkdir()
    (root / "test_vis" / "cam1" / "0056").mkdir()
    (root / "test_vis" / "cam1" / "notes").mkdir()
    table = read_llcm(root)
    warnings = "\n".join(table.warnings)
    assert "test_id.txt: 1 identities with test images are not listed and not used: 55" in warnings
    assert "test_vis: ignored what is not a camera folder: copy of cam1" in warnings
    assert "1 identity folders hold no image: 0056" in warnings
    assert "ignored what is not a folder named by an identity number: notes" in warnings
    assert 55 not in table.person_ids[table.rows("train+test")]


def test_published_counts_agree_with_the_readme(root):
    report = check_dataset(read_llcm(root), "llcm")
    assert "deviation: train: 8 visible images, published 16,946" in str(report)
    published = DATASETS["llcm"].published
    assert sum(published.identities.values()) == 1064
    assert sum(published.total.values()) == 46767
    assert sum(published.rows["test"].values()) == 15846
    for word in ("visible", "infrared"):
        parts = (published.num_rows(part, word) for part in ("train", "test"))
        assert sum(parts) == published.total[word]
