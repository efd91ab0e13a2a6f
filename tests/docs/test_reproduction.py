"""The commands of docs/reproduce.md run; apart from the other pages, as they take as long."""

import running


def test_every_command_of_the_page_runs(open_shell):
    running.run_page("docs/reproduce.md", open_shell())
