"""README, CONTRIBUTING and docs/: commands and examples run, links lead somewhere."""

import re
import subprocess

import elsewhere
import pages
import pytest
import running
import typer

from vireid_fast.cli import app

# In a file of its own, so that two processes share the work.
LONGEST = "docs/reproduce.md"
MAKEFILE = (pages.ROOT / "Makefile").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands
LANGUAGES = {*pages.SHELLS, "python", "output", "text", "csv", "diff"}
A_COMMAND = r"(?:vireid|make|pip|python3?|torchrun|git|ruff|docker|conda|curl|wget|\.ci/run) \S"


@pytest.mark.parametrize("page", [page for page in pages.PAGES if page != LONGEST])
def test_every_command_and_example_of_a_page_runs(page, open_shell):
    running.run_page(page, open_shell())


@pytest.mark.parametrize("page", running.PYTHON_TESTED_BY)
def test_examples_with_a_test_of_their_own(page):
    test = (pages.ROOT / running.PYTHON_TESTED_BY[page]).read_text(encoding="utf-8")
    assert page.rpartition("/")[2] in test and "exec(compile(" in test


def test_a_command_that_no_test_runs_is_found(open_shell):
    for unknown in ("make coffee", "pip install nothing", "python3 -m nothing", "vireid nothing"):
        assert open_shell().run(f"true\n{unknown}\ntrue").returncode != 0


def commands_that_nothing_runs(page):
    """Those in blocks of another language, in blocks within lists, or in indented text."""
    shown = {b for b in pages.blocks(page) if b.language not in (*pages.SHELLS, "python", "output")}
    hidden = [str(b) for b in shown if b.language not in LANGUAGES]
    hidden += [row for b in shown for row in re.findall(rf"^(?:\$ )?{A_COMMAND}.*", b.text, re.M)]
    prose = pages.prose(page)
    hidden += re.findall(rf"^(?:(?: {{4,}}|\t)(?:\$ )?{A_COMMAND}|\s*\$ ).*", prose, re.M)
    return hidden + re.findall(r"^.*(?:```|~~~).*", prose, re.M)


@pytest.mark.parametrize("page", pages.PAGES)
def test_commands_stand_in_blocks_that_are_run(page):
    assert commands_that_nothing_runs(page) == []


@pytest.mark.parametrize(
    "text",
    ["    vireid nothing\n", "```\nvireid x\n```\n", "```text\n$ make x\n```\n", "$ ls\n",
     "- so:\n\n  ```bash\n  vireid x\n  ```\n", "```fish\nls\n```\n", "~~~bash\nls\n~~~\n"],
)  # fmt: skip
def test_a_command_that_hides_is_found(text, monkeypatch):
    monkeypatch.setattr(pages, "read", lambda page: f"# Title\n\n{text}\nEnd.\n")
    assert commands_that_nothing_runs("page")


@pytest.mark.parametrize("command", elsewhere.COMMANDS)
def test_what_runs_elsewhere_does(command):
    path, line = elsewhere.COMMANDS[command]
    assert line in (pages.ROOT / path).read_text(encoding="utf-8")
    written = "".join(b.script for page in pages.PAGES for b in pages.shell_blocks(page))
    rows = (re.sub(r"\s+#.*|[\"']", "", row) for row in re.split(r"\n|&&", written))
    assert command in {row.strip().removeprefix(".venv/bin/") for row in rows}, "stale entry"


def test_the_script_for_a_gpu_is_bash():
    subprocess.run(["bash", "-n", pages.ROOT / "benchmarks" / "gpu.sh"], check=True)


@pytest.mark.parametrize("page", pages.PAGES)
def test_targets_of_make_exist(page):
    text = pages.read(page)
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize("page", pages.PAGES)
def test_commands_in_a_line_have_the_options_that_they_name(page):
    for written in re.findall(r"`vireid ([^`]+)`", pages.prose(page)):
        name, *words = written.split()
        assert name in COMMANDS or name.startswith("-"), written
        known = {o for p in COMMANDS[name].params for o in p.opts} if name in COMMANDS else set()
        for option in words:
            if option.startswith("--"):
                assert option in known, written


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_lead_to_files_and_headings(page):
    for target in pages.links(page):
        path, _, anchor = target.partition("#")
        file = (pages.ROOT / page).parent / path if path else pages.ROOT / page
        assert file.exists(), target
        if anchor:
            named = str(file.resolve().relative_to(pages.ROOT))
            assert anchor in pages.anchors(named), target


def test_the_index_names_every_page():
    index = pages.links("docs/README.md")
    named = {target.partition("#")[0] for target in index}
    missing = {page.removeprefix("docs/") for page in pages.PAGES if page.startswith("docs/")}
    assert missing - {"README.md"} <= named
