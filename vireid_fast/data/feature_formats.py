"""How arrays and notes lie in the three formats of feature files.

Nothing in a file is executed: no object of Python is unpickled. Errors of the decoders are raised
as they are; `feature_files` names the file.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch

from vireid_fast._checks import require
from vireid_fast._files import refusal_in
from vireid_fast.data.h5_reading import read_h5, require_h5py, write_h5

FORMATS = (".npz", ".safetensors", ".h5")

_METADATA_KEY = "metadata"
# SHA-256 of each array; zip and HDF5 have checksums of their own.
_DIGESTS_NOTE = "digests"
# SHA-256 of the text of the digests, so that damage to these or their name is seen too.
_SEALED_NOTE = "sealed_by"


def read_arrays(path: Path, keys: Sequence[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names in the file, and the arrays among `keys` that it has."""
    if path.suffix == ".npz":
        return _read_npz(path, keys)
    if path.suffix == ".h5":
        present, _, found = read_h5(path, keys)
        return present, found
    arrays: dict[str, np.ndarray] = {}
    with safetensors.safe_open(path, framework="pt") as file:
        present, notes = list(file.keys()), dict(file.metadata() or {})
        for key in keys:
            if key in present:
                tensor = file.get_tensor(key)
                arrays[key] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    _require_as_written(notes, keys, arrays)
    return present, arrays


def _digest_of(value: np.ndarray | Mapping[str, str]) -> str:
    """SHA-256 of an array with its kind and shape, or of notes."""
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    else:
        own = (_DIGESTS_NOTE, _SEALED_NOTE)
        others = {name: words for name, words in value.items() if name not in own}
        digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    return digest.hexdigest()


def _digests(arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> str:
    found = {key: _digest_of(array) for key, array in arrays.items()}
    return json.dumps({**found, _METADATA_KEY: _digest_of(notes)})


def _seal(digests: str) -> str:
    return hashlib.sha256(digests.encode()).hexdigest()


def _require_as_written(
    notes: Mapping[str, str], keys: Sequence[str], arrays: Mapping[str, np.ndarray]
) -> None:
    """Raise ValueError where safetensors, which has no checksums, hold other bytes than written."""
    if _DIGESTS_NOTE not in notes and _SEALED_NOTE not in notes:
        return
    text = notes.get(_DIGESTS_NOTE, "")
    if notes.get(_SEALED_NOTE, _seal(text)) != _seal(text):
        raise ValueError("other digests than were written")
    wanted = json.loads(text)
    if wanted[_METADATA_KEY] != _digest_of(notes):
        raise ValueError("other notes than were written")
    for key in keys:
        found = None if key not in arrays else _digest_of(arrays[key])
        if wanted.get(key) != found:
            raise ValueError(f"{key!r} with other content than was written")


def read_notes(path: Path) -> dict[str, str]:
    """Text by name; empty if the file has none."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, framework="pt") as file:
            notes = dict(file.metadata() or {})
        _require_as_written(notes, (), {})
        for own in (_DIGESTS_NOTE, _SEALED_NOTE):
            notes.pop(own, None)
        return notes
    if path.suffix == ".h5":
        return read_h5(path, ())[1]
    _, arrays = _read_npz(path, (_METADATA_KEY,))
    if _METADATA_KEY not in arrays:
        return {}
    notes = json.loads(str(arrays[_METADATA_KEY]))
    if not isinstance(notes, dict):
        raise ValueError(f"metadata that is a {type(notes).__name__}, not words by name")
    return {str(name): str(words) for name, words in notes.items()}


def write_arrays(path: Path, format: str, arrays: Mapping[str, np.ndarray],
                 notes: Mapping[str, str]) -> None:  # fmt: skip
    """Write arrays and notes.

    Args:
        path: An empty file of any name.
        format: Of `FORMATS`.
        arrays: Plain numeric arrays.
        notes: Text by name: the array `metadata` of JSON text in `.npz`, the header of
            `.safetensors`, attributes of the root in `.h5`.
    """
    if format == ".npz":
        # An open file: numpy would append `.npz` to the name.
        with open(path, "wb") as file:
            named: dict[str, Any] = {**arrays, _METADATA_KEY: np.array(json.dumps(dict(notes)))}
            np.savez(file, **named)
    elif format == ".h5":
        write_h5(path, arrays, notes)
    else:
        contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        digests = _digests(contiguous, notes)
        words = {**notes, _DIGESTS_NOTE: digests, _SEALED_NOTE: _seal(digests)}
        try:
            safetensors.numpy.save_file(contiguous, path, metadata=words)
        except safetensors.SafetensorError as error:
            raise refusal_in(error) from error


def _read_npz(path: Path, keys: Sequence[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names in the archive, and the arrays among `keys`; objects are not unpickled."""
    # numpy would take any other bytes for a pickle and advise to trust it.
    if not zipfile.is_zipfile(path):
        raise ValueError("one single array or foreign bytes, not an archive of named arrays")
    with np.load(path, allow_pickle=False) as archive:
        for member in archive.zip.infolist():
            # Compares the two places that name it: an array must not vanish by a flipped bit.
            archive.zip.open(member).close()
        present = [key for key in keys if key in archive.files]
        for key in present:
            _require_plausible_size(archive, key)
        arrays = {key: archive[key] for key in present}
        for key, value in arrays.items():
            # A member that is no .npy file is handed out as bytes.
            if not isinstance(value, np.ndarray):
                raise ValueError(f"{key!r} is no array")
        return archive.files, arrays


def _require_plausible_size(archive: np.lib.npyio.NpzFile, key: str) -> None:
    """Raise ValueError where a few bytes say that they unpack to many, before they do."""
    names = archive.zip.namelist()
    member = archive.zip.getinfo(f"{key}.npy" if f"{key}.npy" in names else key)
    # Features do not compress so well; ids may, but are short.
    if member.file_size > (64 << 20) + 100 * member.compress_size:
        raise ValueError(
            f"{key!r} unpacks to {member.file_size:,} bytes from {member.compress_size:,}"
        )


def require_format_available(path: Path) -> None:
    """Raise RuntimeError where the format needs a package that is not installed."""
    if path.suffix == ".h5":
        require_h5py(str(path))


def encode_paths(paths: Sequence[str]) -> np.ndarray:
    """Names of files as one array that every format can hold, whatever their number.

    Args:
        paths: No name holds the character NUL.

    Returns:
        UTF-8, each name followed by a NUL. Shape (bytes,), uint8.

    Raises:
        ValueError: A name holds NUL.
    """
    for path in paths:
        require("\0" not in path, "write_features", "paths", "hold no NUL character", repr(path))
    text = "".join(f"{path}\0" for path in paths)
    # Bytes that are no UTF-8, which Linux allows in names, come back as they were.
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)


def decode_paths(array: np.ndarray) -> list[str]:
    """The names in an array of `encode_paths`, or in a plain array of text.

    Raises:
        ValueError: The array is none of the two.
    """
    if array.dtype.kind == "U" and array.ndim == 1:
        return array.tolist()
    if array.dtype != np.uint8 or array.ndim != 1 or (array.size and array[-1] != 0):
        raise ValueError(
            f"paths of shape {array.shape} and {array.dtype}, not names that each end in NUL"
        )
    return array.tobytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
