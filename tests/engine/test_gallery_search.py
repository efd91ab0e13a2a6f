"""Search against brute force: lists, ties, modalities, re-ranking, and who may search whom."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vireid_fast.data.feature_files import write_features
from vireid_fast.data.images import file_below
from vireid_fast.engine.search import search_gallery
from vireid_fast.engine.search_output import search_json, write_page
from vireid_fast.retrieval.rerank import rerank

NAMES = [f"cam{row % 4}/{row:02d}.png" for row in range(30)]


def _arrays(rows: int, seed: int, dtype=np.float32, **changes) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    # Few values, so that many distances are equal.
    features = generator.integers(-1, 2, (rows, 4)).astype(dtype)
    features[(features == 0).all(1)] = 1
    arrays = {
        "features": features, "person_ids": np.arange(rows) % 5, "camera_ids": np.arange(rows) % 4,
        "modality": np.arange(rows) % 2, **changes,
    }  # fmt: skip
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.fixture
def files(tmp_path):
    """A gallery of 30 and queries of 7 rows, which say who made them."""
    notes = {"method": "csdn", "checkpoint": "a" * 64, "metric": "euclidean",
             "root": str(tmp_path / "images")}  # fmt: skip
    write_features(tmp_path / "g.npz", _arrays(30, 1), notes, NAMES)
    write_features(tmp_path / "q.npz", _arrays(7, 2), notes, NAMES[:7])
    return tmp_path


def _brute_force(query, gallery, metric):
    q, g = query.astype(np.float64), gallery.astype(np.float64)
    if metric == "dot":
        return -q @ g.T
    if metric == "cosine":
        q, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, g))
        return 1 - q @ g.T
    return np.sqrt(((q[:, None] - g[None]) ** 2).sum(2))


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
@pytest.mark.parametrize("modality", ["all", "visible", "infrared"])
def test_lists_are_those_of_brute_force(files, metric, modality):
    found = search_gallery(files / "g.npz", files / "q.npz", gallery_modality=modality,
                           metric=metric, top_k=9)  # fmt: skip
    wanted = {"all": range(30), "visible": range(0, 30, 2), "infrared": range(1, 30, 2)}[modality]
    rows = np.array(wanted)
    distances = _brute_force(_arrays(7, 2)["features"], _arrays(30, 1)["features"][rows], metric)
    assert found.searched == len(rows)
    for query, matches in enumerate(found.lists):
        assert [match.rank for match in matches] == list(range(1, 10))
        order = np.argsort(np.round(distances[query], 6), kind="stable")[:9]
        got = np.array([match.distance for match in matches])
        np.testing.assert_allclose(got, distances[query][order], atol=1e-6)
        if metric != "cosine":
            # Whole numbers have exact distances: ties come in the order of the rows.
            assert [match.row for match in matches] == rows[order].tolist()


def test_reranked_lists_are_those_of_the_reranked_matrix(files):
    parameters = (4, 2, 0.3)
    for metric in ("euclidean", "dot", "cosine"):
        found = search_gallery(files / "g.npz", files / "q.npz", metric=metric, top_k=5,
                               rerank=parameters)  # fmt: skip
        sides = [torch.from_numpy(_arrays(*each)["features"]) for each in ((7, 2), (30, 1))]
        if metric == "cosine":
            sides = [torch.nn.functional.normalize(side) for side in sides]
        matrix = rerank(*sides, *parameters).numpy()
        for query, matches in enumerate(found.lists):
            order = np.argsort(matrix[query], kind="stable")[:5]
            assert [match.row for match in matches] == order.tolist()
            assert [match.distance for match in matches] == matrix[query][order].tolist()
        assert found.rerank == parameters
        assert "Re-ranking compares all queries at once" in found.notes[0]


def test_a_list_cannot_be_longer_than_the_gallery(files):
    found = search_gallery(files / "g.npz", files / "q.npz", top_k=31)
    assert [len(matches) for matches in found.lists] == [30] * 7
    assert found.notes == ("All 30 gallery images are listed: fewer than the 31 asked for.",)
    assert search_gallery(files / "g.npz", files / "q.npz", top_k=30).notes == ()


def test_features_of_other_widths_and_dtypes(files):
    write_features(files / "half.npz", _arrays(30, 1, np.float16))
    halves = search_gallery(files / "half.npz", files / "q.npz")
    assert halves.lists == search_gallery(files / "g.npz", files / "q.npz").lists
    assert halves.notes == (f"{files / 'half.npz'} does not say which model made the features; "
                            "only their width was compared.",)  # fmt: skip
    both = search_gallery(files / "half.npz", files / "half.npz").notes
    assert both[0].startswith(f"{files / 'half.npz'} and {files / 'half.npz'} do not say which")
    wide = _arrays(3, 1, features=np.ones((3, 6), np.float32))
    write_features(files / "wide.npz", wide)
    with pytest.raises(ValueError, match=r"wide\.npz: features must have the width 4 of .*q\.npz"):
        search_gallery(files / "wide.npz", files / "q.npz")


@pytest.mark.parametrize("note", ["method", "checkpoint", "normalisation", "processing.flip"])
def test_features_of_another_model_are_refused(files, note):
    made = {"method": "csdn", "checkpoint": "a" * 64, "normalisation": "none",
            "processing.flip": "mean"}  # fmt: skip
    write_features(files / "g.npz", _arrays(30, 1), made)
    write_features(files / "q.npz", _arrays(7, 2), {**made, note: "other"})
    with pytest.raises(ValueError, match=rf"g\.npz: metadata '{note}' must be .other. as in "):
        search_gallery(files / "g.npz", files / "q.npz")


def test_bad_arguments(files):
    gallery, query = files / "g.npz", files / "q.npz"
    for options, match in (
        ({"top_k": 0}, "--top-k must be at least 1, got 0"),
        ({"metric": "l1"}, r"--metric must be one of .* got 'l1'"),
        ({"gallery_modality": "thermal"}, r"--gallery-modality must be one of .* got 'thermal'"),
        ({"rerank": (0, 1, 0.3)}, "k1 must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            search_gallery(gallery, query, **options)
    with pytest.raises(ValueError, match=r"name the model .* Give the one that made .*csdn.*aaaa"):
        search_gallery(gallery, files / "photo.jpg")
    write_features(files / "none.npz", _arrays(0, 1))
    with pytest.raises(ValueError, match=r"none\.npz: features must have at least one row, got 0"):
        search_gallery(files / "none.npz", query)
    with pytest.raises(ValueError, match=r"none\.npz: features must have at least one row, got 0"):
        search_gallery(gallery, files / "none.npz")
    write_features(files / "dumb.npz", _arrays(4, 1, modality=None), {"metric": "taxi"})
    with pytest.raises(ValueError, match="modality must be in the file, got none"):
        search_gallery(files / "dumb.npz", query, gallery_modality="visible")
    with pytest.raises(ValueError, match=r"metadata 'metric' must be one of .* got 'taxi'"):
        search_gallery(files / "dumb.npz", query)
    write_features(files / "one.npz", _arrays(4, 1, modality=np.ones(4, int)))
    with pytest.raises(ValueError, match="modality must be visible in at least one row"):
        search_gallery(files / "one.npz", query, gallery_modality="visible")


def test_json_tells_everything_and_nothing_unknown(files):
    found = search_gallery(files / "g.npz", files / "q.npz", top_k=2)
    values = json.loads(search_json(found))
    assert values.keys() == {"format", "version", "gallery", "model", "metric", "rerank", "queries",
                             "skipped", "notes"}  # fmt: skip
    assert values["gallery"] == {"file": str(files / "g.npz"), "rows": 30, "searched": 30,
                                 "root": str(files / "images")}  # fmt: skip
    assert values["model"] == {"method": "csdn", "checkpoint": "a" * 64}
    query = values["queries"][3]
    assert {k: query[k] for k in ("query", "path", "person_id", "camera_id", "modality")} == {
        "query": NAMES[3], "path": NAMES[3], "person_id": 3, "camera_id": 3, "modality": "infrared",
    }  # fmt: skip
    first = query["matches"][0]
    row = first["row"]
    assert first["path"] == NAMES[row] and first["person_id"] == row % 5 and first["rank"] == 1
    # A file of another program: what it does not tell is null, also a distance of no meaning.
    bare = _arrays(3, 1, features=np.ones((3, 4), np.float32), person_ids=np.full(3, -1),
                   camera_ids=None, modality=None)  # fmt: skip
    write_features(files / "bare.npz", bare)
    with pytest.warns(RuntimeWarning, match="its results are NaN"):
        found = search_gallery(files / "bare.npz", files / "bare.npz", rerank=(2, 1, 0.3))
    match = json.loads(search_json(found))["queries"][0]["matches"][0]
    assert match == {"rank": 1, "distance": None, "row": 0, "path": None, "person_id": None,
                     "camera_id": None, "modality": None}  # fmt: skip


@pytest.fixture
def pictures(files) -> Path:
    for row, name in enumerate(NAMES):
        (files / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        colour = (8 * row, 0, 255 - 8 * row)
        Image.new("RGB", (20, 40), colour).save(files / "images" / name)
    return files / "images"


def test_the_page_embeds_pictures_of_known_files(files, pictures):
    found = search_gallery(files / "g.npz", files / "q.npz", top_k=3)
    write_page(found, files / "found.html")
    page = (files / "found.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 7 + 7 * 3
    assert "No pictures" not in page and "http" not in page.replace("http-equiv", "")
    # Moved images are found where --images says.
    pictures.rename(files / "moved")
    write_page(found, files / "none.html")
    without = (files / "none.html").read_text()
    assert "data:image/jpeg" not in without and "--images names their folder" in without
    write_page(found, files / "again.html", files / "moved")
    assert (files / "again.html").read_text().count("data:image/jpeg;base64,") == 7 * 3
    (files / "moved" / NAMES[found.lists[0][0].row]).write_bytes(b"broken")
    write_page(found, files / "less.html", files / "moved")
    assert "shown without a picture" in (files / "less.html").read_text()


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png",
                                  "..\\secret.png", "C:\\secret.png", "link.png",
                                  "folder/secret.png"])  # fmt: skip
def test_paths_cannot_leave_the_folder_of_the_images(files, pictures, name):
    Image.new("RGB", (4, 4)).save(files / "secret.png")
    (pictures / "link.png").symlink_to(files / "secret.png")
    (pictures / "folder").symlink_to(files)
    with pytest.raises(ValueError, match=r"g\.npz: path must stay in .*images, got"):
        file_below(pictures, name, "g.npz")
    write_features(files / "g.npz", _arrays(3, 1), {"root": str(pictures)}, [name] * 3)
    found = search_gallery(files / "g.npz", files / "q.npz")
    with pytest.raises(ValueError, match=r"g\.npz: path must stay in .*images, got"):
        write_page(found, files / "found.html")
    assert not (files / "found.html").exists()


def test_links_that_stay_inside_are_followed(pictures):
    (pictures / "inner.png").symlink_to(pictures / NAMES[0])
    assert file_below(pictures, "inner.png", "g.npz") == pictures / "inner.png"
    assert file_below(pictures, "./cam1/01.png", "g.npz").is_file()


def test_hostile_words_are_escaped(files):
    names = ['"><script>alert(1)</script>', "\udcff\x1b[31m", "a\nb"]
    write_features(files / "g.npz", _arrays(3, 1), {"method": "<b>x</b>"}, names)
    found = search_gallery(files / "g.npz", files / "g.npz")
    write_page(found, files / "found.html")
    page = (files / "found.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "<b>x</b>" not in page and "&lt;b&gt;x" in page
    json.loads(search_json(found))


def test_a_gallery_without_paths_has_rows(files):
    write_features(files / "g.npz", _arrays(3, 1))
    found = search_gallery(files / "g.npz", files / "q.npz")
    assert found.gallery.name(2) == "row 2"
    with pytest.raises(ValueError, match=r"--images must belong to a gallery with paths, which"):
        write_page(found, files / "found.html", files)
