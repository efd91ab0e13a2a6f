"""The tables in README.md and docs/results.md are what the result files say."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("report", ROOT / "benchmarks" / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _block(path: str, name: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    return text.split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


@pytest.mark.parametrize(
    ("path", "name", "table"),
    [
        ("README.md", "results", "summary_table"),
        ("docs/results.md", "summary", "summary_table"),
        ("docs/results.md", "seeds", "seed_table"),
        ("docs/results.md", "ops", "op_table"),
    ],
)
def test_tables_are_generated(report, path, name, table):
    assert _block(path, name) == getattr(report, table)()


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_replace_block_touches_nothing_else(report, tmp_path):
    path = tmp_path / "a.md"
    path.write_text("head\n<!-- t:begin -->\nold\n<!-- t:end -->\ntail\n", encoding="utf-8")
    report.replace_block(path, "t", "new")
    assert path.read_text() == "head\n<!-- t:begin -->\nnew\n<!-- t:end -->\ntail\n"
