"""How many identities, images or tracklets a data set has, and how two such counts differ."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vireid_fast.data.table import GALLERY, MODALITY_NAMES, QUERY, ImageTable
from vireid_fast.data.tracklets import TrackletTable, drop_short

_UNION = "train+val"
_ROLES = ((QUERY, "queries"), (GALLERY, "gallery"))

Counts = Mapping[str, Mapping[str, int]]


class CameraCount(NamedTuple):
    """What one camera recorded of one split in one modality."""

    rows: int
    identities: int


@dataclass(frozen=True)
class Structure:
    """Counts of a data set; in a published one, what is absent is not known and not compared.

    Attributes:
        identities: split -> number of identities.
        rows: split -> "visible" or "infrared" -> number of images, or of tracklets.
        unit: What a row is: "images" or "tracklets".
        frames: split -> "visible" or "infrared" -> frames of the tracklets; None for images.
        cameras: split -> "visible" or "infrared" -> camera -> its counts.
        total: "visible" or "infrared" -> rows on disk, those in no split included.
        total_frames: Frames of all tracklets; None for images.
        sizes: Further counts of rows by name, such as "infrared queries" and "visible gallery".
    """

    identities: Mapping[str, int]
    rows: Counts
    unit: str = "images"
    frames: Counts | None = None
    cameras: Mapping[str, Mapping[str, Mapping[int, CameraCount]]] | None = None
    total: Mapping[str, int] | None = None
    total_frames: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """The splits that hold anybody, and "train+val" where both do."""
        held = tuple(split for split, count in self.identities.items() if count)
        return (*held, _UNION) if {"train", "val"} <= set(held) else held

    def num_identities(self, part: str) -> int:
        """Identities of a split, or of a union such as "train+val"."""
        return sum(self.identities.get(split, 0) for split in part.split("+"))

    def num_rows(self, part: str, modality: str) -> int:
        """Images, or tracklets, of a split or union in "visible" or "infrared"."""
        return _sum(self.rows, part, modality)

    def num_frames(self, part: str, modality: str) -> int:
        """Frames of the tracklets of a split or union in "visible" or "infrared"."""
        return _sum(self.frames or {}, part, modality)


def _sum(counts: Counts, part: str, modality: str) -> int:
    return sum(counts.get(split, {}).get(modality, 0) for split in part.split("+"))


def count_structure(table: ImageTable | TrackletTable) -> Structure:
    """Count the identities and rows of each split, modality and camera, and the fixed roles."""
    chosen = {
        split: {word: table.rows(split, modality=m) for m, word in enumerate(MODALITY_NAMES)}
        for split in table.splits
    }
    frames = table.length if isinstance(table, TrackletTable) else None
    return Structure(
        identities={split: len(ids) for split, ids in table.splits.items()},
        rows=_each(chosen, len),
        unit="images" if frames is None else "tracklets",
        frames=None if frames is None else _each(chosen, lambda rows: int(frames[rows].sum())),
        cameras=_each(chosen, lambda rows: _count_cameras(table, rows)),
        total={
            word: int(np.count_nonzero(table.modality == m))
            for m, word in enumerate(MODALITY_NAMES)
        },
        total_frames=None if frames is None else int(frames.sum()),
        sizes={} if table.roles is None else _count_roles(table),
    )


def count_long(table: TrackletTable, frames: int) -> dict[str, int]:
    """Training tracklets, queries and gallery of at least `frames` frames, by name."""
    kept, size = drop_short(table, frames), f"{frames} frames or more"
    counts = {
        f"{word} training": len(kept.rows("train", modality=m))
        for m, word in enumerate(MODALITY_NAMES)
    }
    if kept.roles is not None:
        counts |= _count_roles(kept)
    return {f"{name}, {size}": count for name, count in counts.items()}


def _each(
    chosen: Mapping[str, Mapping[str, np.ndarray]], count: Callable[[np.ndarray], Any]
) -> dict[str, dict[str, Any]]:
    return {
        split: {word: count(rows) for word, rows in words.items()}
        for split, words in chosen.items()
    }


def _count_cameras(
    table: ImageTable | TrackletTable, rows: np.ndarray
) -> dict[int, CameraCount]:
    cameras = table.camera_ids[rows]
    return {
        int(camera): CameraCount(
            rows=int(np.count_nonzero(cameras == camera)),
            identities=len(np.unique(table.person_ids[rows[cameras == camera]])),
        )
        for camera in np.unique(cameras)
    }


def _count_roles(table: ImageTable | TrackletTable) -> dict[str, int]:
    return {
        f"{word} {name}": int(np.count_nonzero((table.roles == role) & (table.modality == m)))
        for role, name in _ROLES
        for m, word in enumerate(MODALITY_NAMES)
    }


def sysu_sizes(structure: Structure) -> dict[str, int]:
    """Sizes of SYSU-MM01's protocol on the test identities.

    A single-shot gallery has one image for each visible camera and identity that it saw, of the
    indoor-search for cameras 1 and 2 only.

    Args:
        structure: Of a set with SYSU-MM01's cameras, with its `cameras` counted.
    """
    visible = (structure.cameras or {})["test"]["visible"]
    indoor = sum(visible[camera].identities for camera in (1, 2) if camera in visible)
    return {
        "test queries": structure.num_rows("test", "infrared"),
        "single-shot gallery of the all-search": sum(c.identities for c in visible.values()),
        "single-shot gallery of the indoor-search": indoor,
    }


def describe_differences(counted: Structure, published: Structure) -> list[str]:
    """Sentences such as "train: 11,333 infrared images, published 11,909"; empty if equal."""
    return [
        f"{what}, published {want:,}"
        for what, have, want in _comparisons(counted, published)
        if have != want
    ]


def _comparisons(counted: Structure, published: Structure) -> Iterator[tuple[str, int, int]]:
    unit, parts = published.unit, published.parts
    for part in parts:
        have, want = counted.num_identities(part), published.num_identities(part)
        yield f"{part}: {have:,} identities", have, want
    for part in parts:
        for word in MODALITY_NAMES:
            if any(word not in published.rows.get(split, {}) for split in part.split("+")):
                continue
            have, want = counted.num_rows(part, word), published.num_rows(part, word)
            yield f"{part}: {have:,} {word} {unit}", have, want
    for part, words in (published.frames or {}).items():
        for word, want in words.items():
            have = counted.num_frames(part, word)
            yield f"{part}: {have:,} {word} frames", have, want
    for split, cameras in (published.cameras or {}).items():
        for word, theirs in cameras.items():
            ours = (counted.cameras or {}).get(split, {}).get(word, {})
            yield from _compare_cameras(f"{split}: camera", word, unit, ours, theirs)
    for word, want in (published.total or {}).items():
        have = (counted.total or {}).get(word, 0)
        yield f"all: {have:,} {word} {unit}", have, want
    if published.total_frames is not None:
        have = counted.total_frames or 0
        yield f"all: {have:,} frames", have, published.total_frames
    for name, want in published.sizes.items():
        have = counted.sizes.get(name, 0)
        yield f"{name}: {have:,} {unit}", have, want


def _compare_cameras(
    place: str,
    word: str,
    unit: str,
    ours: Mapping[int, CameraCount],
    theirs: Mapping[int, CameraCount],
) -> Iterator[tuple[str, int, int]]:
    nothing = CameraCount(rows=0, identities=0)
    for camera in sorted({*ours, *theirs}):
        have, want = ours.get(camera, nothing), theirs.get(camera, nothing)
        text = f"{place} {camera} has"
        yield f"{text} {have.rows:,} {word} {unit}", have.rows, want.rows
        yield f"{text} {have.identities:,} {word} identities", have.identities, want.identities
