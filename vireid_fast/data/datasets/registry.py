"""Registry of data sets: name -> reader and, where known, the published structure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vireid_fast.data.datasets.llcm import read_llcm
from vireid_fast.data.datasets.manifest import read_manifest
from vireid_fast.data.datasets.regdb import NUM_SPLITS, read_regdb
from vireid_fast.data.datasets.sysu_mm01 import INFRARED_CAMERAS, VISIBLE_CAMERAS, read_sysu_layout
from vireid_fast.data.structure import CameraCount, Structure, sysu_sizes
from vireid_fast.data.table import ImageTable
from vireid_fast.data.tracklets import TrackletTable


@dataclass(frozen=True)
class Dataset:
    """One entry of the registry.

    Attributes:
        read: `read(root, *, strict=True)` lists the images, or tracklets, below a folder; of a set
            with numbered splits `read(root, *, strict=True, split=1)`.
        published: Counts of a complete copy; None where there is nothing to compare with.
        splits: Number of published train / test splits, each of which needs a model of its own; 0
            where the set has one split only.
        sizes: Further counts of a structure by name, such as the sizes of a protocol.
    """

    read: Callable[..., ImageTable | TrackletTable]
    published: Structure | None = None
    splits: int = 0
    sizes: Callable[[Structure], dict[str, int]] | None = None


def _sysu_cameras(
    images: Sequence[int], identities: Sequence[int]
) -> dict[str, dict[int, CameraCount]]:
    """Counts of cameras 1..6, by modality."""
    return {
        word: {c: CameraCount(images[c - 1], identities[c - 1]) for c in cameras}
        for word, cameras in (("visible", VISIBLE_CAMERAS), ("infrared", INFRARED_CAMERAS))
    }


def _sysu_structure(
    identities: Mapping[str, int],
    cameras: Mapping[str, Mapping[str, Mapping[int, CameraCount]]],
    total: Mapping[str, int],
) -> Structure:
    """Structure of a set with SYSU-MM01's cameras, rows and protocol sizes from the cameras'."""
    rows = {
        split: {word: sum(c.rows for c in counts.values()) for word, counts in words.items()}
        for split, words in cameras.items()
    }
    structure = Structure(identities, rows, cameras=cameras, total=total)
    return replace(structure, sizes=sysu_sizes(structure))


# Counted in rand_perm_cam.mat and the id lists of wuancong/SYSU-MM01@0499112; the sums equal its
# README. Cameras 1, 2 and 6 never saw the validation identities.
_SYSU_MM01 = _sysu_structure(
    identities={"train": 296, "val": 99, "test": 96},
    cameras={
        "train": _sysu_cameras(
            (4721, 5753, 5929, 4821, 4989, 4000), (194, 195, 293, 283, 294, 200)
        ),
        "val": _sysu_cameras((0, 0, 1980, 990, 984, 0), (0, 0, 99, 99, 96, 0)),
        "test": _sysu_cameras((1374, 1565, 1883, 1918, 1918, 1920), (56, 56, 93, 94, 95, 96)),
    },
    total={"visible": 30071, "infrared": 15792},
)


def _uniform_structure(identities: Mapping[str, int], views: int) -> Structure:
    """Structure of a set in which each of the six cameras has `views` images of everyone."""
    total = views * sum(identities.values())
    return _sysu_structure(
        identities=identities,
        cameras={split: _sysu_cameras([views * n] * 6, [n] * 6) for split, n in identities.items()},
        total={
            "visible": len(VISIBLE_CAMERAS) * total,
            "infrared": len(INFRARED_CAMERAS) * total,
        },
    )


# mangye16/Cross-Modal-Re-ID-baseline@e817a26: ten images of 412 persons in each modality; every
# split has half of the persons.
_REGDB_HALF = {"visible": 2060, "infrared": 2060}
_REGDB = Structure(
    identities={"train": 206, "test": 206},
    rows={"train": _REGDB_HALF, "test": _REGDB_HALF},
    total={"visible": 4120, "infrared": 4120},
)

# Remembered, not read from the files, which are not public: 713 and 351 identities and the images
# of each part. The sums agree with the README of ZYK100/LLCM@886e27c: 1,064 identities and 46,767
# images, 15,846 of them in the test folders.
_LLCM = Structure(
    identities={"train": 713, "test": 351},
    rows={
        "train": {"visible": 16946, "infrared": 13975},
        "test": {"visible": 8680, "infrared": 7166},
    },
    total={"visible": 25626, "infrared": 21141},
)

DATASETS: dict[str, Dataset] = {
    "sysu_mm01": Dataset(read_sysu_layout, _SYSU_MM01, sizes=sysu_sizes),
    "scene_regions": Dataset(
        read_sysu_layout,
        _uniform_structure({"train": 601, "val": 85, "test": 225}, views=2),
        sizes=sysu_sizes,
    ),
    "regdb": Dataset(read_regdb, _REGDB, splits=NUM_SPLITS),
    "llcm": Dataset(read_llcm, _LLCM),
    "manifest": Dataset(read_manifest),
}
