"""Feature files: the arrays of one extraction in `.npz` or `.safetensors`.

Keys: `features` (N, D); `person_ids` (N,); optional, each (N,): `camera_ids`, -1 where unknown;
`modality`, 0 visible and 1 infrared; `image_indices`, the 1-based position of an image in the
folder of its identity and camera; `roles`, 1 query, 0 gallery, -1 neither. Further keys are
ignored, so that files from other programs can be read.

Metadata is text by name. `processing.<name>` says how the features were made (such as
`processing.flip`), and `data_split` which numbered split of the data set the model belongs to.
"""

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch

from vireid_fast._checks import require, require_choice
from vireid_fast._files import atomic_write

REQUIRED_KEYS = ("features", "person_ids")
OPTIONAL_KEYS = ("camera_ids", "modality", "image_indices", "roles")
FORMATS = (".npz", ".safetensors")

PROCESSING_PREFIX = "processing."
SPLIT_NOTE = "data_split"

_METADATA_KEY = "metadata"
# Everything that numpy, zipfile and safetensors raise on truncated or foreign bytes.
_UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, KeyError, NotImplementedError, MemoryError,
    struct.error, zipfile.BadZipFile, zlib.error, safetensors.SafetensorError,
)  # fmt: skip


def read_features(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays of a feature file; pickled objects are never loaded.

    Args:
        path: A `.npz` or `.safetensors` file.

    Returns:
        The required keys and those optional ones that the file has, as stored; bfloat16, which
        numpy lacks, as float32. Lengths and values are checked where the arrays are put together.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The suffix is unknown, the file is damaged or holds Python objects, or a key is
            missing.
    """
    path = _existing_file("read_features", path)
    with _readable("read_features", path):
        if path.suffix == ".npz":
            present, arrays = _read_npz(path, REQUIRED_KEYS + OPTIONAL_KEYS)
        else:
            present, arrays = _read_safetensors(path)
    for key in REQUIRED_KEYS:
        require(
            key in arrays, f"read_features: {path}", f"key {key!r}", "be in the file",
            f"only {sorted(present)}", "Rename or add the array.",
        )  # fmt: skip
    return arrays


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the notes stored by `write_features`; empty if the file has none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The suffix is unknown or the file is damaged.
    """
    path = _existing_file("read_metadata", path)
    with _readable("read_metadata", path):
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                return dict(file.metadata() or {})
        _, arrays = _read_npz(path, (_METADATA_KEY,))
        text = arrays.get(_METADATA_KEY)
        return {} if text is None else {str(k): str(v) for k, v in json.loads(str(text)).items()}


def write_features(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a feature file in one step; a failed write leaves the previous file as it was.

    Args:
        path: Target; the suffix `.npz` or `.safetensors` sets the format.
        arrays: The required keys and any of the optional ones.
        metadata: Notes such as checkpoint and protocol; JSON text under the key `metadata` in
            `.npz`, the header in `.safetensors`.

    Raises:
        ValueError: The suffix or a key is unknown, or a required key is missing.
        TypeError: An array is not numeric.
        OSError: The file cannot be written.
    """
    path = Path(path)
    require_target(path)
    for key in REQUIRED_KEYS:
        require(key in arrays, "write_features", "arrays", f"have the key {key!r}", sorted(arrays))
    for key, array in arrays.items():
        require_choice("write_features", "array name", key, REQUIRED_KEYS + OPTIONAL_KEYS)
        require(
            array.dtype.kind in "iuf", "write_features", key, "be an array of numbers", array.dtype,
            "Convert it with .astype.", TypeError,
        )  # fmt: skip
    notes = dict(metadata or {})
    with atomic_write(path) as temporary:
        if path.suffix == ".npz":
            # An open file: numpy would append `.npz` to the temporary name.
            with open(temporary, "wb") as file:
                np.savez(file, **arrays, **{_METADATA_KEY: np.array(json.dumps(notes))})
        else:
            contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
            try:
                safetensors.numpy.save_file(contiguous, temporary, metadata=notes)
            except safetensors.SafetensorError as error:
                raise OSError(f"write_features: {path} could not be written: {error}.") from error


def require_target(path: Path) -> None:
    """Raise ValueError unless a feature file can have this name; costs nothing, so ask early."""
    require_choice("write_features", "path suffix", path.suffix, FORMATS)
    require(not path.is_dir(), "write_features", "path", "be a file", f"the folder {path}")


def _existing_file(what: str, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    require(
        path.is_file(), what, "path", "be an existing file", path, "Check the name.",
        FileNotFoundError,
    )  # fmt: skip
    require_choice(f"{what}: {path}", "path suffix", path.suffix, FORMATS)
    return path


@contextmanager
def _readable(what: str, path: Path) -> Iterator[None]:
    """Turn every error of the decoders into one sentence that names the file."""
    try:
        yield
    except _UNREADABLE as error:
        raise ValueError(
            f"{what}: {path} must be a complete {path.suffix} file of plain numeric arrays, "
            f"got {type(error).__name__}: {error}. Save or copy it again."
        ) from error


def _read_npz(path: Path, keys: tuple[str, ...]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names in the archive, and the arrays among `keys`; objects are not unpickled."""
    # numpy would take any other bytes for a pickle and advise to trust it.
    if not zipfile.is_zipfile(path):
        raise ValueError("one single array or foreign bytes, not an archive of named arrays")
    with np.load(path, allow_pickle=False) as archive:
        return archive.files, {key: archive[key] for key in keys if key in archive.files}


def _read_safetensors(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names in the file, and the arrays that we know."""
    arrays: dict[str, np.ndarray] = {}
    with safetensors.safe_open(path, framework="pt") as file:
        present = list(file.keys())
        for key in REQUIRED_KEYS + OPTIONAL_KEYS:
            if key in present:
                tensor = file.get_tensor(key)
                arrays[key] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return present, arrays
