"""Reading and writing HDF5, an optional format.

The HDF5 library crashes on some damaged files, so they are read in a process of their own
(`h5_process.py`): what happens to it there becomes an error here.
"""

import importlib.util
import io
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_SCRIPT = Path(__file__).with_name("h5_process.py")
_SECONDS = 60.0
_BYTES_PER_SECOND = 5e6


def require_h5py(what: str) -> None:
    """Raise RuntimeError, with what to do, unless h5py and Python's own program are there."""
    if importlib.util.find_spec("h5py") is None:
        raise RuntimeError(
            f"{what}: the package h5py must be installed for .h5 files, got none. "
            "Run: pip install h5py, or use .npz or .safetensors."
        )
    if not os.access(sys.executable or "", os.X_OK):
        raise RuntimeError(
            f"{what}: sys.executable must name Python's own program for .h5 files, which are read "
            f"in a process of their own, got {sys.executable!r}. Use .npz or .safetensors."
        )


def read_h5(
    path: Path, keys: Sequence[str]
) -> tuple[list[str], dict[str, str], dict[str, np.ndarray]]:
    """Names in the root, the text among its attributes, and the numeric arrays among `keys`.

    Raises:
        ValueError: The file is damaged, an array leads out of it, or reading it takes too long.
    """
    command = [sys.executable, str(_SCRIPT), str(path), json.dumps(list(keys))]
    limit = _SECONDS + path.stat().st_size / _BYTES_PER_SECOND
    # What this process imports from, however it came to know of it.
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:  # fmt: skip
        watchdog = threading.Timer(limit, process.kill)
        watchdog.start()
        try:
            head, arrays = _receive(process.stdout)
        finally:
            watchdog.cancel()
            process.kill()
    return list(head["names"]), dict(head["notes"]), arrays


def _receive(stream: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("a file on which HDF5 crashes or does not end")
    head = json.loads(line)
    if "error" in head:
        raise ValueError(head["error"])
    arrays = {}
    for key, kind, shape in head["arrays"]:
        array = np.empty(math.prod(shape) * np.dtype(kind).itemsize, np.uint8)
        if stream.readinto(array.data) != array.size:
            raise ValueError(f"{key!r} on which HDF5 crashes or does not end")
        arrays[key] = array.view(kind).reshape(shape)
    return head, arrays


def write_h5(path: Path, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> None:
    """Write arrays, and text as attributes of the root, into a file.

    Raises:
        OSError: The file cannot be written.
    """
    import h5py

    # In memory: on a full disk HDF5 prints tracebacks and its errors name no file.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for key, array in arrays.items():
            # A checksum of each chunk, so that a flipped bit is found.
            file.create_dataset(key, data=array, fletcher32=array.size > 0)
        file.attrs.update(notes)
    path.write_bytes(content.getbuffer())
