"""Galleries and groups of the SYSU-MM01 protocols."""

import json
import random

import numpy as np
import pytest
import torch

from vireid_fast.data.permutations import read_permutations
from vireid_fast.retrieval.feature_set import FeatureSet
from vireid_fast.retrieval.protocols import PROTOCOLS, get_protocol

AGW, OFFICIAL = PROTOCOLS["sysu/agw"], PROTOCOLS["sysu/official"]
GALLERY_CAMERAS = {"all": (1, 2, 4, 5), "indoor": (1, 2)}

# {(camera, identity): images}; identity 12 is seen by one visible camera, 30 by no infrared one.
COUNTS = {
    (1, 5): 4, (2, 5): 13, (3, 5): 2, (4, 5): 1, (1, 7): 11, (5, 7): 12, (6, 7): 3, (4, 12): 2,
    (3, 12): 4, (2, 30): 3, (5, 30): 5,
}  # fmt: skip


def make_set(counts, *, numbered=True, order=None):
    """A set with `counts[camera, identity]` images; column 0 of the features is the image index."""
    rows = [
        (camera, identity, index)
        for (camera, identity), count in counts.items()
        for index in range(1, count + 1)
    ]
    table = torch.tensor(rows)[torch.arange(len(rows)) if order is None else torch.as_tensor(order)]
    camera_ids, person_ids, image_indices = table.unbind(1)
    features = torch.stack([image_indices, person_ids], dim=1).float()
    return FeatureSet(
        features, person_ids, camera_ids, image_indices=image_indices if numbered else None
    )


def draw(protocol, features, mode, trial, shots, permutations=None):
    """The gallery as a list of (camera, identity, image index)."""
    images = protocol.gallery_images(features, mode)
    rows = protocol.draw_gallery(images, trial, shots, permutations)
    return [
        (
            int(features.camera_ids[row]),
            int(features.person_ids[row]),
            int(features.features[row, 0]),
        )
        for row in rows
    ]


def make_permutations(counts, trials=10, seed=0):
    generator = np.random.default_rng(seed)
    return {
        key: np.stack([generator.permutation(count) + 1 for _ in range(trials)])
        for key, count in counts.items()
    }


@pytest.mark.parametrize("mode", ["all", "indoor"])
@pytest.mark.parametrize("shots", [1, 10])
def test_agw_gallery_follows_the_seeded_generator(mode, shots):
    features = make_set(COUNTS)
    for trial in range(10):
        random.seed(trial)
        expected = []
        for identity in (5, 7, 12, 30):
            for camera in GALLERY_CAMERAS[mode]:
                images = list(range(1, COUNTS.get((camera, identity), 0) + 1))
                if not images:
                    continue
                count = min(shots, len(images))
                drawn = [random.choice(images)] if shots == 1 else random.sample(images, count)
                expected += [(camera, identity, index) for index in drawn]
        assert draw(AGW, features, mode, trial, shots) == expected


@pytest.mark.parametrize("mode", ["all", "indoor"])
@pytest.mark.parametrize("shots", [1, 3, 10])
def test_official_gallery_is_the_head_of_each_permutation(mode, shots):
    permutations = make_permutations(COUNTS)
    features = make_set(COUNTS)
    for trial in range(10):
        expected = [
            (camera, identity, index)
            for camera in GALLERY_CAMERAS[mode]
            for identity in (5, 7, 12, 30)
            if (camera, identity) in COUNTS
            for index in permutations[camera, identity][trial][:shots]
        ]
        assert draw(OFFICIAL, features, mode, trial, shots, permutations) == expected


@pytest.mark.parametrize("protocol", [AGW, OFFICIAL], ids=lambda protocol: protocol.name)
def test_gallery_does_not_depend_on_the_order_of_rows(protocol):
    permutations = make_permutations(COUNTS) if protocol is OFFICIAL else None
    expected = draw(protocol, make_set(COUNTS), "all", 3, 10, permutations)
    order = torch.randperm(sum(COUNTS.values()))
    assert draw(protocol, make_set(COUNTS, order=order), "all", 3, 10, permutations) == expected


@pytest.mark.parametrize("protocol", [AGW, OFFICIAL], ids=lambda protocol: protocol.name)
def test_rows_count_in_their_order_without_image_indices(protocol):
    permutations = make_permutations(COUNTS) if protocol is OFFICIAL else None
    with_indices = draw(protocol, make_set(COUNTS), "all", 3, 10, permutations)
    without = draw(protocol, make_set(COUNTS, numbered=False), "all", 3, 10, permutations)
    assert without == with_indices


def test_missing_image_does_not_shrink_the_official_gallery():
    permutations = make_permutations(COUNTS)
    full = make_set(COUNTS)
    drawn = int(permutations[1, 7][2, 0])
    at = (full.camera_ids == 1) & (full.person_ids == 7)
    one_missing = full.subset(~(at & (full.image_indices == drawn)))
    match = rf"camera 1, identity 7: features must have the images drawn .* no image \[{drawn}\]"
    with pytest.raises(ValueError, match=match):
        draw(OFFICIAL, one_missing, "all", 2, 1, permutations)
    camera_missing = full.subset(~at)
    with pytest.raises(ValueError, match="camera 1, identity 7: features must have the images"):
        draw(OFFICIAL, camera_missing, "all", 2, 1, permutations)


def test_official_gallery_needs_every_image_where_rows_are_counted():
    permutations = make_permutations(COUNTS)
    features = make_set(COUNTS | {(2, 5): 12}, numbered=False)
    match = "camera 2, identity 5: features must have all 13 images where .* got 12"
    with pytest.raises(ValueError, match=match):
        draw(OFFICIAL, features, "all", 0, 1, permutations)


def test_foreign_permutations_are_refused():
    permutations = make_permutations(COUNTS)
    features = make_set(COUNTS | {(5, 7): 14})
    match = r"camera 5, identity 7: image index must be in 1\.\.12, got 14"
    with pytest.raises(ValueError, match=match):
        draw(OFFICIAL, features, "all", 0, 1, permutations)
    del permutations[4, 12]
    match = "camera 4, identity 12: permutations must have an entry"
    with pytest.raises(ValueError, match=match):
        draw(OFFICIAL, make_set(COUNTS), "all", 0, 1, permutations)
    with pytest.raises(ValueError, match="must have a row for trial 9, got 5"):
        draw(OFFICIAL, make_set(COUNTS), "indoor", 9, 1, make_permutations(COUNTS, trials=5))


def test_repeated_image_is_named():
    features = make_set(COUNTS)
    features.image_indices[2] = 1
    match = "image_indices must be distinct in camera 1, identity 5, got 1 at rows 0 and 2"
    with pytest.raises(ValueError, match=match):
        AGW.gallery_images(features, "all")


def test_queries_are_all_infrared_images_in_both_modes():
    features = make_set(COUNTS)
    for mode in ("all", "indoor"):
        expected = [row for row, camera in enumerate(features.camera_ids) if camera in (3, 6)]
        assert AGW.query_rows(features, mode).tolist() == expected


@pytest.mark.parametrize(
    ("cameras", "match"),
    [
        ((1, 2), r"query must hold at least one image of cameras \[3, 6\], got none among 17 rows"),
        ((3, 4, 5, 6), r"gallery must hold at least one image of cameras \[1, 2\]"),
    ],
)
def test_empty_query_or_gallery(cameras, match):
    counts = {key: count for key, count in COUNTS.items() if key[0] in cameras and key[1] == 5}
    features = make_set(counts)
    with pytest.raises(ValueError, match=match):
        AGW.query_rows(features, "indoor")
        AGW.gallery_images(features, "indoor")


def test_camera_three_shares_the_group_of_camera_two():
    assert AGW.groups(torch.arange(1, 8)).tolist() == [1, 2, 2, 4, 5, 6, 7]


def test_unknown_protocol_lists_the_known():
    match = r"protocol must be one of \['sysu/agw', .*'market1501'\], got 'sysu'"
    with pytest.raises(ValueError, match=match):
        get_protocol("sysu")


@pytest.fixture(scope="module")
def structure(shared_dir):
    return json.loads((shared_dir / "fixtures/sysu_mm01/derived_structure.json").read_text())


@pytest.fixture(scope="module")
def image_counts(structure):
    return {
        (int(camera), identity): counts[str(identity)]
        for camera, counts in structure["counts"].items()
        for identity in structure["test_id"]
        if counts.get(str(identity))
    }


@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_agw_golden_galleries(structure, image_counts, mode):
    features = make_set(image_counts)
    for trial in range(10):
        expected = [tuple(item) for item in structure["defacto_gallery"][f"{mode}_{trial}"]]
        assert draw(AGW, features, mode, trial, 1) == expected


@pytest.mark.parametrize(
    ("mode", "shots", "size"),
    [("all", 1, 301), ("all", 10, 3010), ("indoor", 1, 112), ("indoor", 10, 1120)],
)
def test_published_gallery_sizes(shared_dir, image_counts, mode, shots, size):
    permutations = read_permutations(shared_dir / "fixtures/sysu_mm01/rand_perm_cam.mat")
    features = make_set(image_counts)
    assert len(AGW.query_rows(features, mode)) == 3803
    for trial in range(10):
        assert len(draw(AGW, features, mode, trial, shots)) == size
        assert len(draw(OFFICIAL, features, mode, trial, shots, permutations)) == size
