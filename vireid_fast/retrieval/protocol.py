"""What an evaluation protocol consists of: who queries whom, what is dropped, what is drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vireid_fast._checks import require
from vireid_fast.retrieval.feature_set import MODALITY_NAMES, ROLE_NAMES, VISIBLE, FeatureSet

Metric = Literal["euclidean", "cosine", "dot"]
METRICS: tuple[Metric, ...] = ("euclidean", "cosine", "dot")

Permutations = Mapping[tuple[int, int], np.ndarray]


@dataclass(frozen=True)
class Side:
    """Which rows stand on one side of a search; None does not restrict.

    Attributes:
        modality: 0 visible, 1 infrared.
        cameras: Cameras.
        role: 0 gallery, 1 query, as the data set fixes them.
    """

    modality: int | None = None
    cameras: tuple[int, ...] | None = None
    role: int | None = None

    def __str__(self) -> str:
        words = []
        if self.role is not None:
            words.append(f"role {self.role} ({ROLE_NAMES[self.role]})")
        if self.cameras is not None:
            words.append(f"cameras {list(self.cameras)}")
        elif self.modality is not None:
            words.append(f"modality {self.modality} ({MODALITY_NAMES[self.modality]})")
        return " and ".join(words)


@dataclass(frozen=True)
class Mode:
    """Who queries whom.

    Attributes:
        query: The side that queries.
        gallery: The side that is ranked, or from which galleries are drawn.
        swapped: Once the galleries are drawn, they query and the queries are ranked.
    """

    query: Side
    gallery: Side
    swapped: bool = False


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
        cmc: Whether CMC ranks count "identity" (distinct ones) or "image" (or tracklet).
        drop: What a query ignores in the gallery: "none", "same_group" of cameras, or
            "same_group_and_id".
        modes: Mode name -> who queries whom.
        trials: Number of galleries to draw; 1 where the whole side is the gallery.
        draw_gallery: (images, trial, shots, permutations) -> rows of the gallery, in the order
            that breaks ties; None: the whole side is, in the order of the set.
        camera_groups: Camera -> group, for `drop`; a camera not listed is its own group.
        camera_modality: Camera -> modality where the camera tells it; else empty.
        needs_permutations: Whether galleries come from stored permutations.
        splits: Numbered splits of the data set, each with a model of its own, whose mean is the
            published number; 0 where there is one split only.
        junk: Identities whose rows no gallery holds.
        visible_block: Visible rows of a side beyond the last multiple of this number are left out,
            as a released sampler does; 0 keeps all.
    """

    name: str
    metric: Metric
    cmc: Literal["identity", "image"]
    drop: Literal["none", "same_group", "same_group_and_id"]
    modes: Mapping[str, Mode]
    trials: int = 1
    draw_gallery: GallerySampler | None = None
    camera_groups: Mapping[int, int] = field(default_factory=dict)
    camera_modality: Mapping[int, int] = field(default_factory=dict)
    needs_permutations: bool = False
    splits: int = 0
    junk: tuple[int, ...] = ()
    visible_block: int = 0

    @property
    def needs_cameras(self) -> bool:
        """Whether cameras decide what is drawn or dropped."""
        return self.drop != "none" or self.draw_gallery is not None

    def groups(self, camera_ids: Tensor) -> Tensor:
        """Camera group of each row. Shape and dtype of `camera_ids`."""
        groups = camera_ids.clone()
        for camera, group in self.camera_groups.items():
            groups[camera_ids == camera] = group
        return groups

    def is_junk(self, person_ids: Tensor) -> Tensor:
        """Whether a row is of a junk identity. Shape of `person_ids`, bool."""
        return torch.isin(person_ids, person_ids.new_tensor(self.junk))

    def query_rows(self, features: FeatureSet, mode: str) -> Tensor:
        """Rows of `features` that query in `mode`, in their order. Shape (Q,), int64.

        Raises:
            ValueError: There is none, a column is missing, or `visible_block` would leave nothing.
        """
        side = self.modes[mode].query
        return self._found("query", features, side, self._on_side(features, side))

    def gallery_rows(self, features: FeatureSet, mode: str) -> Tensor:
        """Rows of `features` that galleries of `mode` may hold, in their order. Shape (G,), int64.

        Raises:
            ValueError: As for `query_rows`.
        """
        side = self.modes[mode].gallery
        selected = self._on_side(features, side) & ~self.is_junk(features.person_ids)
        return self._found("gallery", features, side, selected)

    def gallery_images(self, features: FeatureSet, mode: str) -> GalleryImages:
        """The images of `features` from which the galleries of `mode` are drawn.

        Raises:
            ValueError: There is none, or an image index occurs twice in a camera and identity.
        """
        positions = self.gallery_rows(features, mode)
        found = features.subset(positions)
        rows: dict[tuple[int, int], dict[int, int]] = {}
        numbered = found.image_indices is not None
        indices = [None] * len(found)
        if found.image_indices is not None:
            indices = found.image_indices.tolist()
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
        cameras = {camera for camera, _ in rows}.union(self.modes[mode].gallery.cameras or ())
        return GalleryImages(
            identities=tuple(torch.unique(features.person_ids).tolist()),
            cameras=tuple(sorted(cameras)),
            rows=MappingProxyType(rows),
            numbered=numbered,
        )

    def _on_side(self, features: FeatureSet, side: Side) -> Tensor:
        """Whether each row stands on a side. Shape (N,), bool."""
        selected = torch.ones_like(features.person_ids, dtype=torch.bool)
        if side.modality is not None:
            selected &= features.modality_or_from_cameras(self) == side.modality
        if side.cameras is not None:
            cameras = features.camera_ids.new_tensor(side.cameras)
            selected &= torch.isin(features.camera_ids, cameras)
        if side.role is not None:
            require(
                features.roles is not None, self.name, "roles",
                "be given, since the data set fixes who queries", None,
                "Add the array roles (1 query, 0 gallery, -1 neither), or give query and gallery "
                "as two files.",
            )  # fmt: skip
            selected &= features.roles == side.role
        return selected

    def _found(self, part: str, features: FeatureSet, side: Side, selected: Tensor) -> Tensor:
        rows = torch.nonzero(selected).flatten()
        require(
            len(rows) > 0, self.name, part, f"hold at least one image of {side}",
            f"none among {len(features)} rows",
        )  # fmt: skip
        if self.visible_block and side.modality == VISIBLE:
            return self._whole_blocks(rows, part)
        return rows

    def _whole_blocks(self, rows: Tensor, part: str) -> Tensor:
        """Without the last `rows mod visible_block`; refused where the sampler keeps none."""
        rest = len(rows) % self.visible_block
        require(
            0 < rest < len(rows), self.name, f"visible {part}",
            f"hold more than {self.visible_block} rows and no multiple of it", len(rows),
            "The released sampler would keep none of them. Use bupt/full.",
        )  # fmt: skip
        return rows[:-rest]
