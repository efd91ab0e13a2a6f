"""Reading many files in a process of its own, which may crash, hang or run out of memory."""

import faulthandler
import hashlib
import importlib
import os
import resource
import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from processes import CONTEXT

from vireid_fast.data.table import DatasetError

SECONDS = 10
"""Processor time that one file may take, which a busy machine does not change."""
PATIENCE = 300
"""Seconds that one file may take; only what waits for ever takes as long."""
SPACE = 4 << 30
"""Address space that the process may take beyond its own."""
GROWTH = 400 << 20
"""Bytes that reading may really use: the files are small, decoders have buffers."""
SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        kind: "result", "error", or what must not be: "raised" (an error that is none of ours, or
            does not name the file in one line), "crash", "hang", "memory", "changed".
        detail: What was read, in short, or the message.
    """

    kind: str
    detail: str

    @property
    def is_good(self) -> bool:
        return self.kind in ("result", "error")


def read_all(
    reader: str, folder: Path, target: Path, contents: Sequence[bytes | None]
) -> list[Outcome]:
    """Put each content into `target` in turn and read its folder.

    Args:
        reader: "module:function" of a function of the folder that returns text.
        folder: What is read; errors name it.
        target: The file to damage; it has its old content again afterwards.
        contents: What to put there; None leaves the file as it is.

    Returns:
        One outcome per content.
    """
    log = folder.with_name(f"{folder.name}.log")
    whole, outcomes = target.read_bytes(), []
    while len(outcomes) < len(contents):
        log.write_text("", encoding="utf-8")
        process = CONTEXT.Process(
            target=_read_in_turn, args=(reader, folder, target, contents[len(outcomes) :], log)
        )
        process.start()
        process.join()
        lines = log.read_text(encoding="utf-8", errors="replace").split(SEPARATOR)[:-1]
        outcomes += [Outcome(*line.split(":", 1)) for line in lines]
        if process.exitcode and len(outcomes) < len(contents):
            is_late = process.exitcode in (-signal.SIGALRM, -signal.SIGPROF)
            kind = "hang" if is_late else "crash"
            outcomes.append(Outcome(kind, f"exit code {process.exitcode}"))
    target.write_bytes(whole)
    log.unlink()
    return outcomes


def _read_in_turn(
    reader: str, folder: Path, target: Path, contents: Sequence[bytes | None], log: Path
) -> None:
    faulthandler.enable()
    os.environ["OMP_NUM_THREADS"] = "1"
    module, name = reader.split(":")
    read = getattr(importlib.import_module(module), name)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPACE,) * 2)
    for content in contents:
        if content is not None:
            target.write_bytes(content)
        outcome = _watched(read, folder)
        with log.open("a", encoding="utf-8", errors="replace") as stream:
            stream.write(f"{outcome.kind}:{outcome.detail}{SEPARATOR}")


def _watched(read, folder: Path) -> Outcome:
    before, peak = state(folder), _peak()
    # The default action of the signals ends the process also while it is in native code.
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(PATIENCE)
    try:
        outcome = Outcome("result", str(read(folder)))
    except (ValueError, OSError) as error:
        outcome = _judged(error, folder)
    except Exception:
        outcome = Outcome("raised", traceback.format_exc())
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    if state(folder) != before:
        return Outcome("changed", outcome.detail)
    if _peak() - peak > GROWTH:
        return Outcome("memory", f"{(_peak() - peak) >> 20} MiB; {outcome.detail}")
    return outcome


def _judged(error: Exception, folder: Path) -> Outcome:
    """A good error is a sentence that names the file; a list of findings may be several."""
    text = str(error)
    lines = text.splitlines()
    is_one = len(lines) == 1 or isinstance(error, DatasetError)
    if is_one and str(folder) in lines[0] and "\x1b" not in text:
        return Outcome("error", text.replace(SEPARATOR, "?"))
    trace = "".join(traceback.format_exception(error))
    return Outcome("raised", f"no sentence with the file's name: {trace}")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def state(folder: Path) -> dict[str, str]:
    """Names and digests of all files below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
