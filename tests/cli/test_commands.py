"""Every command with good input: what it prints, what it writes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from command_line import PRESET, TINY, run_vireid
from PIL import Image

from vireid_fast.config import load_config
from vireid_fast.data.feature_files import read_features, read_metadata
from vireid_fast.retrieval.rerank import rerank

COMMANDS = ("pretrain", "train", "extract", "eval", "rerank", "report", "synth", "check-data",
            "info", "demo")  # fmt: skip
KEYS = {
    "protocol", "mode", "shots", "R1", "R5", "R10", "R20", "mAP", "mINP", "std", "valid_queries",
    "gallery_size", "per_trial",
}  # fmt: skip
METRICS = {"R1", "R5", "R10", "R20", "mAP", "mINP"}


def _check_result(result: dict, trials: int) -> None:
    assert result.keys() >= KEYS
    assert all(0 <= result[name] <= 1 for name in METRICS)
    assert len(result["per_trial"]) == trials
    assert result["std"].keys() == METRICS and all(set(t) == METRICS for t in result["per_trial"])
    mean = np.mean([trial["mAP"] for trial in result["per_trial"]])
    assert result["mAP"] == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help(vireid, command):
    out = vireid.ok(*command, "--help").out
    assert "Usage: " in out
    assert command or all(name in out for name in COMMANDS)


def test_module_and_version():
    done = subprocess.run([sys.executable, "-m", "vireid_fast", "--version"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and done.stdout.count(".") == 2


def test_synth_then_check_data(vireid, tmp_path):
    root, sheet = tmp_path / "set [1]", tmp_path / "sheet.png"
    options = ("--identities", 4, "--views", 1, "--height", 64, "--width", 32)
    out = vireid.ok("synth", "--out", root, *options, "--tracklets", 1, "--sheet", sheet).out
    # Brackets in a path are no markup, and a long line is not cut.
    assert out == f"data set: {root}  contact sheet: {sheet}\n"
    assert Image.open(sheet).size > (100, 100) and (root / "captions.json").is_file()
    assert len(list(root.glob("cam*/*/*.jpg"))) == 24 and list(root.glob("tracklets/*/ir/D*/T*"))
    before = sheet.stat().st_mtime_ns, (root / "synth.json").stat().st_mtime_ns
    vireid.ok("synth", "--out", root, *options, "--tracklets", 1)
    assert before == (sheet.stat().st_mtime_ns, (root / "synth.json").stat().st_mtime_ns)

    report = tmp_path / "report.json"
    done = vireid("check-data", "--root", root, "--decode", "--json", report)
    # A drawn set need not be the published one; any other set of this size is a torn copy.
    assert done.code == 0 and "deviation: train: 2 identities, published 296" in done.out
    assert "A sound synthetic set; it differs from the published structure in" in done.out
    values = json.loads(report.read_text())
    assert values["ok"] is values["synthetic"] is True
    assert values["deviations"] and values["problems"] == values["bad_images"] == []
    (root / "synth.json").unlink()
    done = vireid("check-data", "--root", root)
    assert done.code == 1 and "The data set is not complete and sound." in done.out
    assert values["decoded"] == 24 and values["images"]["all"] == {"visible": 16, "infrared": 8}


def test_pretrain_writes_weights(vireid, root, tmp_path):
    done = vireid.ok("pretrain", "--config", PRESET, "--data-root", root, "--run",
                     tmp_path / "pre", *TINY)  # fmt: skip
    assert done.out == f"weights: {tmp_path / 'pre' / 'weights.safetensors'}\n"
    card = json.loads((tmp_path / "pre" / "weights.json").read_text())
    assert card["architecture"] == "RN-small"


def test_train_by_method_and_data_is_the_preset(pristine_run):
    assert pristine_run.outcome.code == 0, pristine_run.outcome.err
    assert f"next: vireid eval --run {pristine_run.path}" in pristine_run.outcome.out
    saved = load_config(pristine_run.path / "config.yaml")
    assert saved == load_config(PRESET, [f"data.root={pristine_run.root}", *TINY])
    lines = (pristine_run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == ["prompts", "fusion", "visual"]
    assert json.loads((pristine_run.path / "environment.json").read_text())["threads"] == 1


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_extract_then_eval_in_both_formats(vireid, run, tmp_path, suffix):
    file, result = tmp_path / f"features.{suffix}", tmp_path / "result.json"
    out = vireid.ok("extract", "--run", run, "--out", file).out
    features = read_features(file)
    rows, width = features["features"].shape
    assert out == f"features: {file}  {rows} images, width {width}\n"
    assert set(features) == {"features", "person_ids", "camera_ids", "modality", "image_indices"}
    assert read_metadata(file)["method"] == "csdn"
    out = vireid.ok("eval", "--features", file, "--json", result).out
    values = json.loads(result.read_text())
    _check_result(values, trials=10)
    assert (values["protocol"], values["mode"], values["shots"]) == ("sysu/agw", "all", 1)
    assert f"{100 * values['mAP']:.2f}" in out and "in %" in out


def test_extract_other_splits_and_checkpoints(vireid, run, tmp_path):
    file = tmp_path / "val.npz"
    vireid.ok("extract", "--run", run, "--split", "val", "--checkpoint", "latest", "--out", file)
    assert len(set(read_features(file)["person_ids"])) == 2
    vireid.ok("extract", "--run", run, "--split", "train")
    assert (run / "features" / "train.npz").is_file()


def test_eval_of_a_run(vireid, run, tmp_path):
    out = vireid.ok("eval", "--run", run, "--json", tmp_path / "a.json").out
    assert "plain" in out and "reranked (4, 2, 0.3)" in out
    values = json.loads((tmp_path / "a.json").read_text())
    saved = json.loads((run / "results.json").read_text())
    _check_result(values, trials=10)
    assert values["mAP"] == saved["plain"]["mAP"] and values["reranked"] == saved["reranked"]
    vireid.ok("eval", "--run", run, "--mode", "indoor", "--shots", 2, "--json", tmp_path / "b.json")
    values = json.loads((tmp_path / "b.json").read_text())
    assert (values["mode"], values["shots"]) == ("indoor", 2)
    lists = ("--mode", "all,indoor", "--shots", "1,2")
    vireid.ok("eval", "--run", run, *lists, "--json", tmp_path / "c.json")
    values = json.loads((tmp_path / "c.json").read_text())
    assert values["indoor, 2-shot"]["shots"] == 2 and values["all, 2-shot"]["mode"] == "all"


def test_eval_of_a_run_under_the_official_protocol(vireid, run, pristine_run, tmp_path):
    vireid.ok(
        "eval", "--run", run, "--protocol", "sysu/official", "--json", tmp_path / "c.json",
        "--permutations", pristine_run.root / "exp" / "rand_perm_cam.mat",
    )  # fmt: skip
    values = json.loads((tmp_path / "c.json").read_text())
    assert values["protocol"] == "sysu/official" and values["metric"] == "euclidean"


@pytest.mark.parametrize("metric", [None, "euclidean", "cosine", "dot"])
@pytest.mark.parametrize("rerank", [None, "4,2,0.3", "400,200,0"])
def test_eval_of_query_and_gallery_files(vireid, pair, tmp_path, metric, rerank):
    options = [*(() if metric is None else ("--metric", metric)),
               *(() if rerank is None else ("--rerank", rerank))]  # fmt: skip
    vireid.ok("eval", *pair, "--protocol", "sysu/agw", *options, "--json", tmp_path / "r.json")
    values = json.loads((tmp_path / "r.json").read_text())
    _check_result(values, trials=1)
    assert values["mode"] is None and values["shots"] is None
    assert values["metric"] == (metric or "dot")
    assert (values["valid_queries"], values["gallery_size"]) == (12, 12)


def test_rerank_writes_a_matrix_or_lists(vireid, pair, tmp_path):
    out = vireid.ok("rerank", *pair, "--out", tmp_path / "deep" / "d.npz", "--k1", 5, "--k2", 3).out
    assert out.startswith(f"written: {tmp_path / 'deep' / 'd.npz'}") and "12 x 12" in out
    matrix = np.load(tmp_path / "deep" / "d.npz")["distances"]
    query, gallery = (read_features(path)["features"] for path in pair[1::2])
    np.testing.assert_array_equal(matrix, rerank(query, gallery, 5, 3, 0.3))
    vireid.ok("rerank", *pair, "--out", tmp_path / "l.npz", "--k1", 5, "--k2", 3, "--top-k", 4)
    lists = np.load(tmp_path / "l.npz")
    order = matrix.argsort(1, kind="stable")[:, :4]
    np.testing.assert_array_equal(lists["indices"], order)
    np.testing.assert_array_equal(lists["distances"], np.take_along_axis(matrix, order, 1))
    # Lists that are longer than the gallery clip, and so do k1 and k2.
    vireid.ok("rerank", *pair, "--out", tmp_path / "l.npz", "--top-k", 99, "--k1", 99, "--k2", 99)
    assert np.load(tmp_path / "l.npz")["indices"].shape == (12, 12)


def test_rerank_of_files_with_different_float_types(vireid, write, tmp_path):
    query = write("half.npz", features=np.eye(12, 8, dtype=np.float16))
    gallery = write("gallery.npz", cameras=(1, 2))
    vireid.ok("rerank", "--query", query, "--gallery", gallery, "--out", tmp_path / "d.npz",
              "--metric", "cosine")  # fmt: skip
    assert np.load(tmp_path / "d.npz")["distances"].dtype == np.float32


def test_info_as_text_and_json(vireid):
    text = vireid.ok("info").out
    assert "kernels in use" in text and "pairwise_distance" in text
    assert f"torch             {torch.__version__}\n" in text
    assert f"threads           {torch.get_num_threads()}\n" in text
    values = json.loads(vireid.ok("info", "--json").out)
    assert values.keys() >= {"vireid_fast", "torch", "extension", "kernels", "advice"}
    assert values["kernels"]["pairwise_distance"].keys() == {"cpu", "cuda"}


@pytest.mark.slow
def test_short_demo(tmp_path):
    done = run_vireid("demo", "--short", "--identities", 14, "--run", tmp_path / "demo")
    assert done.code == 0, done.err
    assert "plain" in done.out and "reranked" in done.out
    written = {path.name for path in (tmp_path / "demo").iterdir()}
    assert written >= {"data", "pretrain", "csdn", "contact_sheet.png"}
    results = json.loads((tmp_path / "demo" / "csdn" / "results.json").read_text())
    _check_result(results["plain"], trials=10)
    _check_result(results["reranked"], trials=10)
    page = tmp_path / "demo" / "csdn" / "report.html"
    assert done.out.endswith(f"report: {page}\n")
    assert "What the method looked at" in page.read_text(encoding="utf-8")
