"""The reader of MATLAB files, held against scipy's on files that scipy wrote."""

import struct

import numpy as np
import pytest
import scipy.io

from vireid_fast.data.matlab import read_variables

NUMBERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64,
           np.float32, np.float64]  # fmt: skip


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("compressed", [False, True])
def test_equals_scipy_for_every_type(tmp_path, dtype, compressed):
    matrix = np.arange(15).reshape(3, 5).astype(dtype)
    shapes = {"matrix": matrix, "row": matrix[:1], "one": matrix[:1, 1:2], "none": matrix[:0],
              "block": np.arange(24).reshape(2, 3, 4).astype(dtype)}  # fmt: skip
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, shapes, do_compression=compressed)
    wanted, found = scipy.io.loadmat(path), read_variables(path)
    assert list(found) == list(shapes)
    for name, value in found.items():
        np.testing.assert_array_equal(value, wanted[name])


def test_cells_and_what_is_left_out(tmp_path):
    cell = np.empty((2, 1), object)
    inner = np.empty((1, 2), object)
    inner[0, 0], inner[0, 1] = np.array([[1, 2]]), np.zeros((2, 0))
    cell[0, 0], cell[1, 0] = inner, np.array([[7]])
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"cell": cell, "text": "words", "fields": {"a": 1}})
    found = read_variables(path)
    (first, second), seven = found["cell"]
    assert (first.tolist(), second.shape, seven.item()) == ([[1, 2]], (2, 0), 7)
    assert (found["text"], found["fields"]) == (None, None)


def test_big_endian_files_are_read(tmp_path):
    """Header, then flags, shape, name and numbers of one double matrix, all big-endian."""
    parts = (
        struct.pack(">IIII", 6, 8, 6, 0)
        + struct.pack(">IIii", 5, 8, 1, 2)
        + struct.pack(">HH4s", 1, 1, b"x")
        + struct.pack(">IIdd", 9, 16, 1.5, -2.0)
    )
    content = b" " * 124 + b"\x01\x00MI" + struct.pack(">II", 14, len(parts)) + parts
    (tmp_path / "a.mat").write_bytes(content)
    np.testing.assert_array_equal(read_variables(tmp_path / "a.mat")["x"], [[1.5, -2.0]])


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b"\x0e\0\0", "an end within the head of an element"),
        (struct.pack("<II", 14, 1 << 31), "an element of 2147483648 bytes, 0 of which are there"),
        (struct.pack("<II", 9, 8) + b"\0" * 8, "an element of type 9 where a variable should be"),
        (struct.pack("<II", 15, 4) + b"abcd", "a variable that does not unpack"),
        (struct.pack("<II", 14, 8) + b"\0" * 8, "a matrix without flags, shape and name"),
        (struct.pack("<I4s", (5 << 16) + 14, b""), "a short element of 5 bytes"),
    ],
)
def test_damage_is_named(tmp_path, tail, expected):
    (tmp_path / "a.mat").write_bytes(b" " * 124 + b"\x00\x01IM" + tail)
    with pytest.raises(ValueError, match=expected):
        read_variables(tmp_path / "a.mat")


def test_other_files_have_no_header(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"")
    with pytest.raises(ValueError, match="a file without the header of MATLAB 5"):
        read_variables(tmp_path / "a.mat")
