"""How many identities and images a data set has, and how two such counts differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vireid_fast.data.table import MODALITY_NAMES, SPLITS, ImageTable

UNIONS = (*SPLITS, "train+val")
_INDOOR_CAMERAS = (1, 2)


class CameraCount(NamedTuple):
    """What one camera recorded of one split in one modality."""

    images: int
    identities: int


@dataclass(frozen=True)
class Structure:
    """Counts of a data set. "train+val" is accepted wherever a split is named.

    Attributes:
        identities: split -> number of identities.
        cameras: split -> "visible" or "infrared" -> camera -> its counts.
        total_images: "visible" or "infrared" -> images on disk, those in no split included.
    """

    identities: Mapping[str, int]
    cameras: Mapping[str, Mapping[str, Mapping[int, CameraCount]]]
    total_images: Mapping[str, int]

    def num_identities(self, split: str) -> int:
        """Identities of a split."""
        return sum(self.identities[part] for part in split.split("+"))

    def num_images(self, split: str, modality: str) -> int:
        """Images of a split in "visible" or "infrared"."""
        parts = split.split("+")
        return sum(c.images for part in parts for c in self.cameras[part][modality].values())

    def protocol_sizes(self) -> dict[str, int]:
        """Sizes of SYSU-MM01's protocol on the test identities.

        Returns:
            "queries": infrared images. "gallery_all" and "gallery_indoor": size of a single-shot
            gallery, one image for each visible camera (indoor: 1 and 2) and identity it saw.
        """
        visible = self.cameras["test"]["visible"]
        return {
            "queries": self.num_images("test", "infrared"),
            "gallery_all": sum(count.identities for count in visible.values()),
            "gallery_indoor": sum(
                count.identities for camera, count in visible.items() if camera in _INDOOR_CAMERAS
            ),
        }


def count_structure(table: ImageTable) -> Structure:
    """Count the identities and images of each split, modality and camera."""
    return Structure(
        identities={split: len(table.splits[split]) for split in SPLITS},
        cameras={
            split: {
                word: _count_cameras(table, table.rows(split, modality=modality))
                for modality, word in enumerate(MODALITY_NAMES)
            }
            for split in SPLITS
        },
        total_images={
            word: int(np.count_nonzero(table.modality == modality))
            for modality, word in enumerate(MODALITY_NAMES)
        },
    )


def _count_cameras(table: ImageTable, rows: np.ndarray) -> dict[int, CameraCount]:
    cameras = table.camera_ids[rows]
    return {
        int(camera): CameraCount(
            images=int(np.count_nonzero(cameras == camera)),
            identities=len(np.unique(table.person_ids[rows[cameras == camera]])),
        )
        for camera in np.unique(cameras)
    }


def describe_differences(counted: Structure, published: Structure) -> list[str]:
    """Sentences such as "train: 11,333 infrared images, published 11,909"; empty if equal."""
    return [
        f"{what}, published {want:,}"
        for what, have, want in _comparisons(counted, published)
        if have != want
    ]


def _comparisons(counted: Structure, published: Structure) -> Iterator[tuple[str, int, int]]:
    for split in UNIONS:
        have, want = counted.num_identities(split), published.num_identities(split)
        yield f"{split}: {have:,} identities", have, want
    for split in UNIONS:
        for word in MODALITY_NAMES:
            have, want = counted.num_images(split, word), published.num_images(split, word)
            yield f"{split}: {have:,} {word} images", have, want
    for split in SPLITS:
        for word in MODALITY_NAMES:
            yield from _compare_cameras(split, word, counted, published)
    for word in MODALITY_NAMES:
        have, want = counted.total_images[word], published.total_images[word]
        yield f"all: {have:,} {word} images", have, want
    sizes = counted.protocol_sizes()
    for what, want in published.protocol_sizes().items():
        yield f"{_PROTOCOL_WORDS[what]}: {sizes[what]:,} images", sizes[what], want


_PROTOCOL_WORDS = {
    "queries": "test queries",
    "gallery_all": "single-shot gallery of the all-search",
    "gallery_indoor": "single-shot gallery of the indoor-search",
}


def _compare_cameras(
    split: str, word: str, counted: Structure, published: Structure
) -> Iterator[tuple[str, int, int]]:
    nothing = CameraCount(images=0, identities=0)
    ours, theirs = counted.cameras[split][word], published.cameras[split][word]
    for camera in sorted({*ours, *theirs}):
        have, want = ours.get(camera, nothing), theirs.get(camera, nothing)
        place = f"{split}: camera {camera} has"
        yield f"{place} {have.images:,} {word} images", have.images, want.images
        yield f"{place} {have.identities:,} {word} identities", have.identities, want.identities
