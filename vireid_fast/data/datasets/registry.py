"""Registry of data sets: name -> reader and, where known, the published structure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vireid_fast.data.datasets.bupt_campus import read_bupt_campus
from vireid_fast.data.datasets.hitsz_vcm import PUBLISHED_MIN_FRAMES, read_vcm_layout
from vireid_fast.data.datasets.llcm import read_llcm
from vireid_fast.data.datasets.manifest import read_manifest
from vireid_fast.data.datasets.regdb import NUM_SPLITS, read_regdb
from vireid_fast.data.datasets.sysu_mm01 import INFRARED_CAMERAS, VISIBLE_CAMERAS, read_sysu_layout
from vireid_fast.data.structure import CameraCount, Structure, sysu_sizes
from vireid_fast.data.table import MODALITY_NAMES, ImageTable
from vireid_fast.data.tracklets import TrackletTable


@dataclass(frozen=True)
class Dataset:
    """One entry of the registry.

    Attributes:
        read: `read(root, *, strict=True)` lists the images, or tracklets, below a folder; of a set
            with numbered splits `read(root, *, strict=True, split=1)`, of one that `guards_links`
            `read(root, *, strict=True, follow_links=False)`.
        published: Counts of a complete copy; None where there is nothing to compare with.
        splits: Number of published train / test splits, each of which needs a model of its own; 0
            where the set has one split only.
        sizes: Further counts of a structure by name, such as the sizes of a protocol.
        min_frames: Frames that a tracklet needs to be used by the public code, in training and
            test; those that have as many are counted too.
        guards_links: Whether symbolic links may not lead out of the folder unless asked for; the
            lists of published sets cannot name another place, and their users spread them by links.
    """

    read: Callable[..., ImageTable | TrackletTable]
    published: Structure | None = None
    splits: int = 0
    sizes: Callable[[Structure], dict[str, int]] | None = None
    min_frames: int = 1
    guards_links: bool = False


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


def _vcm_sizes(structure: Structure) -> dict[str, int]:
    """All tracklets, and those of training: the published counts do not tell the modalities."""
    train = sum(structure.num_rows("train", word) for word in MODALITY_NAMES)
    return {"training": train, "training and test": sum((structure.total or {}).values())}


# Comments of workingcoder/M3-ReID@2f6307e `data/manager.py`, which ran on the data; not verified
# here. The lists of frames have 232,496 and 230,763 lines, together the published 463,259 frames;
# that tracklets cover each line once is inferred. 21,863 tracklets are published.
_HITSZ_VCM = Structure(
    identities={"train": 500, "test": 427},
    rows={"test": {"visible": 5643, "infrared": 5159}},
    unit="tracklets",
    total_frames=463259,
    sizes={
        "visible queries": 0,
        "infrared queries": 5159,
        "visible gallery": 5643,
        "infrared gallery": 0,
        "training": 11061,
        "training and test": 21863,
        "visible training, 12 frames or more": 5460,
        "infrared training, 12 frames or more": 4291,
        "infrared queries, 12 frames or more": 4584,
        "visible gallery, 12 frames or more": 5099,
    },
)

# Tracklets and frames as M3-ReID's comments have them; identities also in the README of
# dyhBUPT/BUPTCampus@db1f179. In the test, queries and gallery are added up.
_BUPT_CAMPUS = Structure(
    identities={"train": 1074, "auxiliary": 930, "test": 1076},
    rows={
        "train": {"visible": 3574, "infrared": 3574},
        "auxiliary": {"visible": 930, "infrared": 930},
        "test": {"visible": 540 + 2422, "infrared": 536 + 2422},
    },
    unit="tracklets",
    frames={
        "train": {"visible": 398069, "infrared": 398069},
        "auxiliary": {"visible": 104575, "infrared": 104575},
        "test": {"visible": 48521 + 298771, "infrared": 53417 + 298771},
    },
    sizes={
        "visible queries": 540,
        "infrared queries": 536,
        "visible gallery": 2422,
        "infrared gallery": 2422,
    },
)


def _scene_tracks(identities: Mapping[str, int], frames: int) -> Structure:
    """Structure of a set in which each of four cameras has one tracklet of everyone."""
    cameras = {"visible": (3, 4), "infrared": (1, 2)}
    rows = {split: dict.fromkeys(cameras, 2 * n) for split, n in identities.items()}
    return Structure(
        identities=identities,
        rows=rows,
        unit="tracklets",
        frames={s: {word: n * frames for word, n in words.items()} for s, words in rows.items()},
        cameras={
            split: {
                word: {camera: CameraCount(n, n) for camera in numbers}
                for word, numbers in cameras.items()
            }
            for split, n in identities.items()
        },
        sizes={"infrared queries": rows["test"]["infrared"],
               "visible gallery": rows["test"]["visible"]},
    )  # fmt: skip


DATASETS: dict[str, Dataset] = {
    "sysu_mm01": Dataset(read_sysu_layout, _SYSU_MM01, sizes=sysu_sizes),
    "scene_regions": Dataset(
        read_sysu_layout,
        _uniform_structure({"train": 601, "val": 85, "test": 225}, views=2),
        sizes=sysu_sizes,
    ),
    "regdb": Dataset(read_regdb, _REGDB, splits=NUM_SPLITS),
    "llcm": Dataset(read_llcm, _LLCM),
    "hitsz_vcm": Dataset(
        read_vcm_layout, _HITSZ_VCM, sizes=_vcm_sizes, min_frames=PUBLISHED_MIN_FRAMES
    ),
    "scene_tracks": Dataset(read_vcm_layout, _scene_tracks({"train": 278, "test": 90}, frames=12)),
    "bupt_campus": Dataset(read_bupt_campus, _BUPT_CAMPUS),
    "manifest": Dataset(read_manifest, guards_links=True),
}
