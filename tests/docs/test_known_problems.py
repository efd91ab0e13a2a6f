"""docs/known_problems.md answers every theme, and the tests that it names exist."""

import ast
import re

import pages
import pytest

SECTIONS = re.split(r"^### ", pages.read("docs/known_problems.md"), flags=re.MULTILINE)[1:]


def _defined(path: str) -> set[str]:
    tree = ast.parse((pages.ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.partition("\n")[0])
def test_tests_that_are_named_exist(section):
    evidence, shown = section.split("Seen in: ")[1].split("Shown by: ")
    assert re.search(r"#\d+", evidence)
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown)
    assert named and len(named) == shown.count("`") // 2
    for path, name in named:
        assert name in _defined(path), f"{path}::{name}"


def test_every_theme_of_the_survey_has_an_answer(shared_dir):
    survey = (shared_dir / "spec" / "datasets.md").read_text(encoding="utf-8")
    rows = survey.split("## 2.2")[1].split("## 2.3")[0].strip().splitlines()[3:]
    assert len(rows) == len(SECTIONS)
    for row, section in zip(rows, SECTIONS, strict=True):
        numbers = set(re.findall(r"#\d+", row.split("|")[2]))
        assert numbers <= set(re.findall(r"#\d+", section)), row
