"""Features of images or tracklets, together with who and what they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vireid_fast._checks import (
    require,
    require_dtype,
    require_finite,
    require_same_device,
    require_shape,
    sentence,
)

if TYPE_CHECKING:
    from vireid_fast.retrieval.protocol import Protocol

VISIBLE = 0
INFRARED = 1
MODALITY_NAMES = ("visible", "infrared")
UNKNOWN_CAMERA = -1
GALLERY, QUERY = 0, 1
ROLE_NAMES = ("gallery", "query")

_FEATURE_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_REQUIRED_KEYS = ("features", "person_ids")
_OPTIONAL_KEYS = ("camera_ids", "modality", "image_indices", "roles")


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """One row for each image or tracklet; all tensors on one device.

    Attributes:
        features: Rows as the model gave them, normalised or not. Shape (N, D), floating.
        person_ids: Identity of each row. Shape (N,), int64.
        camera_ids: Camera number of each row, as the data set counts; -1 if unknown. Shape (N,),
            int64.
        modality: 0 visible, 1 infrared; None if unknown. Shape (N,), int64.
        image_indices: 1-based position of the image among those of its identity and camera; None
            if unknown. Shape (N,), int64.
        roles: 0 gallery, 1 query, -1 neither, where the data set fixes them. Shape (N,), int64.
    """

    features: Tensor
    person_ids: Tensor
    camera_ids: Tensor
    modality: Tensor | None = None
    image_indices: Tensor | None = None
    roles: Tensor | None = None

    def __len__(self) -> int:
        return len(self.person_ids)

    def validate(self, source: str = "FeatureSet") -> FeatureSet:
        """Return self if shapes, dtypes and values fit together.

        Args:
            source: What the error sentence starts with, e.g. the name of the file.

        Raises:
            TypeError: A dtype does not fit.
            ValueError: A shape, a device or a value does not fit; non-finite features name the row.
        """
        require_dtype(source, "features", self.features, _FEATURE_DTYPES)
        require_shape(source, "features", self.features, ("N", "D"))
        require(
            self.features.shape[1] > 0, source, "features", "have at least one column",
            tuple(self.features.shape),
        )  # fmt: skip
        columns = {name: value for name, value in self._columns().items() if value is not None}
        for name, value in columns.items():
            if name != "features":
                require_dtype(source, name, value, (torch.int64,))
                require_shape(source, name, value, (len(self.features),))
        require_same_device(source, **columns)
        require_finite(source, "features", self.features)
        _require_values(source, "modality", self.modality, VISIBLE, INFRARED)
        _require_values(source, "image_indices", self.image_indices, 1, None)
        _require_values(source, "roles", self.roles, -1, 1)
        return self

    def subset(self, positions: Tensor) -> FeatureSet:
        """Rows at `positions` (int64 (n,) or bool (N,)), in that order."""
        return self._map(lambda column: column[positions])

    def ascending(self, positions: Tensor) -> FeatureSet:
        """Rows at ascending distinct positions (int64 (n,)); a view where they follow each other.

        So a gallery that is most of the set is not copied; do not write to it.
        """
        count = len(positions)
        if count and int(positions[-1] - positions[0]) == count - 1:
            first = int(positions[0])
            return self._map(lambda column: column[first : first + count])
        return self.subset(positions)

    def to(self, device: torch.device | str) -> FeatureSet:
        """The set on another device."""
        return self._map(lambda column: column.to(device))

    def modality_or_from_cameras(self, protocol: Protocol) -> Tensor:
        """Modality of each row, from the cameras of `protocol` where the set does not tell.

        Returns:
            0 visible, 1 infrared. Shape (N,), int64, device of the set.

        Raises:
            ValueError: A camera is unknown to a protocol that has fixed cameras, the modality
                contradicts the camera, or neither of the two tells.
        """
        if not protocol.camera_modality:
            if self.modality is None:
                raise ValueError(sentence(
                    protocol.name, "modality", "be given, since the cameras do not tell it", None,
                    "Add the array modality (0 visible, 1 infrared)."))  # fmt: skip
            return self.modality
        known = protocol.camera_modality
        cameras, inverse = torch.unique(self.camera_ids, return_inverse=True)
        for camera in cameras.tolist():
            require(
                camera in known, protocol.name, "camera_ids", f"be among {sorted(known)}", camera
            )
        by_camera = self.camera_ids.new_tensor([known[camera] for camera in cameras.tolist()])
        derived = by_camera[inverse]
        if self.modality is not None and not torch.equal(self.modality, derived):
            row = int(torch.nonzero(self.modality != derived)[0])
            camera = int(self.camera_ids[row])
            require(
                False, protocol.name, "modality",
                f"be {known[camera]} ({MODALITY_NAMES[known[camera]]}) for camera {camera}",
                f"{int(self.modality[row])} at row {row}",
                "Correct the array, or leave it out: the camera tells it.",
            )  # fmt: skip
        return derived

    def _map(self, function: Callable[[Tensor], Tensor]) -> FeatureSet:
        columns: dict[str, Any] = {
            name: None if value is None else function(value)
            for name, value in self._columns().items()
        }
        return FeatureSet(**columns)

    def _columns(self) -> dict[str, Tensor | None]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def feature_set_from_arrays(arrays: Mapping[str, np.ndarray], source: str) -> FeatureSet:
    """Put the arrays of a feature file together and check them.

    Args:
        arrays: `features` (N, D) of a floating or integer dtype; `person_ids` and optionally
            `camera_ids`, `modality`, `image_indices`, `roles` (N,) of an integer dtype. Integer
            features (e.g. quantised ones) become float64; without `camera_ids` every camera is -1.
        source: Name of the file, for errors.

    Returns:
        A validated set on the CPU that may share memory with `arrays`.

    Raises:
        ValueError: A key is missing, lengths differ, or a value is not finite or out of range.
        TypeError: A dtype does not fit.
    """
    for key in _REQUIRED_KEYS:
        require(key in arrays, source, f"key {key!r}", "be given", f"only {sorted(arrays)}")
    features = arrays["features"]
    dtype = features.dtype.newbyteorder("=")
    require(
        dtype in (np.float16, np.float32, np.float64) or dtype.kind in "iu",
        source, "features", "be float16, float32, float64 or integer", features.dtype,
        "Convert with .astype(np.float32).", TypeError,
    )  # fmt: skip
    columns = {}
    for key in _REQUIRED_KEYS[1:] + _OPTIONAL_KEYS:
        if key in arrays:
            require(
                arrays[key].dtype.kind in "iu", source, key, "have an integer dtype",
                arrays[key].dtype, f"Convert {key} with .astype(np.int64).", TypeError,
            )  # fmt: skip
            columns[key] = _tensor(arrays[key].astype(np.int64))
    columns.setdefault("camera_ids", torch.full_like(columns["person_ids"], UNKNOWN_CAMERA))
    features = features.astype(np.float64 if dtype.kind in "iu" else dtype, copy=False)
    return FeatureSet(_tensor(features), **columns).validate(source)


def _tensor(array: np.ndarray) -> Tensor:
    # torch warns about read-only memory, which a memory-mapped file gives.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _require_values(
    source: str, name: str, values: Tensor | None, low: int, high: int | None
) -> None:
    """Raise ValueError naming the first row outside low..high (no upper bound: None)."""
    if values is None:
        return
    outside = values < low if high is None else (values < low) | (values > high)
    if bool(outside.any()):
        row = int(torch.nonzero(outside)[0])
        allowed = " or ".join(map(str, range(low, high + 1))) if high is not None else ""
        requirement = f"be at least {low}" if high is None else f"be {allowed}"
        require(False, source, name, requirement, f"{int(values[row])} at row {row}")
