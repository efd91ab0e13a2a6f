"""`vireid report`, and the pages that `vireid eval` writes."""

import json
import re
import shutil
from pathlib import Path

import pytest

from vireid_fast.engine import pages


def _titles(page) -> list[str]:
    return re.findall(r'<h2 id="[a-z]+-title">(.*?)</h2>', page.read_text(encoding="utf-8"))


def test_report_of_a_run(vireid, run):
    assert vireid.ok("report", run).out == f"report: {run / 'report.html'}\n"
    page = run / "report.html"
    assert _titles(page)[:5] == ["Results", "Curves", "Ranked lists", "Distances",
                                 "Map of the features"]  # fmt: skip
    text = page.read_text(encoding="utf-8")
    assert "csdn" in text and "sysu/agw, mode all, 1-shot, 10 trials" in text
    assert text.count("data:image/jpeg;base64,") > 10 and "infrared query, visible gallery" in text
    assert len(text) < 5_000_000
    before = page.read_bytes()
    vireid.ok("report", run)
    assert page.read_bytes() == before


def test_report_options(vireid, run, tmp_path):
    page = tmp_path / "pages" / "a.html"
    assert vireid.ok("report", run, "--out", page, "--queries", 1, "--map", "tsne").out.endswith(
        f"report: {page}\n"
    )
    text = page.read_text(encoding="utf-8")
    assert text.count('<article class="card query"') == 3 and "t-SNE" in text
    assert not (run / "report.html").exists()


def test_eval_of_a_run_writes_its_report_with_the_same_numbers(vireid, run, monkeypatch):
    calls = []
    known = pages.report_of_run
    monkeypatch.setattr(pages, "report_of_run", lambda *a, **k: calls.append(k) or known(*a, **k))
    out = vireid.ok("eval", "--run", run).out
    assert out.endswith(f"written: {run / 'results.json'}\nreport: {run / 'report.html'}\n")
    # What was extracted and evaluated is handed on, not computed again.
    assert calls[0]["features"] is not None and set(calls[0]["results"]) == {"plain", "reranked"}
    mean = json.loads((run / "results.json").read_text())["plain"]["mAP"]
    assert f"{100 * mean:.2f}" in (run / "report.html").read_text(encoding="utf-8")
    with_eval = (run / "report.html").read_bytes()
    vireid.ok("report", run)
    assert (run / "report.html").read_bytes() == with_eval


def test_eval_without_report_and_with_one_elsewhere(vireid, run, tmp_path):
    out = vireid.ok("eval", "--run", run, "--no-report").out
    assert "report:" not in out and not (run / "report.html").exists()
    vireid.ok("eval", "--run", run, "--report", tmp_path / "b.html")
    assert "Results" in _titles(tmp_path / "b.html") and not (run / "report.html").exists()
    vireid.ok("eval", "--run", run, "--mode", "indoor", "--report", tmp_path / "c.html")
    assert "mode indoor" in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_several_runs_share_a_page(vireid, run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    joint = tmp_path / "joint.html"
    options = ("--run", run, "--run", other, "--report", joint, "--json", tmp_path / "joint.json")
    out = vireid.ok("eval", *options).out
    pages_of_all = [run / "report.html", other / "report.html", joint]
    assert out.splitlines()[-3:] == [f"report: {page}" for page in pages_of_all]
    text = joint.read_text(encoding="utf-8")
    assert "csdn on sysu_mm01, 2 runs" in text and _titles(joint)[:2] == ["Results", "Curves"]
    mean = json.loads((tmp_path / "joint.json").read_text())["mAP"]
    assert f"{100 * mean:.2f}" in text and "20 trials" in text
    assert str(other) in text and "data:image/jpeg" not in text


def test_report_of_feature_files(vireid, pair, write, tmp_path):
    features = write("all.npz", cameras=(1, 2, 3, 6))
    out = vireid.ok("report", "--features", features, "--rerank", "4,2,0.3").out
    assert out == f"report: {tmp_path / 'all.html'}\n"
    text = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert "reranked (4, 2, 0.3)" in text and "Training curves are left out" in text
    vireid.ok("report", *pair, "--out", tmp_path / "pair.html")
    assert "given query and gallery" in (tmp_path / "pair.html").read_text(encoding="utf-8")
    out = vireid.ok("eval", *pair, "--report", tmp_path / "eval.html").out
    assert out.endswith(f"report: {tmp_path / 'eval.html'}\n")
    out = vireid.ok("eval", *pair).out
    assert "report" not in out


def test_bad_input_is_refused_before_anything_is_computed(vireid, run, pair, tmp_path):
    for options, expected in (
        ((), "source must be a run, or --features, or --query with --gallery, got none"),
        ((tmp_path / "none",), "must hold config.yaml, got no such file and no such folder"),
        ((tmp_path,), r"must hold config.yaml, got no such file\. Give the folder"),
        ((run, "--out", tmp_path / "x.npz"), r"x\.npz must end in \.html, got '\.npz'"),
        ((run, "--out", tmp_path), "must end in .html"),
        ((run, "--map", "umap"), "map must be one of"),
        ((run, "--queries", 0), "queries must be at least 1, got 0"),
        ((run, "--mode", "indoor"), "RUN must come without options for feature files, got --mode"),
        ((run, *pair), "RUN must come without options for feature files, got --query, --gallery"),
        (("--features", tmp_path / "none.npz"), "none.npz"),
        ((*pair, "--skip-bad-images"), "--skip-bad-images must come with RUN"),
        (pair[:2], "source must be a query with a gallery, or features"),
    ):
        assert re.search(expected, vireid.error("report", *options)), options
    (tmp_path / "folder.html").mkdir()
    assert "must be a file, got a folder" in vireid.error(
        "report", run, "--out", tmp_path / "folder.html"
    )
    both = ("--run", run, "--report", tmp_path / "a.html", "--no-report")
    assert "--report must come without --no-report" in vireid.error("eval", *both)
    assert "must end in .html" in vireid.error("eval", *pair, "--report", tmp_path / "a.txt")
    assert not [path for path in tmp_path.glob("**/*.html") if path.is_file()]


@pytest.mark.parametrize("name", ["<b>run</b>", "a'b\"c & d"])
def test_a_hostile_folder_name_stays_text(vireid, run, tmp_path, name):
    moved = run.rename(tmp_path / name.replace("/", "⁄"))
    vireid.ok("report", moved)
    assert "<b>run" not in (moved / "report.html").read_text(encoding="utf-8")
