"""A process that has imported everything and forks one child per job, in which calls may fail.

`Zygote` starts this file with `failing_calls.c` preloaded; each job then costs a fork instead of an
interpreter with torch. Jobs are lines of JSON on standard input, results lines on standard output.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODES = {"count": 0, "full": 1, "refused": 2, "killed": 3, "interrupted": 4, "terminated": 5}
KINDS = ("open", "write", "flush", "rename", "make", "remove", "cut")
"""As in failing_calls.c."""

PATIENCE = 120.0
"""Seconds until a job counts as hanging."""


@dataclass(frozen=True)
class Job:
    """What a child does, and what happens to it.

    Attributes:
        work: "module:function", called with `arguments`.
        arguments: Plain values.
        root: Folder below which changing calls are counted.
        mode: "count" (nothing fails), "full" (disk), "refused", "killed", "interrupted" (SIGINT)
            or "terminated" (SIGTERM).
        at: Number of the call at which it happens.
        signals: (seconds after the start, signal) to send to the child.
        environment: Variables to set.
        limits: Names of RLIMIT_* to set, such as {"FSIZE": 1000}.
    """

    work: str
    arguments: list[Any]
    root: str = ""
    mode: str = "count"
    at: int = -1
    signals: list[tuple[float, int]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        code: Exit code; -N for signal N; None for a job that hung and was ended.
        out: What it printed.
        err: What it printed on standard error.
        calls: Changing calls below the root, by kind and as "all", and as "hit" the kind of the one
            that failed; empty for a killed job.
        seconds: How long it took.
    """

    code: int | None
    out: str
    err: str
    calls: dict[str, Any]
    seconds: float


class Zygote:
    """The parent's end: `run` jobs, one at a time."""

    def __init__(self, library: Path) -> None:
        environment = {
            **os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "engine")]),
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(library)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE.parents[1],
        )  # fmt: skip

    def run(self, job: Job) -> Ended:
        """Do a job in a fresh child."""
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait(30)


def build_library(folder: Path) -> Path:
    """Compile failing_calls.c.

    Raises:
        FileNotFoundError: There is no C compiler.
    """
    target = folder / "failing_calls.so"
    source = HERE / "failing_calls.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", target, source, "-ldl"], check=True)
    return target


def main() -> None:
    """Fork a child for each line of standard input."""
    library = ctypes.CDLL(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_everything()
    for line in sys.stdin:
        answers.write(json.dumps(_do(Job(**json.loads(line)), library)) + "\n")
        answers.flush()


def _import_everything() -> None:
    import torch
    import torch._dynamo

    torch.set_num_threads(1)
    for name in (
        "vireid_fast.cli", "vireid_fast.engine.workflow", "vireid_fast.engine.pretraining",
        "vireid_fast.report.page", "writers", "tiny_runs",
    ):  # fmt: skip
        importlib.import_module(name)


def _do(job: Job, library: ctypes.CDLL) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / name for name in ("out", "err", "calls")]
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _be_child(job, library, files)
        code = _await(child, job, began)
        seconds = time.monotonic() - began
        calls = json.loads(files[2].read_text()) if files[2].exists() else {}
        return asdict(Ended(code, files[0].read_text(), files[1].read_text(), calls, seconds))


def _await(child: int, job: Job, began: float) -> int | None:
    due = sorted(job.signals)
    while time.monotonic() - began < PATIENCE:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        while due and time.monotonic() - began >= due[0][0]:
            os.kill(child, due.pop(0)[1])
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _be_child(job: Job, library: ctypes.CDLL, files: list[Path]) -> None:
    """Run the job and leave this process with `os._exit`, as nothing of the parent is ours."""
    import resource

    code = 3
    try:
        for number, path in zip((1, 2), files, strict=False):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        os.environ |= job.environment
        # Ignored where the tests run in the background of a shell.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        module, name = job.work.split(":")
        work = getattr(importlib.import_module(module), name)
        for limit, value in job.limits.items():
            own = getattr(resource, f"RLIMIT_{limit}")
            resource.setrlimit(own, (value, resource.getrlimit(own)[1]))
        if job.root:
            library.fault_arm(os.fsencode(job.root), MODES[job.mode], ctypes.c_long(job.at))
        code = _exit_code(work, job.arguments)
        library.fault_disarm()
        found = {kind: library.fault_seen(n) for n, kind in enumerate(KINDS)}
        hit = library.fault_hit()
        calls = {"all": library.fault_seen(-1), **found, "hit": KINDS[hit] if hit >= 0 else ""}
        files[2].write_text(json.dumps(calls))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _exit_code(work: Any, arguments: list[Any]) -> int:
    try:
        work(*arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    main()
