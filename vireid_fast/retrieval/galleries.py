"""How galleries are drawn: by a seeded generator, or from stored permutations."""

import random
from collections.abc import Mapping

import numpy as np

from vireid_fast._checks import require, sentence
from vireid_fast.retrieval.protocol import GalleryImages, Permutations


def seeded_gallery(
    images: GalleryImages, trial: int, shots: int, permutations: Permutations | None = None
) -> list[int]:
    """Random images of each identity and camera, seeded by the trial.

    The generator is seeded with `trial`; identities ascend, within one the cameras ascend, and
    each pair that has images gives one `random.choice` of its ascending image indices
    (mangye16/Cross-Modal-Re-ID-baseline@e817a26 `data_manager.py`, ZYK100/LLCM@886e27c
    `DEEN/data_manager.py`). Both define one shot only. More shots are ours: `random.sample` of
    min(shots, images) of them instead, in the order drawn, after the same seeding.

    Returns:
        Rows of the gallery, identity by identity, in it camera by camera.
    """
    generator = random.Random(trial)
    gallery: list[int] = []
    for identity in images.identities:
        for camera in images.cameras:
            rows = images.rows.get((camera, identity))
            if rows is None:
                continue
            indices = sorted(rows)
            if shots == 1:
                drawn = [generator.choice(indices)]
            else:
                drawn = generator.sample(indices, min(shots, len(indices)))
            gallery.extend(rows[index] for index in drawn)
    return gallery


def official_gallery(
    images: GalleryImages, trial: int, shots: int, permutations: Permutations | None
) -> list[int]:
    """The first `shots` images of row `trial` of each stored permutation (all, where fewer exist).

    The set must hold what the permutations name: an image that is missing would silently make the
    gallery smaller. Without image indices the rows of a camera and identity count as 1..n in their
    order, which is accepted only if n is the number of permuted images. Source:
    wuancong/SYSU-MM01@0499112 `evaluation/`.

    Returns:
        Rows of the gallery, camera by camera, in it identity by identity.

    Raises:
        ValueError: A camera and identity, an image of it or a trial is missing on either side.
    """
    gallery = []
    for camera in images.cameras:
        for identity in images.identities:
            rows = images.rows.get((camera, identity), {})
            order = (permutations or {}).get((camera, identity))
            if order is None and not rows:
                continue
            where = f"sysu/official: camera {camera}, identity {identity}"
            gallery.extend(_permuted_rows(where, images.numbered, rows, order, trial, shots))
    return gallery


def _permuted_rows(
    where: str,
    numbered: bool,
    rows: Mapping[int, int],
    order: np.ndarray | None,
    trial: int,
    shots: int,
) -> list[int]:
    """Rows of the first `shots` images of one permutation."""
    if order is None:
        raise ValueError(sentence(
            where, "permutations", "have an entry, since the set has images", "none",
            "Use the permutations of this data set."))  # fmt: skip
    trials, count = order.shape
    require(trial < trials, where, "permutations", f"have a row for trial {trial}", trials)
    require(
        not rows or max(rows) <= count, where, "image index", f"be in 1..{count}",
        max(rows, default=0), "Use the permutations of this data set.",
    )  # fmt: skip
    require(
        numbered or len(rows) == count, where, "features",
        f"have all {count} images where image_indices are not given", len(rows),
        "Add the array image_indices, or extract every image.",
    )  # fmt: skip
    drawn = order[trial, :shots].tolist()
    missing = [index for index in drawn if index not in rows]
    require(
        not missing, where, "features", f"have the images drawn in trial {trial}",
        f"no image {missing}", "Extract every image of the camera.",
    )  # fmt: skip
    return [rows[index] for index in drawn]
