"""Extractor: the features of `vireid extract`, from files, images and arrays, without the data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import made_run
from method_cases import CASES, TRACKS, write_tiny_sets
from PIL import Image

import vireid_fast
from vireid_fast.data.images import ImageError, load_image
from vireid_fast.data.table import MODALITY_NAMES
from vireid_fast.engine import workflow
from vireid_fast.engine.extractor import Extractor, open_extractor
from vireid_fast.engine.image_folders import folder_clips, folder_images


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    return write_tiny_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def run(sets, tmp_path_factory):
    torch.manual_seed(0)
    return made_run("csdn", sets, tmp_path_factory.mktemp("run") / "csdn")


@pytest.fixture(scope="module")
def extractor(run) -> Extractor:
    return Extractor.from_run(run.path)


@pytest.fixture
def photos(sets, tmp_path) -> Path:
    """A folder of one's own: images in folders, and files that are none."""
    source = sorted((sets / "images" / "cam3").rglob("*.jpg"))
    for name, file in zip(("b.jpg", "A.JPG", "in/c.jpg"), source, strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_bytes(b"no image")
    return tmp_path


@pytest.mark.parametrize("method", CASES)
def test_features_are_those_of_extract_bit_for_bit(method, sets, tmp_path):
    run = made_run(method, sets, tmp_path / "run")
    config = run.config()
    _, extraction = workflow.extract_run(run)
    table, rows = workflow.read_table(config), extraction.rows
    if CASES[method][1] == TRACKS:
        items = [[table.frames.file(int(f)) for f in table.frame_rows(row)] for row in rows]
    else:
        items = [table.file(row) for row in rows]
    words = [MODALITY_NAMES[m] for m in table.modality[rows]]
    # Neither the data set nor the run may be needed: the model folder alone is.
    alone = shutil.copytree(run.checkpoints / "0-made-0001", tmp_path / "model")
    for opened in (Extractor.from_run(run.path), vireid_fast.from_pretrained(alone)):
        found = opened(items, modality=words, batch_size=config.evaluation.batch_size)
        assert torch.equal(found, extraction.features.features)
        assert found.shape[1] == opened.feature_width and found.dtype == torch.float32
    torch.testing.assert_close(opened(items, modality=words, batch_size=3), found)
    assert opened.card.method == method and opened.metric == "dot"
    assert opened.processing == opened.card.processing and opened.processing["features"]
    assert opened.video == (CASES[method][1] == TRACKS)


def test_an_untouched_world(run):
    torch.manual_seed(5)
    threads, before = torch.get_num_threads(), torch.get_rng_state()
    Extractor.from_pretrained(run.path)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


def test_kinds_of_images_give_the_same_features(extractor, photos):
    files = [photos / name for name in ("b.jpg", "A.JPG", "in/c.jpg")]
    wanted = extractor(files, modality="infrared")
    arrays = [load_image(file) for file in files]
    mixed = [str(files[0]), Image.open(files[1]), torch.from_numpy(arrays[2])]
    for images in (arrays, mixed, [Image.fromarray(a) for a in arrays], np.stack(arrays),
                   tuple(files)):  # fmt: skip
        assert torch.equal(extractor(images, modality="infrared"), wanted)
    for one in (files[0], str(files[0]), arrays[0], Image.fromarray(arrays[0])):
        torch.testing.assert_close(extractor(one, modality="infrared"), wanted[:1])
    grey = arrays[0][:, :, 0]
    torch.testing.assert_close(
        extractor([grey, np.repeat(grey[..., None], 3, axis=2)[::1]], modality="infrared")[0],
        extractor([Image.fromarray(grey)], modality="infrared")[0],
    )
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    torch.testing.assert_close(
        extractor([deep], modality="infrared"), extractor([grey], modality="infrared")
    )


def test_a_notebook_shows_what_it_is(extractor, run):
    shown = repr(extractor)
    assert shown.startswith("Extractor(csdn, RN-small, images of 64 x 32, features of ")
    assert f"{extractor.feature_width}, cpu, {run.path}" in shown


def test_modality_of_each_and_nothing_at_all(extractor, photos):
    files = [photos / "b.jpg", photos / "A.JPG", photos / "b.jpg"]
    words = ("visible", "infrared", "infrared")
    both = extractor(files, modality=words)
    assert not torch.equal(both[0], both[2])
    assert torch.equal(both[1:], extractor(files[1:], modality="infrared"))
    assert extractor([], modality="visible").shape == (0, extractor.feature_width)
    assert extractor([], modality=[]).shape == (0, extractor.feature_width)


def test_a_folder_in_the_order_of_its_paths(extractor, photos):
    found = extractor.extract_folder(photos, modality="infrared")
    assert found.paths == ("A.JPG", "b.jpg", "in/c.jpg")
    wanted = extractor([photos / name for name in found.paths], modality="infrared")
    assert torch.equal(found.features, wanted)
    (photos / "aa.png").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"aa\.png must be a readable image"):
        extractor.extract_folder(photos, modality="infrared")
    less = extractor.extract_folder(photos, modality="infrared", skip_bad=True)
    assert less.paths == found.paths and torch.equal(less.features, found.features)
    assert [Path(bad.path).name for bad in less.bad] == ["aa.png"]
    for name in found.paths:
        (photos / name).write_bytes(b"")
    none = extractor.extract_folder(photos, modality="infrared", skip_bad=True)
    assert none.features.shape == (0, extractor.feature_width) and len(none.bad) == 4


def test_folders_without_images_are_named(photos, tmp_path):
    with pytest.raises(ValueError, match=r"folder must be an existing folder, got .*absent"):
        folder_images(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty must hold an image \(\.bmp, .*\), got none"):
        folder_images(tmp_path / "empty")
    assert folder_clips(photos) == [["A.JPG", "b.jpg"], ["in/c.jpg"]]


def test_clips_are_lists_of_frames(sets, tmp_path):
    clips = Extractor.from_run(made_run("lsmrl", sets, tmp_path / "run").path)
    files = sorted((sets / TRACKS).rglob("rgb/*/*.jpg"))[:4]
    wanted = clips([files, files[:1]], modality="visible")
    frames = [load_image(file) for file in files]
    assert torch.equal(clips([frames, [Image.open(files[0])]], modality="visible"), wanted)
    folder = files[0].parents[1]
    found = clips.extract_folder(folder, modality="visible")
    assert found.paths == tuple(clip[len(clip) // 2] for clip in folder_clips(folder))
    alone = clips([sorted(files[0].parent.glob("*.jpg"))], modality="visible")
    torch.testing.assert_close(found.features[:1], alone)
    with pytest.raises(TypeError, match=r"clip 1 must be a list of at least one frame, got .*Path"):
        clips([files, files[0]], modality="visible")
    with pytest.raises(ValueError, match="clip 0 must be a list of at least one frame, got an em"):
        clips([[]], modality="visible")
    with pytest.raises(TypeError, match="images must be a list of clips, each a list of frames"):
        clips("a.jpg", modality="visible")
    strict = Extractor.from_run(made_run("lsmrl", sets, tmp_path / "2", "video.short=refuse").path)
    with pytest.raises(ValueError, match=r"clip 0 must have at least 2 frames, .* got 1"):
        strict([files[:1]], modality="visible")


@pytest.mark.parametrize(("arguments", "error", "match"), [
    ({"images": [np.zeros((4, 4))]}, TypeError, "image 0: array must be uint8, got float64"),
    ({"images": [np.zeros((4, 4, 4), np.uint8)]}, ValueError, r"have shape \(H, W, 3\) or \(H, W"),
    ({"images": [np.zeros((0, 4), np.uint8)]}, ValueError, r"image 0: array must have shape"),
    ({"images": [torch.zeros(3, 8, 4, dtype=torch.uint8)]}, ValueError, "channels last"),
    ({"images": [7]}, TypeError, "image 0 must be a file, an image of Pillow, .* got int"),
    ({"images": 7}, TypeError, "images must be a list of images, got int"),
    ({"images": ["absent.jpg"]}, ImageError, "absent.jpg must be a readable image, got: no such"),
    ({"modality": "thermal"}, ValueError, "modality must be one of .* got 'thermal'"),
    ({"modality": ["visible"] * 2}, ValueError, "one for each of the 0 images, got 2"),
    ({"images": [np.zeros((4, 4), np.uint8)], "modality": ["x"]}, ValueError, "each, got x"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ({"batch_size": 2.5}, TypeError, "batch_size must be an integer, got 2.5"),
])  # fmt: skip
def test_bad_arguments(extractor, arguments, error, match):
    with pytest.raises(error, match=match):
        extractor(**{"images": [], "modality": "visible", **arguments})


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, got in (("openai/clip", "'openai/clip'"), ("file", "'file', a file")):
        match = f"path must be a folder on this machine, got {got}. .* nothing is downloaded"
        with pytest.raises(FileNotFoundError, match=match):
            vireid_fast.from_pretrained(name)
    with pytest.raises(ValueError, match=r"empty must hold card\.json, or be a run folder"):
        vireid_fast.from_pretrained("empty")
    with pytest.raises(ValueError, match=r"empty must hold config\.yaml"):
        Extractor.from_run("empty")


def test_options_that_name_a_model(run):
    assert open_extractor("search", None, None) is None
    assert open_extractor("search", run.path, None).card == Extractor.from_run(run.path).card
    assert open_extractor("search", None, run.path).feature_width
    with pytest.raises(ValueError, match="search: --model must come without --run"):
        open_extractor("search", run.path, run.path)
    with pytest.raises(ValueError, match=r"--checkpoint must be one of .* got 'first'"):
        open_extractor("search", run.path, None, "first")
    with pytest.raises(ValueError, match="which must be one of"):
        Extractor.from_run(run.path, which="first")
    with pytest.raises(ValueError, match="device must be cpu, or cuda"):
        Extractor.from_run(run.path, device="tpu")


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_same(run, photos):
    files = [photos / "b.jpg", photos / "A.JPG"]
    near = Extractor.from_run(run.path, device="cuda")(files, modality="visible")
    assert near.device.type == "cpu"
    torch.testing.assert_close(
        near, Extractor.from_run(run.path)(files, modality="visible"), atol=0.02, rtol=0
    )
