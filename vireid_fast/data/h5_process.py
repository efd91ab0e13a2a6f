"""Reads an HDF5 file for `h5_reading` in a process of its own, which the file may crash.

Run as a script, with nothing of the package in it. Arguments: the file, and a JSON list of names.
Output: one line of JSON with the names in the root, the text among its attributes, and kind and
shape of each wanted array; then the arrays' bytes one after the other. Or {"error": words}.
"""

import json
import sys
from typing import Any

import h5py
import numpy as np

# Deflate, the best of the filters that HDF5 always has, packs 1032 bytes into one.
TIGHTEST = 1100
SMALL = 1 << 20


def plain_array(file: h5py.File, key: str) -> np.ndarray:
    """An array that lies in the file itself, and is as large as its content bears out."""
    link = file.get(key, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{key!r} is a link, which could lead out of the file")
    data = file[key]
    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"{key!r} is a group, not an array")
    if data.is_virtual or data.external:
        raise ValueError(f"{key!r} lies in another file")
    if data.dtype.kind not in "iuf":
        raise ValueError(f"{key!r} holds {data.dtype}, not numbers")
    stored = data.id.get_storage_size()
    # A shape costs nothing to state; one that nothing bears out would fill the memory.
    if data.size * data.dtype.itemsize > TIGHTEST * stored + SMALL:
        raise ValueError(f"{key!r} of shape {data.shape} with only {stored:,} bytes of content")
    return np.ascontiguousarray(data[()]).reshape(data.shape)


def main(path: str, keys: list[str]) -> None:
    """Write what `h5_reading` reads."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            names = list(file)
            notes = {str(k): v for k, v in file.attrs.items() if isinstance(v, str)}
            arrays = [(key, plain_array(file, key)) for key in keys if key in names]
    # Whatever a damaged file makes HDF5 raise is told to the reader, who names the file.
    except Exception as error:
        head: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"}
        arrays = []
    else:
        described = [(key, array.dtype.str, array.shape) for key, array in arrays]
        head = {"names": names, "notes": notes, "arrays": described}
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n")
    for _, array in arrays:
        sys.stdout.buffer.write(array.data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
