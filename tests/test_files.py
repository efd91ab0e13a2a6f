"""Atomic writing: the old file survives whatever happens on the way."""

import os
import signal
import subprocess
import sys

import pytest

from vireid_fast._files import atomic_write


def test_replaces_the_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "deep" / "result.json"
    for text in ("first", "second"):
        with atomic_write(target) as temporary:
            temporary.write_text(text)
        assert target.read_text() == text
        assert os.listdir(target.parent) == ["result.json"]


def test_failure_keeps_the_previous_content(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("before")
    with pytest.raises(OSError, match="disk full"), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["result.json"]


def test_killed_process_keeps_the_previous_content(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("before")
    program = (
        "import os, signal, sys; from vireid_fast._files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "before"
    assert all(name == "result.json" or name.endswith(".tmp") for name in os.listdir(tmp_path))


def test_result_follows_links_and_the_umask(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("before")
    link.symlink_to(real)
    with atomic_write(link) as temporary:
        temporary.write_text("after")
    assert link.is_symlink() and real.read_text() == "after"
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert real.stat().st_mode == ordinary.stat().st_mode


def test_rejects_a_folder(tmp_path):
    with pytest.raises(IsADirectoryError, match="must be a file"), atomic_write(tmp_path):
        pass
