"""README, CONTRIBUTING and docs/: commands and examples run, links lead somewhere."""

import re
import subprocess

import elsewhere
import pages
import pytest
import typer

from vireid_fast.cli import app

# Pages whose Python blocks are run by a test of their own, on names that it gives them; those that
# open a run are run here all the same.
PYTHON_TESTED_BY = {
    "README.md": "tests/test_readme_examples.py",
    "docs/large_galleries.md": "tests/retrieval/test_large_galleries_page.py",
    "docs/retrieval.md": "tests/retrieval/test_retrieval_documentation.py",
}
MAKEFILE = (pages.ROOT / "Makefile").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_command_and_example_of_a_page_runs(page, open_shell):
    """In the order of the page, in one folder that starts empty but for stand-ins."""
    shell, output = open_shell(), ""
    for block in pages.blocks(page):
        if block.language == "output":
            assert output == block.text, block
        elif block.file_name:
            # A script that a command of the page starts, with its one large number cut.
            text = block.text.replace("1_000_000", "40_000")
            (shell.folder / block.file_name).write_text(text, encoding="utf-8")
            assert any(block.file_name in other.script for other in pages.shell_blocks(page))
        elif block.language in pages.SHELLS:
            output = _ok(shell.run(block.script), block)
        elif block.language == "python" and (
            page not in PYTHON_TESTED_BY or "from_pretrained" in block.text
        ):
            output = _ok(shell.python(f"import vireid_fast\n{block.text}"), block)


def _ok(done, block):
    assert done.returncode == 0, f"{block}\n{block.text}\n{done.stdout[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("page", PYTHON_TESTED_BY)
def test_examples_with_a_test_of_their_own(page):
    test = (pages.ROOT / PYTHON_TESTED_BY[page]).read_text(encoding="utf-8")
    assert page.rpartition("/")[2] in test and "exec(compile(" in test


def test_a_command_that_no_test_runs_is_found(open_shell):
    for unknown in ("make coffee", "pip install nothing", "python3 -m nothing", "vireid nothing"):
        assert open_shell().run(f"true\n{unknown}\ntrue").returncode != 0


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
