"""Atomic writing: the old file survives whatever happens on the way."""

import errno
import os
import resource
import signal
import subprocess
import sys

import pytest

from vireid_fast import _files
from vireid_fast._checks import WriteError
from vireid_fast._files import append_line, atomic_folder, atomic_write


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


def _abandoned(target, folder=False):
    path = target.with_name(f".{target.name}.0123abcd.tmp")
    if folder:
        path.mkdir()
        (path / "part").touch()
    else:
        path.write_text("half")
    return path


def test_the_next_write_removes_what_killed_writers_left(tmp_path):
    target = tmp_path / "a[1].json"
    foreign = [tmp_path / ".a[1].json.tmp", tmp_path / ".a1.json.0123abcd.tmp"]
    for path in foreign:
        path.touch()
    _abandoned(target)
    with atomic_write(target) as temporary:
        temporary.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == sorted(["a[1].json", *(path.name for path in foreign)])


def test_the_file_of_a_live_writer_stays(tmp_path):
    target = tmp_path / "result.json"
    with atomic_write(target) as first:
        first.write_text("first")
        with atomic_write(target) as second:
            second.write_text("second")
        assert first.exists()
    assert target.read_text() == "first"
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_failed_write_names_the_file_and_the_reason(tmp_path):
    target = tmp_path / "result.json"
    want = r"write: .*/result\.json must be written, got No space left on device\. Free space or"
    with pytest.raises(WriteError, match=want) as caught, atomic_write(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(target)
    with pytest.raises(FileNotFoundError, match="other"), atomic_write(target):
        (tmp_path / "other").read_text()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("swap", [True, False])
def test_a_folder_is_replaced_in_one_step(tmp_path, monkeypatch, swap):
    if not swap:
        monkeypatch.setattr(_files, "_exchange", lambda *_: False)
    target = tmp_path / "model"
    _abandoned(target, folder=True)
    for number in ("1", "2"):
        with atomic_folder(target) as temporary:
            (temporary / number).write_text(number)
        assert os.listdir(target) == [number]
        assert os.listdir(tmp_path) == ["model"]
    with pytest.raises(LookupError), atomic_folder(target) as temporary:
        (temporary / "3").touch()
        raise LookupError
    assert os.listdir(target) == ["2"] and os.listdir(tmp_path) == ["model"]
    (tmp_path / "file").touch()
    want = "must be a folder"
    with pytest.raises(NotADirectoryError, match=want), atomic_folder(tmp_path / "file"):
        pass


def test_the_kernel_swaps_folders_here(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not _files._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot swap two names")
    assert os.listdir(tmp_path / "a") == ["b"]
    with pytest.raises(FileNotFoundError):
        _files._exchange(tmp_path / "absent", tmp_path / "b")


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_line(path, "first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(WriteError, match=r"metrics\.jsonl must be written, got File too large"):
            append_line(path, "second line")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"first\n"
    append_line(path, "third")
    assert path.read_bytes() == b"first\nthird\n"
