"""The official gallery permutations of SYSU-MM01 (`rand_perm_cam.mat`, wuancong/SYSU-MM01)."""

import os
from pathlib import Path

import numpy as np

from vireid_fast._checks import require

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
    import scipy.io  # takes time, which evaluations without permutations should not spend

    try:
        content = scipy.io.loadmat(path)
    # scipy's reader fails on foreign bytes with whatever its parser meets first.
    except Exception as error:
        raise ValueError(
            f"{what} must be a complete MATLAB 5 file, got {type(error).__name__}: {error}. "
            "Download it again."
        ) from error
    names = sorted(name for name in content if not name.startswith("__"))
    require(_KEY in content, what, "file", f"hold the cell {_KEY!r}", names)
    permutations = {}
    for camera, identities in enumerate(np.ravel(content[_KEY]), start=1):
        for identity, cell in enumerate(np.ravel(identities), start=1):
            order = np.asarray(cell)
            if order.size:
                _require_permutations(f"{what}: camera {camera}, identity {identity}", order)
                permutations[camera, identity] = order.astype(np.int64)
    return permutations


def _require_permutations(what: str, order: np.ndarray) -> None:
    """Raise ValueError unless each row of `order` is a permutation of 1..images."""
    require(order.ndim == 2, what, "cell", "be a matrix (trials, images)", order.shape)
    expected = np.arange(1, order.shape[1] + 1)
    require(
        order.dtype.kind in "iuf" and bool((np.sort(order, axis=1) == expected).all()),
        what, "each row", f"be a permutation of 1..{order.shape[1]}", order.tolist(),
    )  # fmt: skip
