"""The README's table of faults is made from the result file."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _runner():
    spec = importlib.util.spec_from_file_location("faults_run", ROOT / "tests/faults/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_counts_of_the_result_file():
    runner = _runner()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = runner.MARKERS
    shown = text.split(begin)[1].split(end)[0].strip()
    assert shown == runner.table(json.loads(runner.RESULT.read_text(encoding="utf-8")))


def test_every_count_is_in_one_line_of_the_table():
    counts = {
        "features (.npz): full": 1000, "pointer: limited": 1, "training, full, then resumed": 5,
        "hostile paths": 7, "something new": 3,
    }  # fmt: skip
    lines = _runner().table({"a": {"counts": counts}, "b": {"counts": {"hostile paths": 2}}})
    numbers = [line.split(" | ")[-1].strip(" |") for line in lines.splitlines()[2:]]
    assert sorted(numbers) == sorted(["1,001", "5", "9", "3"])
    assert "| something new | 3 |" in lines
