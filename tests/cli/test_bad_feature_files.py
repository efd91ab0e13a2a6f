"""Feature files and options of eval and rerank that cannot be used."""

import os
import re

import numpy as np
import pytest
import safetensors.numpy
from command_line import arrays


def _features(value):
    features = arrays()["features"]
    features[3, 2] = value
    return features


OBJECTS = np.array([object()] * 12, dtype=object)
BAD_ARRAYS = {
    "nan": ({"features": _features(np.nan)}, "features must be finite, got nan at row 3"),
    "inf": ({"features": _features(np.inf)}, "features must be finite, got inf at row 3"),
    "no_ids": ({"person_ids": None}, "key 'person_ids' must be in the file, got only"),
    "no_features": ({"features": None}, "key 'features' must be in the file"),
    "objects": ({"person_ids": OBJECTS}, "must be a complete .npz file of plain numeric arrays"),
    "float_ids": ({"person_ids": np.arange(12) / 2}, "person_ids must have an integer dtype"),
    "few_ids": ({"person_ids": np.arange(5)}, "person_ids must have shape (12,), got (5,)"),
    "flat": ({"features": np.zeros(12)}, "features must have shape (N, D), got (12,)"),
    "no_width": ({"features": np.zeros((12, 0))}, "features must have at least one column"),
    "complex": ({"features": np.zeros((12, 3), np.complex64)}, "features must be float16"),
    "text": ({"features": np.full((12, 3), "a")}, "features must be float16"),
    "modality": ({"modality": np.full(12, 5)}, "modality must be 0 or 1, got 5 at row 0"),
    "index": ({"image_indices": np.zeros(12, int)}, "image_indices must be at least 1, got 0"),
    "roles": ({"roles": np.full(12, 2)}, "roles must be -1 or 0 or 1, got 2 at row 0"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
@pytest.mark.parametrize("command", ["eval", "rerank"])
def test_bad_arrays_name_the_file(vireid, write, pair, tmp_path, command, name):
    changes, expected = BAD_ARRAYS[name]
    file = write(f"{name}.npz", **changes)
    out = ("--out", tmp_path / "d.npz") if command == "rerank" else ()
    for option, good in (("--query", pair[3]), ("--gallery", pair[1])):
        other = "--gallery" if option == "--query" else "--query"
        message = vireid.error(command, option, file, other, good, *out)
        assert expected in message and str(file) in message
    assert not (tmp_path / "d.npz").exists()


def _damage(path, kind):
    good = path.parent / f"good{path.suffix}"
    if path.suffix == ".npz":
        np.savez(good, **arrays())
    else:
        safetensors.numpy.save_file(arrays(), good)
    content = good.read_bytes()
    path.write_bytes({"empty": b"", "garbage": b"hello" * 99, "half": content[: len(content) // 2],
                      "header": content[:20]}[kind])  # fmt: skip


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kind", ["empty", "garbage", "half", "header"])
def test_damaged_files_are_named(vireid, pair, tmp_path, kind, suffix):
    file = tmp_path / f"bad{suffix}"
    _damage(file, kind)
    message = vireid.error("eval", "--query", file, *pair[2:])
    assert f"{file} must be a complete {suffix} file" in message
    assert "trust" not in message and "unsafe" not in message


def test_absent_files_folders_and_other_formats(vireid, pair, tmp_path):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "features.csv").write_text("1,2")
    for name, expected in (
        ("absent.npz", "path must be an existing file"),
        ("folder.npz", "path must be an existing file"),
        ("features.csv", "path suffix must be one of ['.npz', '.safetensors', '.h5']"),
    ):
        message = vireid.error("eval", "--query", tmp_path / name, *pair[2:])
        assert expected in message and name in message


def test_different_feature_widths(vireid, write, pair, tmp_path):
    narrow = write("narrow.npz", width=5)
    message = vireid.error("eval", "--query", narrow, *pair[2:])
    assert "gallery must have features of width 5 like the query, got 8" in message
    message = vireid.error("rerank", "--query", narrow, *pair[2:], "--out", tmp_path / "d.npz")
    assert f"have features of width 5 like {narrow}, got 8" in message and str(pair[3]) in message


@pytest.mark.parametrize("command", ["eval", "rerank"])
def test_empty_query_or_gallery(vireid, write, pair, tmp_path, command):
    empty = write("empty.npz", rows=0)
    out = ("--out", tmp_path / "d.npz") if command == "rerank" else ()
    assert "query" in vireid.error(command, "--query", empty, *pair[2:], *out)
    assert "gallery" in vireid.error(command, *pair[:2], "--gallery", empty, *out)


def test_no_valid_query(vireid, write, pair):
    strangers = write("strangers.npz", person_ids=np.arange(12) + 100)
    message = vireid.error("eval", "--query", strangers, *pair[2:])
    assert "query must hold at least one valid query, got 12 queries" in message
    # Cameras 2 and 3 hang at one place: everything near is dropped.
    near = ("--query", write("q3.npz", cameras=(3,)), "--gallery", write("g2.npz", cameras=(2,)))
    assert "at least one valid query" in vireid.error("eval", *near)


def test_features_without_queries_or_galleries(vireid, write):
    message = vireid.error("eval", "--features", write("infrared.npz"))
    assert "gallery must hold at least one image of cameras [1, 2, 4, 5]" in message
    message = vireid.error("eval", "--features", write("visible.npz", cameras=(1, 2)))
    assert "query must hold at least one image of cameras [3, 6]" in message
    message = vireid.error("eval", "--features", write("nine.npz", cameras=(3, 9)))
    assert "camera_ids must be among [1, 2, 3, 4, 5, 6], got 9" in message
    message = vireid.error("eval", "--features", write("m.npz", modality=np.zeros(12, int)))
    assert "modality must be 1 (infrared) for camera 3, got 0 at row 0" in message


BAD_RERANKING = {
    "0,6,0.3": "k1 must be at least 1, got 0",
    "-1,6,0.3": "k1 must be at least 1, got -1",
    "20,0,0.3": "k2 must be at least 1, got 0",
    "20,-2,0.3": "k2 must be at least 1, got -2",
    "20,6,-0.1": "lambda_value must lie in [0, 1], got -0.1",
    "20,6,1.5": "lambda_value must lie in [0, 1], got 1.5",
    "20,6,nan": "lambda_value must lie in [0, 1], got nan",
}


@pytest.mark.parametrize("text", BAD_RERANKING)
def test_bad_reranking_parameters(vireid, pair, tmp_path, unchanged, text):
    assert BAD_RERANKING[text] in vireid.error("eval", *pair, "--rerank", text)
    out = tmp_path / "out" / "d.npz"
    vireid.ok("rerank", *pair, "--out", out)
    k1, k2, weight = text.split(",")
    with unchanged(out):
        message = vireid.error("rerank", *pair, "--out", out, "--k1", k1, "--k2", k2,
                               "--lambda", weight)  # fmt: skip
    assert BAD_RERANKING[text] in message


@pytest.mark.parametrize("text", ["20,6", "20.5,6,0.3", "a,b,c", "20,6,0.3,1", ""])
def test_malformed_reranking_parameters(vireid, pair, text):
    expected = f"--rerank must be k1,k2,lambda, got {text!r}. For example --rerank 20,6,0.3"
    assert expected in vireid.error("eval", *pair, "--rerank", text)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--protocol", "sysu"), "protocol must be one of ['sysu/agw', 'sysu/official', "),
        (("--metric", "l1"), "metric must be one of ['euclidean', 'cosine', 'dot'], got 'l1'"),
        (("--mode", "outdoor"), "mode must be one of ['all', 'indoor'], got 'outdoor'"),
        (("--shots", "0"), "shots must be an integer of at least 1, got 0"),
        (("--shots", "-1"), "shots must be an integer of at least 1, got -1"),
        (("--protocol", "sysu/official"), "Give --permutations rand_perm_cam.mat"),
        (("--permutations", "absent.mat"), "path must be an existing file, got absent.mat"),
    ],
)
def test_bad_evaluation_options(vireid, write, options, expected):
    features = write("all.npz", rows=24, cameras=(1, 2, 3, 4, 5, 6))
    assert expected in vireid.error("eval", "--features", features, *options)


@pytest.mark.parametrize("options", [("--shots", "one"), ("--unknown", "1")])
def test_usage_errors_show_the_usage(vireid, pair, options):
    done = vireid("eval", *pair, *options)
    assert done.code == 2 and "Usage:" in done.err and options[0] in done.err


def test_bad_permutations(vireid, write, pristine_root):
    features = write("all.npz", rows=24, cameras=(1, 2, 3, 4, 5, 6))
    options = ("eval", "--features", features, "--protocol", "sysu/official", "--permutations")
    message = vireid.error(*options, features)
    assert f"{features} must be a complete MATLAB 5 file" in message
    assert "must be an existing file" in vireid.error(*options, pristine_root)
    good = pristine_root / "exp" / "rand_perm_cam.mat"
    assert "Use the permutations of this data set" in vireid.error(*options, good)
    message = vireid.error("eval", "--features", features, "--permutations", good)
    assert "sysu/agw: permutations must be None" in message


def test_eval_needs_exactly_one_source(vireid, pair, run):
    expected = re.escape("source must be --query with --gallery, or --features, or --run")
    for options in ((), pair[:2], pair[2:], (*pair, "--features", pair[1])):
        assert re.search(expected, vireid.error("eval", *options))
    message = vireid.error("eval", "--run", run, "--features", pair[1])
    assert "--run must be the only source of features" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--top-k", "0"), "--top-k must be positive, got 0"),
        (("--metric", "dot"), "--metric must be one of ['euclidean', 'cosine'], got 'dot'"),
        (("--out", "d.csv"), "--out must end in .npz, got d.csv"),
    ],
)
def test_bad_rerank_options(vireid, pair, tmp_path, options, expected):
    message = vireid.error("rerank", *pair, "--out", tmp_path / "d.npz", *options)
    assert expected in message and not (tmp_path / "d.npz").exists()


def test_targets_that_cannot_be_written(vireid, pair, tmp_path):
    folder, file = tmp_path / "folder.npz", tmp_path / "file"
    folder.mkdir()
    file.write_text("kept")
    assert "be a file, got the folder" in vireid.error("rerank", *pair, "--out", folder)
    message = vireid.error("rerank", *pair, "--out", file / "d.npz")
    assert f"path must lie in a folder, got the file {file}" in message
    assert "must be a file, got the folder" in vireid.error("eval", *pair, "--json", folder)
    assert file.read_text() == "kept" and not os.listdir(folder)
