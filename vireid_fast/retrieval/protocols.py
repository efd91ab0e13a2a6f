"""Evaluation protocols as data: who queries whom, what is dropped, how galleries are drawn.

A further protocol is one more entry of `PROTOCOLS`, with a gallery sampler of its own if none of
those here fits. Sources: wuancong/SYSU-MM01@0499112 `evaluation/` (official) and
mangye16/Cross-Modal-Re-ID-baseline@e817a26 `data_manager.py`, `eval_metrics.py` (AGW).
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vireid_fast._checks import require, require_choice
from vireid_fast.retrieval.feature_set import INFRARED, VISIBLE, FeatureSet

Metric = Literal["euclidean", "cosine", "dot"]
METRICS: tuple[Metric, ...] = ("euclidean", "cosine", "dot")

Permutations = Mapping[tuple[int, int], np.ndarray]


@dataclass(frozen=True)
class Mode:
    """Who queries whom; None stands for every camera of the modality."""

    query_modality: int
    gallery_modality: int
    query_cameras: tuple[int, ...] | None = None
    gallery_cameras: tuple[int, ...] | None = None


@dataclass(frozen=True)
class GalleryImages:
    """What a gallery sampler draws from.

    Attributes:
        identities: All identities of the evaluation, ascending.
        cameras: Gallery cameras, ascending.
        rows: {(camera, identity): {image index: row of the feature set}}; absent pairs have none.
        numbered: Whether the image indices were given; if not, they count the rows of each camera
            and identity in their order.
    """

    identities: tuple[int, ...]
    cameras: tuple[int, ...]
    rows: Mapping[tuple[int, int], Mapping[int, int]]
    numbered: bool


GallerySampler = Callable[[GalleryImages, int, int, Permutations | None], list[int]]


@dataclass(frozen=True)
class Protocol:
    """The rules of one evaluation.

    Attributes:
        name: Key in `PROTOCOLS`.
        metric: Distance used unless the caller chooses another.
        cmc: Whether CMC ranks count "identity" (distinct ones) or "image".
        drop: What a query ignores in the gallery: "none", "same_group" of cameras, or
            "same_group_and_id".
        trials: Number of galleries to draw.
        modes: Mode name -> who queries whom.
        draw_gallery: (images, trial, shots, permutations) -> rows of the gallery, in the order
            that breaks ties.
        camera_groups: Camera -> group, for `drop`; a camera not listed is its own group.
        camera_modality: Camera -> modality where the camera tells it; else empty.
        needs_permutations: Whether galleries come from stored permutations.
    """

    name: str
    metric: Metric
    cmc: Literal["identity", "image"]
    drop: Literal["none", "same_group", "same_group_and_id"]
    trials: int
    modes: Mapping[str, Mode]
    draw_gallery: GallerySampler
    camera_groups: Mapping[int, int] = field(default_factory=dict)
    camera_modality: Mapping[int, int] = field(default_factory=dict)
    needs_permutations: bool = False

    def groups(self, camera_ids: Tensor) -> Tensor:
        """Camera group of each row. Shape and dtype of `camera_ids`."""
        groups = camera_ids.clone()
        for camera, group in self.camera_groups.items():
            groups[camera_ids == camera] = group
        return groups

    def query_rows(self, features: FeatureSet, mode: str) -> Tensor:
        """Rows of `features` that query in `mode`, in their order. Shape (Q,), int64."""
        rules = self.modes[mode]
        return self._rows(features, "query", rules.query_modality, rules.query_cameras)

    def gallery_images(self, features: FeatureSet, mode: str) -> GalleryImages:
        """The images of `features` from which the galleries of `mode` are drawn.

        Raises:
            ValueError: There is none, or an image index occurs twice in a camera and identity.
        """
        rules = self.modes[mode]
        positions = self._rows(features, "gallery", rules.gallery_modality, rules.gallery_cameras)
        found = features.subset(positions)
        rows: dict[tuple[int, int], dict[int, int]] = {}
        numbered = found.image_indices is not None
        indices = found.image_indices.tolist() if numbered else [None] * len(found)
        for camera, identity, index, row in zip(
            found.camera_ids.tolist(), found.person_ids.tolist(), indices, positions.tolist(),
            strict=True,
        ):  # fmt: skip
            images = rows.setdefault((camera, identity), {})
            index = len(images) + 1 if index is None else index
            require(
                index not in images, self.name, "image_indices",
                f"be distinct in camera {camera}, identity {identity}",
                f"{index} at rows {images.get(index)} and {row}",
            )  # fmt: skip
            images[index] = row
        cameras = {camera for camera, _ in rows}.union(rules.gallery_cameras or ())
        return GalleryImages(
            identities=tuple(torch.unique(features.person_ids).tolist()),
            cameras=tuple(sorted(cameras)),
            rows=MappingProxyType(rows),
            numbered=numbered,
        )

    def _rows(
        self, features: FeatureSet, role: str, modality: int, cameras: tuple[int, ...] | None
    ) -> Tensor:
        selected = features.modality_or_from_cameras(self) == modality
        if cameras is not None:
            selected &= torch.isin(features.camera_ids, features.camera_ids.new_tensor(cameras))
        found = torch.nonzero(selected).flatten()
        wanted = f"of cameras {list(cameras)}" if cameras is not None else f"of modality {modality}"
        require(
            len(found) > 0, self.name, role, f"hold at least one image {wanted}",
            f"none among {len(features)} rows",
        )  # fmt: skip
        return found


def agw_gallery(
    images: GalleryImages, trial: int, shots: int, permutations: Permutations | None = None
) -> list[int]:
    """Random images of each identity and camera, seeded by the trial, as AGW draws them.

    The generator is seeded with `trial`; identities ascend, within one the cameras ascend, and
    each pair that has images gives one `random.choice` of its ascending image indices. AGW defines
    one shot only. More shots are ours: `random.sample` of min(shots, images) of them instead, in
    the order drawn, after the same seeding.

    Returns:
        Rows of the gallery, identity by identity, in it camera by camera.
    """
    generator = random.Random(trial)
    gallery = []
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
    order, which is accepted only if n is the number of permuted images.

    Returns:
        Rows of the gallery, camera by camera, in it identity by identity.

    Raises:
        ValueError: A camera and identity, an image of it or a trial is missing on either side.
    """
    gallery = []
    for camera in images.cameras:
        for identity in images.identities:
            rows = images.rows.get((camera, identity), {})
            order = permutations.get((camera, identity))
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
    require(
        order is not None, where, "permutations", "have an entry, since the set has images",
        "none", "Use the permutations of this data set.",
    )  # fmt: skip
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


_SYSU_MODALITY = {
    1: VISIBLE, 2: VISIBLE, 3: INFRARED, 4: VISIBLE, 5: VISIBLE, 6: INFRARED,
}  # fmt: skip
_SYSU_MODES = {
    "all": Mode(INFRARED, VISIBLE, query_cameras=(3, 6), gallery_cameras=(1, 2, 4, 5)),
    "indoor": Mode(INFRARED, VISIBLE, query_cameras=(3, 6), gallery_cameras=(1, 2)),
}


def _sysu(name: str, metric: Metric, sampler: GallerySampler, permuted: bool) -> Protocol:
    return Protocol(
        name=name,
        metric=metric,
        cmc="identity",
        drop="same_group",
        trials=10,
        modes=_SYSU_MODES,
        draw_gallery=sampler,
        # Cameras 2 and 3 hang at one place, so camera 3 ignores camera 2.
        camera_groups={3: 2},
        camera_modality=_SYSU_MODALITY,
        needs_permutations=permuted,
    )


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            _sysu("sysu/agw", "dot", agw_gallery, permuted=False),
            _sysu("sysu/official", "euclidean", official_gallery, permuted=True),
        )
    }
)


def get_protocol(name: str) -> Protocol:
    """The protocol called `name`.

    Raises:
        ValueError: There is none; the error lists those there are.
    """
    require_choice("evaluation", "protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
