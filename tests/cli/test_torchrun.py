"""What a command shows of itself where torchrun starts it several times."""

import re
import shlex
from pathlib import Path

import pytest
from command_line import train_arguments
from torch.distributed.run import get_args_parser

from vireid_fast import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("local_rank", "lines"), [("0", 1), ("1", 0)])
def test_what_is_wrong_before_processes_meet_one_of_a_machine_tells(
    vireid, root, tmp_path, monkeypatch, local_rank, lines
):
    pauses = []
    monkeypatch.setattr(cli.time, "sleep", pauses.append)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    for wrong in (("csdn.foo=1",), ("--method", "csdn")):
        outcome = vireid(*train_arguments(root, tmp_path / "run", *wrong))
        assert outcome.code == 1 and outcome.out == ""
        assert outcome.err.count("error: ") == len(outcome.err.splitlines()) == lines
    # Who is silent stays until the other has shown the error.
    assert len(pauses) == 2 * (1 - lines)


@pytest.mark.parametrize("shown_elsewhere", [False, True])
def test_an_error_that_another_process_shows_is_not_repeated(vireid, monkeypatch, shown_elsewhere):
    def fail():
        error = RuntimeError("training: it must work, got a failure.")
        error.shown_elsewhere = shown_elsewhere
        raise error

    monkeypatch.setattr(cli.time, "sleep", lambda _: None)
    monkeypatch.setattr(cli, "app", fail)
    outcome = vireid("train")
    assert outcome.code == 1
    want = "" if shown_elsewhere else "error: training: it must work, got a failure.\n"
    assert outcome.err == want


@pytest.mark.parametrize("command", ["pretrain", "demo"])
def test_what_is_not_shared_is_refused_under_torchrun(vireid, root, tmp_path, monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = ("--config", "csdn/sysu_mm01_small", "--data-root", root)
    error = vireid.error(command, "--run", tmp_path / "p", *options * (command == "pretrain"))
    assert f"{command}: WORLD_SIZE must be 1 or absent, got 2. Start it without torchrun." in error
    assert not (tmp_path / "p").exists()


def test_torchrun_takes_the_documented_commands():
    found = []
    for name in ("README.md", "docs/distributed.md"):
        text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
        found += re.findall(r"^torchrun (.+)$", text, re.MULTILINE)
    assert len(found) >= 3
    for command in found:
        # torchrun refuses --run, as its own --run-path begins alike.
        parsed = get_args_parser().parse_args(shlex.split(command))
        assert parsed.training_script == "vireid_fast" and parsed.module
        assert parsed.training_script_args[0] == "train" and "-r" in parsed.training_script_args
