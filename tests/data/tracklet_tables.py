"""A table of tracklets made by hand."""

from pathlib import Path

import numpy as np

from vireid_fast.data.table import ImageTable
from vireid_fast.data.tracklets import TrackletTable

# person, camera, modality, frames, role
ROWS = (
    (3, 1, 0, 2, -1),
    (3, 2, 1, 5, -1),
    (5, 1, 0, 9, -1),
    (5, 2, 1, 4, -1),
    (8, 1, 0, 3, -1),
    (8, 2, 1, 6, -1),
    (9, 1, 0, 7, 0),
    (9, 2, 1, 1, 1),
)


def make_tracklets(rows=ROWS, *, splits=None, partner=None, roles=True) -> TrackletTable:
    """Tracklets of the given person, camera, modality, number of frames and role."""
    person, camera, modality, length, role = (
        np.array(c, np.int64) for c in zip(*rows, strict=True)
    )
    frame = np.concatenate([np.arange(1, n + 1) for n in length])
    owner = np.repeat(np.arange(len(rows)), length)
    splits = {"train": [3, 5, 8], "val": [], "test": [9]} if splits is None else splits
    frames = ImageTable(
        root=Path("tracks"),
        paths=tuple(f"{t}/{f}.jpg" for t, f in zip(owner, frame, strict=True)),
        person_ids=person[owner],
        camera_ids=camera[owner],
        modality=modality[owner],
        image_indices=frame,
        splits={name: np.array(ids, np.int64) for name, ids in splits.items()},
        roles=role[owner] if roles else None,
    )
    start = np.cumsum(length) - length
    return TrackletTable(frames, start, length, None if partner is None else np.array(partner))
