"""The tables in README.md and docs/ are what the result files say."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def report():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("report")
    finally:
        sys.path.pop(0)


def _block(path: str, name: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    return text.split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


def test_the_summary_is_generated(report):
    assert _block("README.md", "results") == report.overview(report.RESULTS)
    assert _block("README.md", "performance") == report.performance_table()


def test_study_tables_are_generated(report):
    for study in report.STUDIES:
        for name, content in report.StudyTables(study, report.RESULTS).blocks().items():
            assert _block("docs/results.md", name) == content, name


def test_performance_tables_are_generated(report):
    for group in report.GROUPS:
        assert _block("docs/performance.md", group) == report.group_table(group)


def test_every_group_of_cases_has_a_table(report):
    modules = {path.stem for path in (ROOT / "benchmarks" / "cases").glob("*.py")}
    assert modules - {"__init__", "case"} == report.GROUPS.keys()


def test_the_figure_is_drawn_from_the_results(report):
    drawn = report.memory_figure(report.RESULTS)
    assert report.FIGURE.read_text(encoding="utf-8") == drawn


def test_the_figure_shows_memory_of_an_item(report, tmp_path):
    assert "not measured yet" in report.memory_figure(tmp_path)
    for group, role, sizes in (
        ("rerank", "peer", [("1000 x 4000, D 512", 500.0), ("2000 x 8000, D 2048", 1.0)]),
        ("large_galleries", "fused", [("1000 x 9000, D 512", 10.0), ("9 x 99991, D 512", 100.0)]),
    ):
        (tmp_path / group).mkdir()
        records = [{"shape": shape, "role": role, "memory_megabytes": megabytes}
                   for shape, megabytes in sizes]  # fmt: skip
        (tmp_path / group / "cpu.json").write_text(json.dumps(records))
    figure = report.memory_figure(tmp_path)
    # 100 kB an item of the peer at one size, 1 kB of ours at two: a level line.
    points = re.findall(r'polyline points="([^"]*)"', figure)
    assert [len(line.split()) for line in points] == [1, 2]
    first, second = points[1].split()
    assert first.split(",")[1] == second.split(",")[1]
    assert "100 kB" in figure and "100,000" in figure and "dense N x N matrices" in figure


HEAD = {
    "op": "f", "case": "a", "shape": "2 x 3", "dtype": "float32", "device": "cpu",
    "device_name": "M", "threads": 1, "instruction_set": None, "torch": "2", "vireid_fast": "0",
    "git_sha": None, "date": "2026-01-01T00:00:00+00:00", "p20": 1.0, "p80": 1.1, "worst": 0.9,
    "milliseconds": 0.02, "against": "fused", "clock": "host",
}  # fmt: skip


def _tables(report, folder, *records):
    (folder / "attention").mkdir()
    text = json.dumps([{**HEAD, **record} for record in records])
    (folder / "attention" / f"{records[0].get('device', 'cpu')}.json").write_text(text)
    return report.group_table("attention", folder), report.performance_table(folder)


def test_targets_stand_beside_what_was_measured(report, tmp_path):
    group, summary = _tables(
        report, tmp_path,
        {"provider": "slow", "role": "peer", "ratio": 1.05, "target": 1.2},
        {"provider": "even", "role": "peer", "ratio": 0.98, "target": 1.0},
        {"provider": "large", "role": "peer", "ratio": 3.0, "memory_megabytes": 80.0,
         "memory_ratio": 4.0, "memory_target": 5.0},
        {"provider": "gone", "role": "peer", "absent": "not installed", "target": None},
        {"provider": "least", "role": "floor", "ratio": 0.05, "target": None},
    )  # fmt: skip
    assert "| slow | 1.05 (1.00-1.10) | 0.90 | 1.20 missed |" in group
    assert "| even | 0.98 (1.00-1.10) | 0.90 | 1.00 met |" in group
    assert "| 80 MB, 4x of 5x, missed |" in group
    assert "| gone | left out: not installed |" in group and "floor: least | 0.050" in group
    assert "3.00: a, to large | 0.98: a, to even | 1 of 3 |" in summary
    # A line a measured group.
    assert "text tower" not in summary
    assert "| device (GPU not measured yet) |" in summary


def test_groups_without_targets_share_a_line(report, tmp_path):
    for group, provider, role, ratio in (
        ("stfl", "copies", "peer", 1.5), ("stfl", "reference", "reference", 9.0),
        ("extraction", "references", "reference", 0.8), ("attention", "slow", "peer", 2.0),
    ):  # fmt: skip
        path = tmp_path / group / "cpu.json"
        path.parent.mkdir(exist_ok=True)
        records = json.loads(path.read_text()) if path.exists() else []
        target = {"target": 2.0} if group == "attention" else {}
        records.append({**HEAD, "provider": provider, "role": role, "ratio": ratio, **target})
        path.write_text(json.dumps(records))
    summary = report.performance_table(tmp_path).splitlines()[2:]
    assert summary == [
        "| cross-modal attention | cpu | 2.00: a, to slow | 2.00: a, to slow | 1 of 1 |",
        "| feature extraction, grouped and shifted blocks | cpu | 1.50: a, to copies "
        "| 0.80: a, to references | none set |",
    ]


def test_gpu_times_have_targets_in_microseconds(report, tmp_path):
    group, summary = _tables(
        report, tmp_path,
        {"provider": "fused", "role": "fused", "ratio": 1.0, "device": "cuda", "clock": "graph",
         "target_microseconds": 32.0, "cudnn": 91900, "cuda": "13.0"},
    )  # fmt: skip
    assert "| fused (graph) |  |  | 20.0 us of 32, met |" in group and "cuDNN 91900" in group
    assert "1 of 1" in summary and "not measured yet" not in summary


def test_long_times_and_memory_have_targets_too(report, tmp_path):
    group, summary = _tables(
        report, tmp_path,
        {"provider": "fused", "role": "fused", "ratio": 1.0, "milliseconds": 6.0,
         "target_microseconds": 5000.0, "memory_megabytes": 590.0, "target_megabytes": 600.0,
         "whole_megabytes": 2100.0, "target_whole_megabytes": 2000.0, "memory_ratio": 1.0,
         "memory_target": None},
        {"provider": "slow", "role": "peer", "ratio": 70.0, "target": 60.0, "calls": 1},
    )  # fmt: skip
    assert "| 6.0 ms of 5, missed |" in group and "slow (one call) | 70.00" in group
    assert "| 590 MB of 600, met; process 2,100 MB of 2,000, missed |" in group
    assert "2 of 4" in summary


def test_a_rate_stands_beside_the_provider(report, tmp_path):
    group, _ = _tables(
        report, tmp_path,
        {"provider": "fused", "role": "fused", "ratio": 1.0, "rate": 12.34, "unit": "clips"},
        {"provider": "slow", "role": "reference", "ratio": 2.0, "rate": 6.17, "unit": "clips"},
    )  # fmt: skip
    assert "| fused: 12.3 clips/s |  |" in group
    assert "| slow: 6.17 clips/s | 2.00 (1.00-1.10) |" in group


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_replace_block_touches_nothing_else(report, tmp_path):
    path = tmp_path / "a.md"
    path.write_text("head\n<!-- t:begin -->\nold\n<!-- t:end -->\ntail\n", encoding="utf-8")
    report.replace_block(path, "t", "new")
    assert path.read_text() == "head\n<!-- t:begin -->\nnew\n<!-- t:end -->\ntail\n"
