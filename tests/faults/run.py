"""Run the whole fault suite and write what it tried to benchmarks/results/faults.json.

`make faults`. With names of test files these alone are run, and their part of the result replaced;
with --table the README's table is made from the result alone.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from vireid_fast import __version__
from vireid_fast._files import atomic_write
from vireid_fast._locks import exclusive

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "faults.json"
PAGES = (ROOT / "README.md", ROOT / "docs" / "faults.md")
MARKERS = "<!-- faults:begin -->", "<!-- faults:end -->"

ROWS = (
    ("training killed (SIGKILL) in the middle of a write, and resumed: every bit of weights, "
     "optimiser and metrics as uninterrupted", ("killed in a write",)),
    ("training killed at a random time, and resumed: likewise", ("killed at a random time",)),
    ("training with a full disk, a refused write, Ctrl-C or SIGTERM, and resumed: likewise",
     ("training, full", "training, refused", "stopped by")),
    ("a call of a write fails for lack of space: earlier files stay valid, one sentence names the "
     "file, nothing is left", (": full", ": limited")),
    ("a call of a write is refused (EACCES): likewise", (": refused",)),
    ("the process is killed in a call of a write: earlier files stay valid, the next run cleans up",
     (": killed",)),
    ("a second process writes the same run, set or cache, and is told or waits",
     ("second writers told", "trainings started together", "caches shared")),
    ("memory runs out in re-ranking, search or evaluation: smaller blocks, the same bits",
     ("out of memory, smaller blocks",)),
    ("memory has no room at all: an error that says what was needed",
     ("out of memory, named", "really out of memory")),
    ("a process of several dies: the others stop within a minute and name it",
     ("a process lost",)),
    ("files truncated, flipped or mutated: a clear error or the right result", ("mutated",)),
    ("hostile files and paths: refused in one sentence, nothing executed, no root left",
     ("hostile",)),
)  # fmt: skip
"""Lines of the table: what, and how the names of its counts begin, or end where that is a mode."""


def main() -> int:
    """Run and write; the exit code is that of the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="only make the table anew")
    parser.add_argument("files", nargs="*", help="test files of this folder; all by default")
    options = parser.parse_args()
    here = Path(__file__).parent
    names = options.files or sorted(path.name for path in here.glob("test_*.py"))
    failed = [] if options.table else [name for name in names if not _run(here / name)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    text = table(json.loads(RESULT.read_text(encoding="utf-8")))
    for page in PAGES:
        if page.exists():
            _put(page, text)
    return 0


def _run(file: Path) -> bool:
    """Run one file; its counts replace those that the result holds of it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.json"
        command = [
            sys.executable, "-m", "pytest", str(file), "--faults=full",
            "--faults-counts", str(counts),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            return False
        found = json.loads(counts.read_text()) if counts.exists() else {}
    with exclusive(RESULT.parent, "faults", name=f".{RESULT.name}.lock", wait=True):
        result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        result[file.name] = {
            "version": __version__, "torch": torch.__version__, "platform": platform.platform(),
            "seconds": round(time.monotonic() - began), "counts": found,
        }  # fmt: skip
        with atomic_write(RESULT) as temporary:
            text = json.dumps(dict(sorted(result.items())), indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
    return True


def table(result: dict) -> str:
    """The counts as Markdown; every count belongs to one line."""
    counts: Counter[str] = Counter()
    for part in result.values():
        counts.update(part["counts"])
    lines = ["| fault | times |", "| --- | ---: |"]
    left = set(counts)
    for what, names in ROWS:
        own = {
            name for name in left
            if any(name.endswith(n) if n.startswith(":") else name.startswith(n) for n in names)
        }  # fmt: skip
        left -= own
        if own:
            lines.append(f"| {what} | {sum(counts[name] for name in own):,} |")
    lines += [f"| {name} | {counts[name]:,} |" for name in sorted(left)]
    return "\n".join(lines)


def _put(page: Path, text: str) -> None:
    before = page.read_text(encoding="utf-8")
    if MARKERS[0] not in before:
        return
    head, rest = before.split(MARKERS[0], 1)
    tail = rest.split(MARKERS[1], 1)[1]
    with atomic_write(page) as temporary:
        temporary.write_text(f"{head}{MARKERS[0]}\n{text}\n{MARKERS[1]}{tail}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
