import re
import shutil

import numpy as np
import pytest
import scipy.io

from vireid_fast.data.datasets.sysu_mm01 import read_sysu_layout
from vireid_fast.data.table import DatasetError, ImageTable, require_trainable


def test_table_lists_every_image_in_order(make_layout):
    table = read_sysu_layout(make_layout())
    assert len(table) == 6 * 6 * 2
    assert table.paths[:3] == ("cam1/0001/0001.jpg", "cam1/0001/0002.jpg", "cam2/0001/0001.jpg")
    keys = np.stack([table.person_ids, table.camera_ids, table.image_indices], 1)
    np.testing.assert_array_equal(keys, keys[np.lexsort(keys.T[::-1])])
    np.testing.assert_array_equal(table.modality, np.isin(table.camera_ids, [3, 6]))
    for column in (table.person_ids, table.camera_ids, table.modality, table.image_indices):
        assert column.dtype == np.int64
    for row in range(len(table)):
        camera, person = table.camera_ids[row], table.person_ids[row]
        assert table.paths[row].startswith(f"cam{camera}/{person:04d}/")
        assert table.file(row).is_file()
    assert {k: v.tolist() for k, v in table.splits.items()} == {
        "train": [1, 2, 3],
        "val": [4],
        "test": [5, 6],
    }
    assert table.problems == table.warnings == ()


def test_rows_select_split_modality_and_camera(make_layout):
    table = read_sysu_layout(make_layout())
    rows = table.rows("train", modality=1)
    assert set(table.person_ids[rows]) == {1, 2, 3}
    assert set(table.camera_ids[rows]) == {3, 6}
    assert len(rows) == 3 * 2 * 2
    np.testing.assert_array_equal(
        table.rows("train+val"), np.sort(np.r_[table.rows("train"), table.rows("val")])
    )
    indoor = table.rows("test", cameras=[1, 2])
    assert set(table.camera_ids[indoor]) == {1, 2}
    np.testing.assert_array_equal(table.rows([5, 6], cameras=(1, 2)), indoor)
    assert table.rows([]).size == 0
    assert table.identities("val+test").tolist() == [4, 5, 6]


def test_rows_reject_unknown_split_and_modality(make_layout):
    table = read_sysu_layout(make_layout())
    with pytest.raises(ValueError, match=r"split must be one of \['train', .*\], got 'trian'"):
        table.rows("trian")
    with pytest.raises(ValueError, match="modality must be one of"):
        table.rows("train", modality=2)


def test_indices_count_sorted_files_not_names(make_layout):
    root = make_layout()
    folder = root / "cam1" / "0001"
    (folder / "0007.PNG").touch()
    (folder / "0001.jpg").unlink()
    (folder / ".hidden.jpg").touch()
    (folder / "notes.txt").touch()
    table = read_sysu_layout(root)
    rows = table.rows([1], cameras=[1])
    assert [table.paths[r] for r in rows] == ["cam1/0001/0002.jpg", "cam1/0001/0007.PNG"]
    assert table.image_indices[rows].tolist() == [1, 2]


@pytest.mark.parametrize("text", ["3,1,2", " 1 2\n3 ", "1,2,\r\n3,\n", "\ufeff1, 2, 3,"])
def test_id_list_separators(make_layout, text):
    root = make_layout()
    (root / "exp" / "train_id.txt").write_text(text, encoding="utf-8")
    assert read_sysu_layout(root).splits["train"].tolist() == [1, 2, 3]


def test_matlab_list_stands_in_for_text(make_layout):
    root = make_layout()
    (root / "exp" / "train_id.txt").unlink()
    scipy.io.savemat(root / "exp" / "train_id.mat", {"id": np.array([[1, 2, 3]], np.uint16)})
    assert read_sysu_layout(root).splits["train"].tolist() == [1, 2, 3]


def test_official_matlab_lists_are_read(make_layout, shared_dir):
    root = make_layout(splits={"train": [1], "val": [], "test": [6]})
    for split in ("train", "test"):
        (root / "exp" / f"{split}_id.txt").unlink()
        source = shared_dir / "fixtures" / "sysu_mm01" / f"{split}_id.mat"
        shutil.copy(source, root / "exp" / f"{split}_id.mat")
    table = read_sysu_layout(root, strict=False)
    assert (len(table.splits["train"]), len(table.splits["test"])) == (296, 96)


def test_missing_root(tmp_path):
    with pytest.raises(DatasetError, match=r"data root must be a folder .*, got no such folder"):
        read_sysu_layout(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="got a file"):
        read_sysu_layout(tmp_path / "file")


def test_empty_root_is_an_error_even_if_lenient(tmp_path):
    for strict in (True, False):
        with pytest.raises(
            DatasetError, match=r"must hold images as camK/.*got none(.|\n)*cam1: the"
        ):
            read_sysu_layout(tmp_path, strict=strict)


def test_root_with_renamed_identity_folders_names_them(make_layout):
    root = make_layout(splits={"train": [1], "val": [], "test": []})
    for camera in range(1, 7):
        (root / f"cam{camera}" / "0001").rename(root / f"cam{camera}" / "person1")
    with pytest.raises(DatasetError, match=r"got none(.|\n)*identity number: person1"):
        read_sysu_layout(root)


def expect_problem(root, pattern):
    """The problem is raised by a strict read and listed by a lenient one."""
    with pytest.raises(DatasetError, match=pattern):
        read_sysu_layout(root)
    table = read_sysu_layout(root, strict=False)
    assert isinstance(table, ImageTable)
    assert any(re.search(pattern, problem) for problem in table.problems)


def test_missing_camera_folder(make_layout):
    root = make_layout()
    shutil.rmtree(root / "cam4")
    expect_problem(root, r"cam4: the camera folder is missing\. Restore it")


def test_empty_camera_folder(make_layout):
    root = make_layout()
    shutil.rmtree(root / "cam6")
    (root / "cam6").mkdir()
    expect_problem(root, r"cam6: the camera folder holds no image")


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_or_empty_list(make_layout, split):
    root = make_layout()
    (root / "exp" / f"{split}_id.txt").write_text("\n")
    expect_problem(root, rf"{split}_id.txt: the id list holds no id\. Write the {split} identities")
    (root / "exp" / f"{split}_id.txt").unlink()
    expect_problem(root, rf"{split}_id.txt: the id list is missing\.")


def test_missing_validation_list_is_a_warning(make_layout):
    root = make_layout()
    (root / "exp" / "val_id.txt").unlink()
    table = read_sysu_layout(root)
    assert table.splits["val"].size == 0
    assert any("no validation identities" in w for w in table.warnings)


def test_list_that_is_no_list(make_layout):
    root = make_layout()
    (root / "exp" / "train_id.txt").write_text("1, two, 3")
    expect_problem(root, r"train_id.txt: the id list must hold numbers .*, got 'two' as entry 2")
    (root / "exp" / "train_id.txt").write_bytes(b"\xff\xfe\x00")
    expect_problem(root, r"train_id.txt: the id list must be a readable text")


def test_damaged_matlab_list(make_layout):
    root = make_layout()
    (root / "exp" / "train_id.txt").unlink()
    (root / "exp" / "train_id.mat").write_bytes(b"no matlab")
    expect_problem(root, r"train_id.mat: the id list must be a MATLAB file, got .*train_id.txt")
    scipy.io.savemat(root / "exp" / "train_id.mat", {"a": [1], "b": [2]})
    expect_problem(root, r"train_id.mat: .* one array of numbers, got 2 variables")


def test_identity_in_two_splits(make_layout):
    root = make_layout(splits={"train": [1, 2, 3], "val": [4], "test": [3, 5]})
    expect_problem(
        root, r"exp: an identity must be in one split only, got 1 in train and test: 3\."
    )


def test_listed_identity_without_images(make_layout):
    root = make_layout()
    (root / "exp" / "test_id.txt").write_text("5,6,77,78")
    expect_problem(
        root,
        r"every test identity must have images, got 2 without any: 77, 78\. .* from exp/test_id",
    )


@pytest.mark.parametrize(("cameras", "word"), [((3, 6), "infrared"), ((1, 2, 4, 5), "visible")])
def test_training_identity_of_one_modality(make_layout, cameras, word):
    root = make_layout()
    for camera in cameras:
        shutil.rmtree(root / f"cam{camera}" / "0002")
    expect_problem(
        root,
        rf"every train identity must have visible and infrared images, got 1 without {word} "
        r"images: 2\. .*take these ids out of the train list\.",
    )
    (root / "exp" / "train_id.txt").write_text("1,3")
    assert read_sysu_layout(root).identities("train").tolist() == [1, 3]


def test_test_identity_of_one_modality_is_legal(make_layout):
    root = make_layout()
    shutil.rmtree(root / "cam3" / "0005")
    shutil.rmtree(root / "cam6" / "0005")
    table = read_sysu_layout(root)
    assert any("1 test identities have no infrared image: 5" in w for w in table.warnings)


def test_require_trainable_covers_unions(make_layout):
    root = make_layout()
    shutil.rmtree(root / "cam3" / "0004")
    shutil.rmtree(root / "cam6" / "0004")
    table = read_sysu_layout(root)
    require_trainable(table, "train")
    lists = r"out of the train\+val list"
    with pytest.raises(DatasetError, match=rf"every train\+val identity .*: 4\. .* {lists}"):
        require_trainable(table, "train+val")


def test_oddities_are_warnings(make_layout):
    root = make_layout()
    (root / "cam1" / "Thumbs.db").touch()
    (root / "cam2" / "extra").mkdir()
    (root / "cam3" / "0099").mkdir()
    (root / "cam4" / ".DS_Store").touch()
    (root / "exp" / "val_id.txt").write_text("4,4")
    warnings = "\n".join(read_sysu_layout(root).warnings)
    assert "cam1: ignored what is not a folder named by an identity number: Thumbs.db" in warnings
    assert "cam2: ignored what is not a folder named by an identity number: extra" in warnings
    assert "cam3: 1 identity folders hold no image: 0099" in warnings
    assert "val_id.txt: 1 ids are listed repeatedly" in warnings
    assert "DS_Store" not in warnings


def test_two_folders_of_one_identity(make_layout):
    root = make_layout()
    (root / "cam1" / "1").mkdir()
    expect_problem(root, r"cam1: folders must name different identities, got 0001 and 1\.")


def test_all_problems_are_named_at_once(make_layout):
    root = make_layout()
    shutil.rmtree(root / "cam4")
    (root / "exp" / "train_id.txt").unlink()
    with pytest.raises(DatasetError, match=r"cam4(.|\n)*train_id\.txt"):
        read_sysu_layout(root)
