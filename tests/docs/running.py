"""Runs a page: its commands and self-contained examples, in their order."""

import pages

# Pages whose Python blocks are run by a test of their own, on names that it gives them; those that
# open a run are run here all the same.
PYTHON_TESTED_BY = {
    "README.md": "tests/test_readme_examples.py",
    "docs/large_galleries.md": "tests/retrieval/test_large_galleries_page.py",
    "docs/retrieval.md": "tests/retrieval/test_retrieval_documentation.py",
}


def run_page(page, shell):
    """Run what a page shows in one folder that starts empty but for stand-ins."""
    output = ""
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
