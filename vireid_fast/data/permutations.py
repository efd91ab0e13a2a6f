"""The official gallery permutations of SYSU-MM01 (`rand_perm_cam.mat`, wuancong/SYSU-MM01)."""

import os
from pathlib import Path

import numpy as np

from vireid_fast._checks import require, sentence
from vireid_fast.data.matlab import read_variables

_KEY = "rand_perm_cam"


def read_permutations(path: str | os.PathLike[str]) -> dict[tuple[int, int], np.ndarray]:
    """Read the stored permutations of the images of each camera and identity.

    Args:
        path: `rand_perm_cam.mat`: a cell per camera (1, 2, ...) of a cell per identity (1, 2, ...)
            of a matrix (trials, images), empty where the camera did not see the identity.

    Returns:
        {(camera, identity): array (trials, images), int64}; row t orders the 1-based image
        indices for trial t. Absent pairs have no entry.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or a row is no permutation of 1..images.
    """
    path = Path(path)
    what = f"read_permutations: {path}"
    require(
        path.is_file(), "read_permutations", "path", "be an existing file", path,
        "SYSU-MM01 publishes rand_perm_cam.mat in its repository.", FileNotFoundError,
    )  # fmt: skip
    try:
        content = read_variables(path)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{what} must be a complete MATLAB 5 file, got {error}. Download it again."
        ) from error
    cameras = content.get(_KEY)
    if not isinstance(cameras, list):
        raise ValueError(sentence(what, "file", f"hold the cell {_KEY!r}", sorted(content)))
    permutations = {}
    for camera, identities in enumerate(cameras, start=1):
        identities = identities if isinstance(identities, list) else [identities]
        for identity, order in enumerate(identities, start=1):
            place = f"{what}: camera {camera}, identity {identity}"
            require(isinstance(order, np.ndarray), place, "cell", "be a matrix", "a cell")
            if order.size:
                _require_permutations(place, order)
                permutations[camera, identity] = order.astype(np.int64)
    return permutations


def _require_permutations(what: str, order: np.ndarray) -> None:
    """Raise ValueError unless each row of `order` is a permutation of 1..images."""
    require(order.ndim == 2, what, "cell", "be a matrix (trials, images)", order.shape)
    expected = np.arange(1, order.shape[1] + 1)
    require(
        order.dtype.kind in "iuf" and bool((np.sort(order, axis=1) == expected).all()),
        what, "each row", f"be a permutation of 1..{order.shape[1]}", str(order.tolist())[:200],
    )  # fmt: skip
