"""Run the benchmarks so that a crash in one case costs no other one.

python benchmarks/run.py [ARGUMENTS OF pytest]    # make bench

All cases run in one pytest process. If it dies within a case, or a case leaves the GPU unusable, a
new process goes on with the case after it. Results are written case by case. The exit status is
that of pytest (1: a gate or a case failed), or 1 after a crash, whatever the others did.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
_INTERRUPTED = 2


def run_all(arguments: list[str]) -> int:
    """Run until every case was reached.

    Args:
        arguments: For pytest.

    Returns:
        The exit status.
    """
    reached: list[str] = []
    crashed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        journal, skip = Path(folder) / "journal", Path(folder) / "skip"
        command = [sys.executable, "-m", "pytest", str(HERE), *arguments,
                   "--journal", str(journal), "--skip-cases", str(skip)]  # fmt: skip
        while True:
            skip.write_text("\n".join(reached), encoding="utf-8")
            journal.write_text("", encoding="utf-8")
            status = subprocess.run(command, check=False).returncode
            started, finished = _read(journal)
            reached += started
            lost = [case for case in started if case not in finished]
            if not lost or status == _INTERRUPTED:
                break
            crashed += lost
            print(f"\n{lost[0]} ended pytest with {status}; going on after it\n", flush=True)
    for case in crashed:
        print(f"crashed: {case}")
    return 1 if crashed else status


def _read(journal: Path) -> tuple[list[str], set[str]]:
    """Cases that started, in order, and those that finished."""
    text = journal.read_text(encoding="utf-8") if journal.exists() else ""
    lines = [line.partition(" ") for line in text.splitlines()]
    started = [case for word, _, case in lines if word == "start"]
    return started, {case for word, _, case in lines if word == "finish"}


if __name__ == "__main__":
    sys.exit(run_all(sys.argv[1:]))
