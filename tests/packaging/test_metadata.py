"""Version, Python versions and changelog say the same everywhere."""

import ast
import re
from importlib.metadata import version
from pathlib import Path

from build_tree import ROOT, VERSION, project

import vireid_fast

SOURCES = [*sorted(ROOT.glob("vireid_fast/**/*.py")), ROOT / "setup.py"]


def test_the_version_is_written_once():
    assert project()["dynamic"] == ["version"]
    assert vireid_fast.__version__ == VERSION
    assert version("vireid_fast") == VERSION, "installed from another version: make setup"
    holders = [
        path.relative_to(ROOT)
        for path in [*SOURCES, ROOT / "pyproject.toml", *ROOT.glob("csrc/**/*.*")]
        if re.search(rf"(?<![\w.=]){re.escape(VERSION)}(?![\w.])", path.read_text(encoding="utf-8"))
    ]
    assert holders == [Path("vireid_fast/_version.py")]


def test_the_changelog_has_the_version_first():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## \[?([^\]\s]+)\]?(?: - (\S+))?$", text, re.MULTILINE)
    released = [name for name, _ in entries if name != "Unreleased"]
    assert released[0] == VERSION
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", dict(entries)[VERSION])
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_pythons_3_10_to_3_13_are_declared():
    declared = project()
    assert declared["requires-python"] == ">=3.10"
    named = [c.rsplit(" ", 1)[1] for c in declared["classifiers"] if "Python :: 3." in c]
    assert named == ["3.10", "3.11", "3.12", "3.13"]


def test_every_source_is_python_3_10():
    for path in SOURCES:
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10))


def test_licence_and_typing_marker_are_declared():
    declared = project()
    assert declared["license"] == "MIT" and declared["license-files"] == ["LICENSE"]
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert "Typing :: Typed" in declared["classifiers"]
    assert (ROOT / "vireid_fast" / "py.typed").is_file()
