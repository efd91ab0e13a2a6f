"""Feature files: the arrays of one extraction in `.npz`, `.safetensors` or `.h5` (with h5py).

Keys: `features` (N, D); `person_ids` (N,), all -1 where nobody is known; optional, each (N,):
`camera_ids`, -1 where unknown; `modality`, 0 visible and 1 infrared; `image_indices`, the 1-based
position of an image in the folder of its identity and camera; `roles`, 1 query, 0 gallery, -1
neither. `paths`, uint8, holds the N files as UTF-8 text, each followed by a NUL, relative to the
folder that the note `root` names; of a tracklet its middle frame. Further keys are ignored, so that
files from other programs can be read.

Metadata is text by name. `processing.<name>` says how the features were made (such as
`processing.flip`), `data_split` which numbered split of the data set the model belongs to,
`checkpoint` is the SHA-256 of the weights; `method`, `normalisation`, `metric`, `protocol`,
`dtype`, `version` and `data` say what their names say.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vireid_fast._checks import require, require_choice
from vireid_fast._files import atomic_write
from vireid_fast.data.feature_formats import (
    FORMATS,
    decode_paths,
    encode_paths,
    read_arrays,
    read_notes,
    require_format_available,
    write_arrays,
)

REQUIRED_KEYS = ("features", "person_ids")
OPTIONAL_KEYS = ("camera_ids", "modality", "image_indices", "roles")
PATHS_KEY = "paths"

PROCESSING_PREFIX = "processing."
SPLIT_NOTE = "data_split"
ROOT_NOTE = "root"

UNKNOWN_PERSON = -1
"""Of every row, where nobody is known; among others a person that rankings leave out."""


def read_features(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays of a feature file; pickled objects are never loaded.

    Args:
        path: A `.npz`, `.safetensors` or `.h5` file.

    Returns:
        The required keys and those optional ones that the file has, as stored; bfloat16, which
        numpy lacks, as float32. Lengths and values are checked where the arrays are put together.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The suffix is unknown, the file is damaged or holds Python objects, or a key is
            missing.
        RuntimeError: The file is `.h5` and h5py is not installed.
    """
    path = _existing_file("read_features", path)
    with _readable("read_features", path):
        present, arrays = read_arrays(path, REQUIRED_KEYS + OPTIONAL_KEYS)
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
        return read_notes(path)


def read_paths(path: str | os.PathLike[str]) -> list[str] | None:
    """Read the names of the images that a feature file's rows belong to.

    The names are what the file says; `images.file_below` tells which of them may be opened.

    Returns:
        One name for each row, relative to the folder in the note `root`; None if the file has none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The suffix is unknown, the file is damaged, or names and rows differ in number.
    """
    path = _existing_file("read_paths", path)
    with _readable("read_paths", path):
        _, arrays = read_arrays(path, (PATHS_KEY, "person_ids"))
        names = decode_paths(arrays[PATHS_KEY]) if PATHS_KEY in arrays else None
    rows = len(arrays["person_ids"]) if "person_ids" in arrays else 0
    require(names is None or len(names) == rows, f"read_paths: {path}", "paths",
            f"have one name for each of the {rows} rows", len(names or ()))  # fmt: skip
    return names


def write_features(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    paths: Sequence[str] | None = None,
) -> None:
    """Write a feature file in one step; a failed write leaves the previous file as it was.

    Args:
        path: Target; the suffix `.npz`, `.safetensors` or `.h5` sets the format.
        arrays: The required keys and any of the optional ones.
        metadata: Notes such as checkpoint and protocol; JSON text under the key `metadata` in
            `.npz`, the header in `.safetensors`, attributes of the root in `.h5`.
        paths: One file for each row, relative to the folder in the note `root`.

    Raises:
        ValueError: The suffix or a key is unknown, or a required key is missing.
        TypeError: An array is not numeric. RuntimeError: `.h5` without h5py.
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
    stored = dict(arrays)
    if paths is not None:
        require(len(paths) == len(arrays["features"]), "write_features", "paths",
                f"have one name for each of the {len(arrays['features'])} rows",
                len(paths))  # fmt: skip
        stored[PATHS_KEY] = encode_paths(paths)
    with atomic_write(path, own_folder=True) as temporary:
        write_arrays(temporary, path.suffix, stored, metadata or {})


def require_target(path: Path) -> None:
    """Raise unless a feature file can have this name; costs nothing, so ask early.

    Raises:
        ValueError: The suffix is unknown, or a folder has the name.
        RuntimeError: The suffix is `.h5` and h5py is not installed.
    """
    require_choice("write_features", "path suffix", path.suffix, FORMATS)
    require_format_available(path)
    require(not path.is_dir(), "write_features", "path", "be a file", f"the folder {path}")


def _existing_file(what: str, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    require(
        path.is_file(), what, "path", "be an existing file", path, "Check the name.",
        FileNotFoundError,
    )  # fmt: skip
    require_choice(f"{what}: {path}", "path suffix", path.suffix, FORMATS)
    require_format_available(path)
    return path


@contextmanager
def _readable(what: str, path: Path) -> Iterator[None]:
    """Turn every error of the decoders into one sentence that names the file."""
    try:
        yield
    # Truncated and foreign bytes make numpy, zipfile, safetensors and HDF5 raise what their parsers
    # meet first: OverflowError, SyntaxError, tokenize.TokenError, zlib.error, MemoryError, ...
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{what}: {path} must be a complete {path.suffix} file of plain numeric arrays, "
            f"got {type(error).__name__}: {reason}. Save or copy it again."
        ) from error
