"""Matrices of numbers, and cells of them, from MATLAB 5 files (`.mat`), in plain Python.

`scipy.io.loadmat` reads more, and ends the whole process with a segmentation fault on some damaged
files; this reader checks every length and raises. The format is described in MathWorks' "MAT-File
Format" (level 5).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL_CLASS = 1
_NUMERIC_CLASSES = range(6, 16)
# Type of an element -> format of numpy.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
            13: "u8"}  # fmt: skip
# All variables together may unpack to this; deflate alone allows a thousand times their size.
_MAX_UNPACKED = 64 << 20
# Cells may hold cells; a cell of each camera holds one of each identity.
_MAX_DEPTH = 8


@dataclass(frozen=True)
class _Matrix:
    """An array as it stands in the file: `parts` are the elements behind its name."""

    kind: int
    shape: tuple[int, ...]
    name: str
    parts: list[tuple[int, memoryview]]


def read_variables(path: Path) -> dict[str, np.ndarray | list[Any] | None]:
    """Read the variables of a file.

    Args:
        path: The file.

    Returns:
        By name, in the order of the file: an array for a matrix of numbers, in the byte order of
        the machine; for a cell a list of its entries in column order, which are arrays or lists;
        None for anything else, such as text.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no MATLAB 5 file, or is damaged; the message says what was found.
    """
    content = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:128]))
    if order is None:
        raise ValueError("a file without the header of MATLAB 5")
    found: dict[str, np.ndarray | list[Any] | None] = {}
    for kind, data in _elements(content[_HEADER_BYTES:], order, room=_MAX_UNPACKED):
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} where a variable should be")
        matrix = _matrix(data, order)
        is_known = matrix.kind in (_CELL_CLASS, *_NUMERIC_CLASSES)
        found[matrix.name] = _value(matrix, order, _MAX_DEPTH) if is_known else None
    return found


def _elements(
    data: memoryview, order: str, *, room: int = 0
) -> Iterator[tuple[int, memoryview]]:
    """Type and content of the elements that follow each other in `data`.

    Compressed ones, which stand at the top only, are unpacked as long as there is room.
    """
    place = 0
    while place < len(data):
        if len(data) - place < 8:
            raise ValueError("an end within the head of an element")
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start = place + 8
        if kind >> 16:
            # Up to four bytes stand in the head itself.
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            if size > 4:
                raise ValueError(f"a short element of {size} bytes")
        if start + size > len(data):
            raise ValueError(f"an element of {size} bytes, {len(data) - start} of which are there")
        content = data[start : start + size]
        place = start + size
        if kind == _COMPRESSED and room:
            unpacked = _unpack(content, room)
            room = max(room - len(unpacked), 1)
            yield from _elements(memoryview(unpacked), order)
            continue
        place += -place % 8
        yield kind, content


def _unpack(data: memoryview, room: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, room)
    except zlib.error as error:
        raise ValueError(f"a variable that does not unpack ({error})") from error
    if not unpacker.eof:
        raise ValueError("a variable that is cut off, or unpacks to too many bytes")
    return unpacked


def _matrix(data: memoryview, order: str) -> _Matrix:
    parts = list(_elements(data, order))
    if not parts:
        # An empty matrix within a cell may have no content at all.
        return _Matrix(_NUMERIC_CLASSES[0], (0, 0), "", [])
    if len(parts) < 3 or len(parts[0][1]) < 4:
        raise ValueError("a matrix without flags, shape and name")
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    shape = tuple(_numbers(*parts[1], order).tolist())
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"a matrix of shape {shape}")
    return _Matrix(flags & 0xFF, shape, bytes(parts[2][1]).decode("latin-1"), parts[3:])


def _value(matrix: _Matrix, order: str, depth: int) -> Any:
    """A list of a cell's entries, or an array."""
    size = 1
    for count in matrix.shape:
        size *= count
    if matrix.kind == _CELL_CLASS and depth:
        if len(matrix.parts) != size or any(kind != _MATRIX for kind, _ in matrix.parts):
            raise ValueError(f"a cell of shape {matrix.shape} with {len(matrix.parts)} entries")
        return [_value(_matrix(data, order), order, depth - 1) for _, data in matrix.parts]
    if matrix.kind not in _NUMERIC_CLASSES:
        raise ValueError(f"an array of class {matrix.kind} where numbers or a cell should be")
    numbers = _numbers(*matrix.parts[0], order) if matrix.parts else np.empty(0)
    if numbers.size != size:
        raise ValueError(f"a matrix of shape {matrix.shape} with {numbers.size} numbers")
    return numbers.reshape(matrix.shape, order="F")


def _numbers(kind: int, data: memoryview, order: Any) -> np.ndarray:
    if kind not in _NUMBERS:
        raise ValueError(f"an element of type {kind} where numbers should be")
    dtype = np.dtype(_NUMBERS[kind]).newbyteorder(order)
    if len(data) % dtype.itemsize:
        raise ValueError(f"{len(data)} bytes of numbers of {dtype.itemsize}")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
