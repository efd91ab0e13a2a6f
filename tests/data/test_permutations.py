"""The permutation file of SYSU-MM01."""

import numpy as np
import pytest
import scipy.io

from vireid_fast.data.permutations import read_permutations


def cell(*entries):
    """A MATLAB cell (n, 1)."""
    result = np.empty((len(entries), 1), dtype=object)
    for row, entry in enumerate(entries):
        result[row, 0] = entry
    return result


def write(path, *cameras, key="rand_perm_cam"):
    scipy.io.savemat(path, {key: cell(*cameras)})
    return path


EMPTY = np.zeros((2, 0), np.uint8)


def test_reads_cells_of_different_lengths(tmp_path):
    first = np.array([[2, 1, 3], [3, 2, 1]], np.uint8)
    last = np.array([[1], [1]], np.uint8)
    path = write(tmp_path / "p.mat", cell(EMPTY, first), cell(last, EMPTY, EMPTY, first[:, ::-1]))
    permutations = read_permutations(path)
    assert permutations.keys() == {(1, 2), (2, 1), (2, 4)}
    assert permutations[1, 2].dtype == np.int64
    np.testing.assert_array_equal(permutations[1, 2], first)
    np.testing.assert_array_equal(permutations[2, 1], last)


def test_rejects_rows_that_are_no_permutation(tmp_path):
    path = write(tmp_path / "p.mat", cell(EMPTY, np.array([[1, 2], [2, 2]], np.uint8)))
    with pytest.raises(ValueError, match=r"camera 1, identity 2: .* permutation of 1\.\.2"):
        read_permutations(path)


def test_rejects_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="SYSU-MM01 publishes"):
        read_permutations(tmp_path / "absent.mat")
    (tmp_path / "garbage.mat").write_bytes(b"\x93garbage" * 40)
    with pytest.raises(ValueError, match=r"garbage\.mat must be a complete MATLAB 5 file"):
        read_permutations(tmp_path / "garbage.mat")
    path = write(tmp_path / "other.mat", cell(EMPTY), key="permutations")
    match = r"hold the cell 'rand_perm_cam', got \['permutations'\]"
    with pytest.raises(ValueError, match=match):
        read_permutations(path)


def test_official_file(shared_dir):
    permutations = read_permutations(shared_dir / "fixtures/sysu_mm01/rand_perm_cam.mat")
    pairs = [sum(camera == number for camera, _ in permutations) for number in range(1, 7)]
    assert pairs == [259, 259, 486, 493, 502, 299]
    images = [
        sum(order.shape[1] for (camera, _), order in permutations.items() if camera == number)
        for number in range(1, 7)
    ]
    # The published numbers of images: 30,071 visible and 15,792 infrared.
    assert images == [6289, 7528, 9812, 8030, 8224, 5980]
    assert {len(order) for order in permutations.values()} == {10}
