"""The stages of the continuous integration: each one runs, those that fail are named."""

import re
import shutil
import subprocess

import pytest
from build_tree import ROOT

# A `make` that fails where asked, and otherwise closes like pytest.
MAKE = """#!/bin/sh
echo "made $*"
case "$*" in
  *{failing}*) echo "2 failed, 3 passed in 0.50s"; exit 2 ;;
  *) echo "5 passed in 1.25s" ;;
esac
"""


@pytest.fixture
def ci(tmp_path):
    """Runs a copy of .ci/run with a stand-in for make; gives the exit code and the lines."""
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")

    def run(*stages: str, failing: str = "nothing-at-all") -> tuple[int, list[str]]:
        make = tmp_path / "bin" / "make"
        make.parent.mkdir(exist_ok=True)
        make.write_text(MAKE.format(failing=failing))
        make.chmod(0o755)
        done = subprocess.run(["bash", script, *stages], capture_output=True, text=True, timeout=60,
                              env={"PATH": f"{make.parent}:/usr/bin:/bin"})  # fmt: skip
        return done.returncode, (done.stdout + done.stderr).splitlines()

    return run


def test_a_failure_is_named_and_hides_no_other_stage(ci):
    code, lines = ci("lint", "tests", "docs", failing="--ignore=tests/docs")
    assert code == 1
    assert [line for line in lines if line.startswith("==")] == [
        "== stage: lint ==", "== stage: tests ==", "== stage: docs ==", "== summary ==",
    ]  # fmt: skip
    table = lines[lines.index("== summary ==") + 1 :]
    assert re.fullmatch(r"lint +passed +\d+ s  5 passed in 1\.25s", table[0])
    assert re.fullmatch(r"tests +FAILED +\d+ s  2 failed, 3 passed in 0\.50s", table[1])
    assert table[2].startswith("docs     passed")
    assert table[-1] == "FAILED: tests (again: .ci/run tests)"


def test_nothing_runs_on_a_machine_that_could_not_be_set_up(ci):
    code, lines = ci(failing="setup")
    assert code == 1 and lines[-1] == "FAILED: setup (again: .ci/run setup)"
    assert sum(line.startswith("== stage") for line in lines) == 1


def test_stages_that_pass(ci):
    code, lines = ci("lint", "types", "tests", "faults", "docs", "demo", "wheel")
    assert code == 0 and lines[-1] == "every stage passed"


def test_an_unknown_stage_is_refused(ci):
    code, lines = ci("lint", "linting")
    assert code == 2 and lines == [".ci/run: no stage linting; there are: " + _names(ci)]


def _names(ci) -> str:
    return " ".join(ci("--list")[1])


def test_every_test_belongs_to_a_stage():
    own = re.search(r'OWN_STAGE="(.+)"', (ROOT / ".ci" / "run").read_text())[1]
    folders = [part.removeprefix("--ignore=") for part in own.split()]
    assert all((ROOT / folder).is_dir() for folder in folders)
    text = (ROOT / ".ci" / "run").read_text() + (ROOT / "Makefile").read_text()
    assert all(len(re.findall(rf"(?<!--ignore=){folder}\b", text)) for folder in folders)


def test_make_help_tells_every_target():
    makefile = (ROOT / "Makefile").read_text()
    listed = re.search(r"\.PHONY: ((?:.*\\\n)*.*)", makefile)[1].replace("\\\n", " ").split()
    told = set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))
    assert told == set(listed)
    shown = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True,
                           text=True, check=True)  # fmt: skip
    assert {line.split()[0] for line in shown.stdout.splitlines()} == told
