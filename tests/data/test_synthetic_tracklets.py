"""Synthetic tracklets in the layouts of HITSZ-VCM and BUPTCampus, and their aligned pairs."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vireid_fast.data.check import check_folder
from vireid_fast.data.datasets import DATASETS
from vireid_fast.data.datasets.bupt_campus import read_bupt_campus
from vireid_fast.data.datasets.hitsz_vcm import read_vcm_layout
from vireid_fast.data.synthetic import (
    CAMERAS,
    contact_sheet,
    is_synthetic,
    render_pair,
    render_tracklet,
    sample_identity,
    write_layout,
)

SIZE = (32, 16)
LAYOUTS = ("hitsz_vcm", "bupt_campus")
SMALL = {"identities": 5, "size": SIZE, "seed": 5, "tracklets": 2, "tracklet_frames": 2}


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def as_jpeg(pixels, quality=92) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=quality)
    return stream.getvalue()


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tracklets")
    for name in LAYOUTS:
        assert write_layout(name, folder / name, **SMALL)
    return {name: folder / name for name in LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_reader_accepts_the_set(sets, layout):
    (report,) = check_folder(layout, sets[layout], decode=True).reports
    assert report.ok, str(report)
    assert report.synthetic and not report.warnings
    assert report.counted.unit == "tracklets"
    assert report.decoded == report.counted.total_frames
    table = DATASETS[layout].read(sets[layout])
    # Six cameras; the two modalities of one camera are two columns.
    columns = 6 if layout == "hitsz_vcm" else 12
    assert contact_sheet(table, identities=3, views=1).size == (columns * 68 + 4, 3 * 132 + 4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_arguments_give_equal_files(sets, tmp_path, layout):
    root, done = tmp_path / "set", []

    def interrupt(*call: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_layout(layout, root, **SMALL, progress=interrupt)
    assert not is_synthetic(root)
    assert write_layout(layout, root, **SMALL, progress=lambda *call: done.append(call))
    assert done == [(n, 5) for n in range(1, 6)]
    assert files_of(root) == files_of(sets[layout])
    assert not write_layout(layout, root, **SMALL)
    captions = json.loads((root / "captions.json").read_text())
    assert list(captions) == [f"{n:04d}" for n in range(1, 6)]


def test_hitsz_vcm(sets):
    root = sets["hitsz_vcm"]
    table = read_vcm_layout(root)
    # Two infrared cameras, which share their numbers with visible ones, and four visible.
    for part, people in (("train", 3), ("test", 2)):
        ids = table.splits[part]
        assert len(ids) == people
        for modality, cameras in ((1, (2, 3)), (0, (1, 2, 3, 4))):
            rows = table.rows(part, modality=modality)
            seen = sorted(zip(table.person_ids[rows], table.camera_ids[rows], strict=True))
            assert seen == sorted((i, c) for i in ids for c in cameras for _ in range(2))
    test = table.rows("test")
    np.testing.assert_array_equal(table.roles[test], table.modality[test])
    assert (table.length == 2).all()
    # The second walk of infrared camera 3, which drawn camera 6 records.
    row = table.rows([table.splits["test"][0]], modality=1, cameras=[3])[1]
    person = int(table.person_ids[row])
    paths = [table.frames.paths[n] for n in table.frame_rows(row)]
    assert paths == [f"Test/{person:04d}/ir/D3/{frame}.jpg" for frame in (3, 4)]
    walk = render_tracklet(sample_identity(5, person), 6, 1, 2, SIZE)
    assert [(root / path).read_bytes() for path in paths] == [as_jpeg(frame) for frame in walk]


def test_bupt_campus(sets):
    root = sets["bupt_campus"]
    table = read_bupt_campus(root / "DATA")
    sizes = {name: len(ids) for name, ids in table.splits.items()}
    assert sizes == {"train": 2, "val": 0, "test": 2, "auxiliary": 1}
    assert len(table.rows("train")) == 2 * 6 * 2 * 2
    assert len(np.unique(table.camera_ids[table.rows("auxiliary")])) == 1
    assert len(table.rows("auxiliary")) == 2 * 2
    queries, gallery = np.flatnonzero(table.roles == 1), np.flatnonzero(table.roles == 0)
    # One of each modality, and neither it nor its pair in the gallery.
    assert sorted(table.modality[queries]) == [0, 1]
    assert len(gallery) == 2 * 2 * (6 * 2 - 1)

    def walks(rows):
        """Person, camera and number of the walk of some tracklets."""
        parts = [table.frames.paths[n].split("/") for n in table.start[rows]]
        return [(person, camera, walk) for _, person, _, camera, walk, _ in parts]

    assert not set(walks(queries)) & set(walks(gallery))
    assert len(set(walks(gallery))) == 2 * (6 * 2 - 1)
    listed = json.loads((root / "data_paths.json").read_text())
    for person, camera, walk in walks(queries):
        for modality in ("RGB", "IR"):
            assert all(
                (root / "DATA" / p).is_file() for p in listed[person][modality][camera][walk]
            )
    # A pair on disk is what one camera records in both modalities.
    row = int(table.rows("train", modality=0)[-1])
    person, camera = int(table.person_ids[row]), int(table.camera_ids[row])
    pair = render_pair(sample_identity(5, person), camera, 1, 2, SIZE)
    for half, frames in zip((row, table.partner[row]), pair, strict=True):
        files = [table.frames.file(n) for n in table.frame_rows(half)]
        assert [file.read_bytes() for file in files] == [as_jpeg(frame) for frame in frames]


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_pair_is_one_walk_in_two_modalities(camera):
    person = sample_identity(2, camera)
    pair = render_pair(person, camera, 0, 2, (64, 32))
    own = render_tracklet(person, camera, 0, 2, (64, 32))
    np.testing.assert_array_equal(pair[CAMERAS[camera].modality], own)
    visible, infrared = pair
    assert (infrared == infrared[..., :1]).all()
    assert not (visible == visible[..., :1]).all()


@pytest.mark.parametrize("camera", CAMERAS)
def test_pairs_are_aligned(camera):
    """Where the person moves is the same in both halves, and not in another walk."""
    person = sample_identity(7, 1)

    def motion(frames):
        grey = frames.astype(np.float64).mean(-1)
        change = np.abs(grey[1:] - grey[:-1])
        # Means over blocks of 8 pixels lower the noise of the sensor.
        blocks = change.reshape(len(change), 12, 8, 6, 8).mean((2, 4))
        return blocks / blocks.mean((1, 2), keepdims=True)

    def similarity(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    visible, infrared = (motion(half) for half in render_pair(person, camera, 3, 5, (96, 48)))
    _, other = (motion(half) for half in render_pair(person, camera, 4, 5, (96, 48)))
    assert similarity(visible, infrared) > similarity(visible, other) + 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tracklets": 0}, ValueError, r"write_\w+_layout: tracklets must be at least 1, got 0"),
        ({"tracklet_frames": 0}, ValueError, "tracklet_frames must be at least 1"),
        ({"views": 3}, ValueError, "views must be left out for the layout"),
        ({"size": (16, 32)}, ValueError, "size must be upright"),
    ],
)
def test_writers_reject(tmp_path, layout, arguments, error, message):
    with pytest.raises(error, match=message):
        write_layout(layout, tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_both_parts_need_identities(tmp_path, share):
    with pytest.raises(ValueError, match="test_share must leave identities for training and test"):
        write_layout("hitsz_vcm", tmp_path / "set", test_share=share)
    splits = (1 - share, 0.0, share)
    with pytest.raises(ValueError, match="splits must leave identities for training and test"):
        write_layout("bupt_campus", tmp_path / "set", splits=splits)


def test_pairs_reject():
    person = sample_identity(0, 1)
    with pytest.raises(ValueError, match=r"render_pair: camera_id must be one of \[1, 2, 3"):
        render_pair(person, 7, 0, 2)
    with pytest.raises(ValueError, match="render_pair: frames must be at least 1, got 0"):
        render_pair(person, 1, 0, 0)
