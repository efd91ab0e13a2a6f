"""The synthetic set: same seed same pixels, modality rules, layout, refusal of foreign folders."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from vireid_fast.data.synthetic import (
    CAMERAS,
    CAPTION_WORDS,
    INFRARED_CAMERAS,
    VISIBLE_CAMERAS,
    caption,
    contact_sheet,
    render_person,
    render_tracklet,
    sample_identity,
    write_sysu_layout,
)
from vireid_fast.data.synthetic.attributes import (
    CARRIED,
    COLOURS,
    HAIR_COLOURS,
    HAIRS,
    LOWERS,
    UPPERS,
    Material,
)
from vireid_fast.data.synthetic.captions import MAXIMUM_WORDS
from vireid_fast.data.synthetic.pose import walking_skeleton
from vireid_fast.data.synthetic.raster import Canvas, Part, Projection, draw_part

SIZE = (64, 32)
SMALL = {
    "identities": 6,
    "views": 2,
    "size": SIZE,
    "splits": (0.5, 0.17, 0.33),
    "tracklet_frames": 2,
}


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synth") / "set"
    assert write_sysu_layout(root, **SMALL, tracklets=1, seed=3)
    return root


@pytest.mark.parametrize("camera_id", CAMERAS)
def test_equal_arguments_give_equal_pixels(camera_id):
    person = sample_identity(4, 7)
    first = render_person(person, camera_id, 5, SIZE)
    assert first.shape == (*SIZE, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, render_person(sample_identity(4, 7), camera_id, 5, SIZE))
    assert (first != render_person(person, camera_id, 6, SIZE)).any()
    assert (first != render_person(sample_identity(5, 7), camera_id, 5, SIZE)).any()


def test_infrared_is_grey_and_blind_to_colour():
    person = sample_identity(0, 1)
    recoloured = replace(person, colours=tuple((0.9, 0.1, 0.5) for _ in Material))
    for camera_id in INFRARED_CAMERAS:
        picture = render_person(person, camera_id, 0, SIZE)
        assert (picture == picture[..., :1]).all()
        np.testing.assert_array_equal(picture, render_person(recoloured, camera_id, 0, SIZE))
    for camera_id in VISIBLE_CAMERAS:
        picture = render_person(person, camera_id, 0, SIZE)
        assert (picture[..., 0] != picture[..., 2]).any()
        assert (picture != render_person(recoloured, camera_id, 0, SIZE)).any()


def test_visible_is_blind_to_infrared_reflectance():
    person = sample_identity(0, 2)
    other = replace(person, reflectance=tuple(0.5 for _ in Material))
    np.testing.assert_array_equal(
        render_person(person, 1, 0, SIZE), render_person(other, 1, 0, SIZE)
    )
    assert (render_person(person, 3, 0, SIZE) != render_person(other, 3, 0, SIZE)).any()


# Neighbouring materials differ clearly: none, skin, hair, eyes, upper, trim, inner, lower, ...
CONTRASTS = (0.0, 0.9, 0.15, 0.5, 0.35, 0.8, 0.8, 0.55, 0.1, 0.8, 0.15, 0.8, 0.3, 0.2, 0.8, 0.5)


@pytest.mark.parametrize(
    "change",
    [
        *({"hair": hair} for hair in HAIRS[1:]),
        *({"upper": upper} for upper in UPPERS[1:]),
        *({"lower": lower} for lower in LOWERS[1:]),
        *({"carried": carried} for carried in CARRIED[1:]),
        {"build": "broad"},
        {"height": 1.9},
        {"pattern": "striped"},
        {"has_belt": True},
        {"side_stripe": True},
        {"shoes": "boots"},
    ],
    ids=str,
)
def test_attribute_shows_in_infrared(change):
    base = replace(
        sample_identity(0, 1),
        hair="bald", upper="t-shirt", lower="trousers", carried="nothing", build="slim",
        height=1.65, pattern="plain", has_belt=False, side_stripe=False, is_open=False,
        shoes="sneakers",
        reflectance=CONTRASTS,
    )  # fmt: skip
    before, after = (
        render_person(person, 3, 2, (128, 64)).astype(int)
        for person in (base, replace(base, **change))
    )
    # Equal noise in both pictures: what differs is the attribute.
    # Twelve pixels is a belt from the side.
    assert (np.abs(after - before).max(axis=2) > 20).sum() >= 12


def test_reflectance_is_unrelated_to_colour():
    people = [sample_identity(0, i) for i in range(1, 400)]
    luma = [sum(p.colours[Material.UPPER]) for p in people]
    reflectance = [p.reflectance[Material.UPPER] for p in people]
    # 3 standard errors of a correlation of 399 independent pairs.
    assert abs(np.corrcoef(luma, reflectance)[0, 1]) < 0.15


def test_skeleton_stands_on_the_ground_and_keeps_its_height():
    person = sample_identity(0, 3)
    for phase in np.linspace(0.0, 2.0 * np.pi, 9):
        skeleton = walking_skeleton(person, phase)
        ankles = [leg.end[1] for leg in skeleton.legs]
        assert min(ankles) == pytest.approx(0.045 * person.height, abs=1e-3)
        assert 0.93 * person.height < skeleton.crown[1] <= person.height + 1e-9


def test_nearer_part_covers_farther_one_from_both_sides():
    front = Part(np.array([0.0, 1.5, 0.4]), np.array([0.0, 0.5, 0.4]), (0.2, 0.2), Material.UPPER)
    back = Part(np.array([0.0, 1.5, -0.4]), np.array([0.0, 0.5, -0.4]), (0.2, 0.2), Material.LOWER)
    for yaw, expected in ((0.0, Material.UPPER), (np.pi, Material.LOWER)):
        for order in ((front, back), (back, front)):
            canvas = Canvas(40, 20)
            for part in order:
                draw_part(canvas, part, Projection(yaw, 0.0, 20.0, (10.0, 40.0)))
            assert canvas.material[20, 10] == expected


def test_tracklet_advances_smoothly():
    person = sample_identity(0, 1)
    frames = render_tracklet(person, 4, 0, 6, SIZE).astype(float)
    assert frames.shape == (6, *SIZE, 3)
    neighbours = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    strangers = np.abs(frames[0] - render_tracklet(person, 4, 1, 1, SIZE)[0]).mean()
    assert (neighbours > 0).all() and neighbours.max() < strangers


def test_captions_use_the_vocabulary_and_keep_colour_to_visible():
    assert len(set(CAPTION_WORDS)) == len(CAPTION_WORDS)
    template = (
        "a an the photo of visible infrared person . observed in both day and night conditions"
    )
    assert set(template.split()) <= set(CAPTION_WORDS)
    colours = {*COLOURS, *HAIR_COLOURS}
    infrared_captions = set()
    for person_id in range(1, 500):
        person = sample_identity(1, person_id)
        visible, infrared = (caption(person, modality).split() for modality in (0, 1))
        assert set(visible) <= set(CAPTION_WORDS) and len(visible) <= MAXIMUM_WORDS
        assert colours & set(visible) and not colours & set(infrared)
        assert [word for word in visible if word not in colours and word not in ("a", "an")] == [
            word for word in infrared if word not in ("a", "an")
        ]
        infrared_captions.add(" ".join(infrared))
    # Shared descriptions are wanted, but rare ones.
    assert len(infrared_captions) > 450


def test_caption_reads_well():
    person = replace(
        sample_identity(0, 1), height=1.7, build="broad", hair="long", upper="coat", is_open=True,
        pattern="plain", has_belt=False, lower="trousers", shoes="boots", carried="umbrella",
        colour_names=("brown", "red", "blue", "black", "orange"),
    )  # fmt: skip
    assert caption(person, 0) == (
        "a photo of a broad person with long brown hair wearing an open red long coat "
        "and blue trousers with black boots carrying an orange umbrella ."
    )
    assert caption(person, 1) == (
        "a photo of a broad person with long hair wearing an open long coat "
        "and trousers with boots carrying an umbrella ."
    )


def test_layout(small_set):
    for camera_id in CAMERAS:
        for person_id in range(1, 7):
            folder = small_set / f"cam{camera_id}" / f"{person_id:04d}"
            assert sorted(p.name for p in folder.iterdir()) == ["0001.jpg", "0002.jpg"]
    with Image.open(small_set / "cam3" / "0001" / "0001.jpg") as picture:
        assert picture.size == (32, 64) and picture.mode == "RGB"
    lists = {}
    for name in ("train_id", "val_id", "test_id", "available_id"):
        lines = (small_set / "exp" / f"{name}.txt").read_text().splitlines()
        assert len(lines) == 1
        lists[name] = [int(word) for word in lines[0].split(",")]
    assert [len(ids) for ids in lists.values()] == [3, 1, 2, 6]
    assert sorted(lists["train_id"] + lists["val_id"] + lists["test_id"]) == [1, 2, 3, 4, 5, 6]
    frames = sorted((small_set / "tracklets" / "0002" / "ir" / "D3" / "T1").iterdir())
    assert [frames[0].name, frames[-1].name] == ["001.jpg", "002.jpg"]
    assert (small_set / "tracklets" / "0002" / "rgb" / "D5" / "T1" / "001.jpg").is_file()
    captions = json.loads((small_set / "captions.json").read_text())
    assert captions["0004"]["infrared"] == caption(sample_identity(3, 4), 1)


def test_permutations_have_the_published_structure(small_set, shared_dir):
    official = loadmat(shared_dir / "fixtures" / "sysu_mm01" / "rand_perm_cam.mat")["rand_perm_cam"]
    ours = loadmat(small_set / "exp" / "rand_perm_cam.mat")["rand_perm_cam"]
    assert ours.shape == official.shape and ours.dtype == official.dtype
    for camera, published in zip(ours[:, 0], official[:, 0], strict=True):
        assert camera.shape == (6, published.shape[1]) and camera.dtype == published.dtype
        for cell in camera[:, 0]:
            assert cell.dtype == published[0, 0].dtype and cell.shape == (10, 2)
            np.testing.assert_array_equal(np.sort(cell, axis=1), [[1, 2]] * 10)


def test_dropout_keeps_one_camera_of_each_modality(tmp_path):
    root = tmp_path / "set"
    write_sysu_layout(root, **SMALL, camera_dropout=0.8)
    permutations = loadmat(root / "exp" / "rand_perm_cam.mat")["rand_perm_cam"]
    seen = np.zeros((6, 7), bool)
    for camera_id in CAMERAS:
        for person_id in range(1, 7):
            count = len(list((root / f"cam{camera_id}" / f"{person_id:04d}").glob("*.jpg")))
            assert permutations[camera_id - 1, 0][person_id - 1, 0].shape == (10, count)
            seen[person_id - 1, camera_id] = count > 0
    assert (
        seen[:, VISIBLE_CAMERAS].any(axis=1).all() and seen[:, INFRARED_CAMERAS].any(axis=1).all()
    )
    assert seen.sum() < 36


def test_same_parameters_write_nothing_and_others_replace(small_set, tmp_path):
    root = tmp_path / "set"
    calls = []
    assert write_sysu_layout(root, **SMALL, seed=8, progress=lambda *done: calls.append(done))
    assert calls == [(i, 6) for i in range(1, 7)]
    before = files_of(root)
    assert not write_sysu_layout(root, **SMALL, seed=8)
    assert files_of(root) == before
    assert write_sysu_layout(root, **SMALL, seed=3, tracklets=1)
    assert files_of(root) == files_of(small_set)


def test_interrupted_set_is_drawn_again(small_set, tmp_path):
    root = tmp_path / "set"

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sysu_layout(root, **SMALL, seed=3, tracklets=1, progress=interrupt)
    assert not (root / "synth.json").exists()
    assert write_sysu_layout(root, **SMALL, seed=3, tracklets=1)
    assert files_of(root) == files_of(small_set)


@pytest.mark.parametrize(
    "foreign", ["notes.txt", "cam1/0001/mine.png", "exp/own.txt", "more/a.jpg"]
)
def test_foreign_folder_is_refused_and_kept(small_set, tmp_path, foreign):
    root = tmp_path / "set"
    shutil.copytree(small_set, root)
    (root / foreign).parent.mkdir(parents=True, exist_ok=True)
    (root / foreign).write_text("mine")
    before = files_of(root)
    with pytest.raises(FileExistsError, match="is no synthetic set of ours"):
        write_sysu_layout(root, **SMALL, seed=99)
    assert files_of(root) == before


def test_real_data_set_without_marker_is_refused(tmp_path):
    (tmp_path / "cam1" / "0001").mkdir(parents=True)
    (tmp_path / "cam1" / "0001" / "0001.jpg").write_bytes(b"real")
    with pytest.raises(FileExistsError, match="nothing was changed"):
        write_sysu_layout(tmp_path, **SMALL)
    assert (tmp_path / "cam1" / "0001" / "0001.jpg").read_bytes() == b"real"


def test_contact_sheet(small_set):
    sheet = contact_sheet(small_set, identities=3, views=2, tile=SIZE)
    assert sheet.size == (12 * (32 + 4) + 4, 3 * (64 + 4) + 4)
    picture = render_person(sample_identity(0, 1), 1, 0, SIZE)
    sheet = contact_sheet([[picture, picture], [picture]], tile=SIZE)
    np.testing.assert_array_equal(np.asarray(sheet)[4:68, 4:36], picture)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"identities": 2}, ValueError, "identities must be at least 3, got 2"),
        ({"identities": 10_000}, ValueError, "identities must be at most 9999"),
        ({"identities": 6.0}, TypeError, "identities must be an integer, got float"),
        ({"views": 0}, ValueError, "views must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"size": (128,)}, ValueError, r"size must be a pair \(height, width\)"),
        ({"size": (8, 8)}, ValueError, "size must be at least 16"),
        ({"size": (64, 128)}, ValueError, "size must be upright"),
        ({"splits": (0.5, 0.2, 0.2)}, ValueError, "splits must be three shares that sum to 1"),
        ({"camera_dropout": 1.5}, ValueError, r"camera_dropout must lie in \[0, 1\]"),
        ({"tracklet_frames": 0}, ValueError, "tracklet_frames must be at least 1"),
        ({"tracklets": -1}, ValueError, "tracklets must be at least 0"),
        ({"quality": 100}, ValueError, "quality must be at most 95"),
    ],
)
def test_writer_rejects(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        write_sysu_layout(tmp_path / "set", **(SMALL | arguments))
    assert not (tmp_path / "set").exists()


def test_renderer_rejects():
    person = sample_identity(0, 1)
    with pytest.raises(ValueError, match="camera_id must be one of"):
        render_person(person, 7, 0)
    with pytest.raises(TypeError, match="attributes must be Attributes, got int"):
        render_person(1, 1, 0)
    with pytest.raises(ValueError, match="frames must be at least 1"):
        render_tracklet(person, 1, 0, 0)
    with pytest.raises(ValueError, match="person_id must be at least 1"):
        sample_identity(0, 0)
    with pytest.raises(ValueError, match="modality must be 0"):
        caption(person, 2)
    with pytest.raises(ValueError, match="source must hold at least one picture"):
        contact_sheet([])
