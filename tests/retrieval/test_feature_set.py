"""Checks of feature sets, and the modality that cameras tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vireid_fast.retrieval.feature_set import feature_set_from_arrays
from vireid_fast.retrieval.protocols import PROTOCOLS


def make_arrays(rows=6):
    return {
        "features": np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2),
        "person_ids": np.arange(rows, dtype=np.int16) // 2,
        "camera_ids": np.arange(rows, dtype=np.uint8) % 6 + 1,
        "modality": np.array([0, 0, 1, 0, 0, 1])[np.arange(rows) % 6],
        "image_indices": np.ones(rows, np.int32),
        "roles": np.array([-1, 0, 1], np.int8)[np.arange(rows) % 3],
    }


def make_set(**changes):
    return replace(feature_set_from_arrays(make_arrays(), "set"), **changes)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.float16, torch.float16),
        (np.float64, torch.float64),
        (">f4", torch.float32),
        (np.int8, torch.float64),
        (np.uint16, torch.float64),
    ],
)
def test_arrays_become_tensors(stored, expected):
    arrays = make_arrays()
    arrays["features"] = arrays["features"].astype(stored)
    for array in arrays.values():
        array.flags.writeable = False
    features = feature_set_from_arrays(arrays, "set")
    assert features.features.dtype == expected
    for key, array in arrays.items():
        np.testing.assert_array_equal(getattr(features, key).numpy(), array)
        assert key == "features" or getattr(features, key).dtype == torch.int64


def test_optional_arrays_may_be_absent():
    arrays = {key: make_arrays()[key] for key in ("features", "person_ids")}
    features = feature_set_from_arrays(arrays, "set")
    assert features.modality is None and features.image_indices is None and features.roles is None
    assert features.camera_ids.tolist() == [-1] * 6
    part = features.subset(torch.tensor([4, 1]))
    assert part.person_ids.tolist() == [2, 0] and part.modality is None


def test_subset_takes_all_columns():
    features = make_set()
    part = features.subset(torch.tensor([5, 0]))
    assert len(part) == 2
    assert part.features.tolist() == [[10.0, 11.0], [0.0, 1.0]]
    assert part.camera_ids.tolist() == [6, 1] and part.modality.tolist() == [1, 0]
    selected = features.camera_ids == 3
    assert features.subset(selected).person_ids.tolist() == [1]


@pytest.mark.parametrize(
    ("positions", "is_view"), [([1, 2, 3], True), ([0, 2], False), ([], False)]
)
def test_ascending_rows_that_follow_each_other_are_a_view(positions, is_view):
    features = feature_set_from_arrays(make_arrays(), "test")
    rows = torch.tensor(positions, dtype=torch.int64)
    taken, copied = features.ascending(rows), features.subset(rows)
    for name in ("features", "person_ids", "camera_ids", "modality", "image_indices", "roles"):
        assert torch.equal(getattr(taken, name), getattr(copied, name))
    storage = taken.features.untyped_storage().data_ptr()
    assert (storage == features.features.untyped_storage().data_ptr()) == is_view


@pytest.mark.parametrize(
    ("key", "value", "error", "match"),
    [
        ("features", np.zeros((6, 2), bool), TypeError, "q.npz: features must be float16, .* bool"),
        ("features", np.zeros((6, 2), complex), TypeError, "features must be float16, .* complex"),
        ("features", np.zeros(6), ValueError, r"features must have shape \(N, D\), got \(6,\)"),
        ("features", np.zeros((6, 0)), ValueError, "features must have at least one column"),
        ("person_ids", np.zeros(6), TypeError, "person_ids must have an integer dtype, .* float64"),
        ("person_ids", np.array(["a"] * 6), TypeError, "person_ids must have an integer dtype"),
        ("person_ids", np.zeros(5, int), ValueError, r"must have shape \(6,\), got \(5,\)"),
        ("camera_ids", np.zeros((6, 1), int), ValueError, r"camera_ids must have shape \(6,\)"),
        ("modality", np.array([0, 1, 1, 2, 0, 9]), ValueError, "must be 0 or 1, got 2 at row 3"),
        ("image_indices", np.array([1, 0] * 3), ValueError, "at least 1, got 0 at row 1"),
        ("roles", np.array([0, 1, -1, 2, 0, 0]), ValueError, "be -1 or 0 or 1, got 2 at row 3"),
        ("roles", np.zeros(6), TypeError, "roles must have an integer dtype, got float64"),
    ],
)
def test_rejects_arrays(key, value, error, match):
    with pytest.raises(error, match=match):
        feature_set_from_arrays(make_arrays() | {key: value}, "q.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_names_the_row_that_is_not_finite(value):
    arrays = make_arrays()
    arrays["features"][4, 1] = value
    with pytest.raises(ValueError, match=r"q.npz: features must be finite, got -?\w+ at row 4"):
        feature_set_from_arrays(arrays, "q.npz")


def test_names_the_missing_key():
    arrays = make_arrays()
    del arrays["person_ids"]
    with pytest.raises(ValueError, match=r"q\.npz: key 'person_ids' must be given"):
        feature_set_from_arrays(arrays, "q.npz")


def test_rejects_tensors_of_a_wrong_dtype():
    features = make_set(person_ids=torch.zeros(6, dtype=torch.int32))
    with pytest.raises(TypeError, match="FeatureSet: person_ids must be int64"):
        features.validate()
    with pytest.raises(TypeError, match="features must be float32 or float64"):
        make_set(features=torch.zeros(6, 2, dtype=torch.int64)).validate()


def test_cameras_tell_the_modality():
    expected = [0, 0, 1, 0, 0, 1]
    for modality in (None, torch.tensor(expected)):
        features = make_set(modality=modality)
        assert features.modality_or_from_cameras(PROTOCOLS["sysu/agw"]).tolist() == expected


def test_modality_must_agree_with_the_cameras():
    features = make_set(modality=torch.tensor([0, 0, 1, 0, 1, 1]))
    match = r"modality must be 0 \(visible\) for camera 5, got 1 at row 4"
    with pytest.raises(ValueError, match=match):
        features.modality_or_from_cameras(PROTOCOLS["sysu/agw"])


def test_unknown_camera_is_named():
    features = make_set(camera_ids=torch.tensor([1, 2, 7, 4, 5, 6]))
    match = r"camera_ids must be among \[1, 2, 3, 4, 5, 6\], got 7"
    with pytest.raises(ValueError, match=match):
        features.modality_or_from_cameras(PROTOCOLS["sysu/official"])


def test_modality_is_needed_where_cameras_do_not_tell_it():
    protocol = replace(PROTOCOLS["sysu/agw"], name="other", camera_modality={})
    assert make_set().modality_or_from_cameras(protocol).tolist() == [0, 0, 1, 0, 0, 1]
    with pytest.raises(ValueError, match="other: modality must be given"):
        make_set(modality=None).modality_or_from_cameras(protocol)
