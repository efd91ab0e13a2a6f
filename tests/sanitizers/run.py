"""Run the op tests on native code built with sanitizers: `python tests/sanitizers/run.py address`.

`address` is AddressSanitizer with UndefinedBehaviorSanitizer, `thread` is ThreadSanitizer. The
extensions are built by setup.py into build/sanitizers/<kind> by a `g++` that adds the sanitizer's
flags and stands first on PATH; so what tests compile themselves, the CUDA kernels emulated on the
CPU, is checked as well. The first finding ends the process, which fails the run. Counts of passed
tests go to tests/sanitizers/counts.json.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COUNTS = ROOT / "tests" / "sanitizers" / "counts.json"
DEBUG = ["-g1", "-O1", "-fno-omit-frame-pointer"]
FLAGS = {
    "address": [
        "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", *DEBUG,
    ],
    "undefined": ["-fsanitize=undefined", "-fno-sanitize-recover=undefined", *DEBUG],
    "thread": ["-fsanitize=thread", *DEBUG],
}  # fmt: skip

# The runtime has to come first, and finds the C++ library's functions only if that is loaded.
PRELOADED = {
    "address": ["libasan.so", "libubsan.so", "libstdc++.so"],
    "undefined": ["libubsan.so", "libstdc++.so"],
    "thread": ["libtsan.so", "libstdc++.so"],
}
# Python and torch keep much until the end, so what is not freed says nothing.
OPTIONS = {
    "address": {
        # Tests ask for more memory than there is, which must raise.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    },
    "undefined": {"UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"},
    "thread": {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66:report_signal_unsafe=0"},
}
# Functions of faults.cpp that must end the process.
FAULTS = {
    "address": ["overflow_heap", "overflow_integer"], "undefined": ["overflow_integer"],
    "thread": ["race"],
}  # fmt: skip
# Compiled by the tests themselves; a block's threads are fibers, which only this one can follow.
EMULATED = ["test_cuda_bindings.py", "test_cuda_emulated.py"]
NOT_NATIVE = ["test_kernels_compile.py", "test_triton_interpret.py"]
OPS = ROOT / "tests" / "ops"
OWN_KERNELS = [path for path in sorted(OPS.glob("test_*.py"))
               if path.name not in (*EMULATED, *NOT_NATIVE)]  # fmt: skip
# They start processes with a limit in memory or time, which a sanitizer needs more of.
LIMITED = ["test_memory_mapped.py", "test_sharded.py", "test_sharded_errors.py",
           "test_large_galleries_page.py"]  # fmt: skip
RETRIEVAL = [path for path in sorted((ROOT / "tests" / "retrieval").glob("test_*.py"))
             if path.name not in LIMITED]  # fmt: skip
TESTS = {
    "address": [*OWN_KERNELS, *RETRIEVAL, ROOT / "tests" / "data" / "test_samplers.py"],
    "undefined": [OPS / name for name in EMULATED],
    "thread": [*OWN_KERNELS, *RETRIEVAL],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=FLAGS)
    parser.add_argument("--build-only", action="store_true", help="Build, run nothing.")
    parser.add_argument("pytest", nargs=argparse.REMAINDER,
                        help="Arguments of pytest instead of all op tests.")  # fmt: skip
    arguments = parser.parse_args()
    folder = ROOT / "build" / "sanitizers" / arguments.kind
    environment = prepare(folder, FLAGS[arguments.kind])
    if arguments.kind != "undefined":
        build(folder, environment)
    if not arguments.build_only:
        sys.exit(run(arguments.kind, folder, environment, arguments.pytest))


def prepare(folder: Path, flags: list[str]) -> dict[str, str]:
    """Write the compiler that adds `flags`; returns the environment in which it comes first."""
    compiler = shutil.which("g++")
    if compiler is None:
        sys.exit("sanitizers: g++ must be installed, found none.")
    wrapper = folder / "bin" / "g++"
    wrapper.parent.mkdir(parents=True, exist_ok=True)
    # The last flags count, so these override the optimisation of setup.py. The compiler itself
    # runs without the sanitizer that is preloaded into the tests.
    wrapper.write_text(
        f'#!/bin/sh\nunset LD_PRELOAD\nexec {compiler} "$@" {shlex.join(flags)}\n', "utf-8"
    )
    wrapper.chmod(0o755)
    return {
        **os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}", "CXX": "g++",
        "LDSHARED": "g++ -shared", "LDCXXSHARED": "g++ -shared", "VIREID_BUILD": "cpu",
    }  # fmt: skip


def build(folder: Path, environment: dict[str, str]) -> None:
    """Build the package with its extensions into folder/lib; ninja compiles what has changed."""
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build", "--build-temp", str(folder / "objects"),
         "--build-lib", str(folder / "lib")],
        cwd=ROOT, env={**environment, "PYTHONWARNINGS": "ignore"}, check=True,
    )  # fmt: skip


def run(kind: str, folder: Path, environment: dict[str, str], arguments: list[str]) -> int:
    """Run the tests on the instrumented build; returns pytest's exit code."""
    preloaded = [library(name) for name in PRELOADED[kind]]
    if kind == "thread":
        # torch's loop with threads that ThreadSanitizer sees.
        preloaded.append(str(compiled("parallel_for", folder, environment)))
    package = folder / "lib" if (folder / "lib").is_dir() else ROOT
    environment |= {
        "LD_PRELOAD": ":".join(preloaded), "PYTHONPATH": str(package), **OPTIONS[kind],
    }  # fmt: skip
    # torch's own loops: their threads are not seen to wait for each other.
    environment["OMP_NUM_THREADS"] = "1" if kind == "thread" else "2"
    environment |= {"OMP_THREAD_LIMIT": "1"} if kind == "thread" else {}
    where = "import vireid_fast._extension as e; print(e._C.__file__, e.host.__file__)"
    # Not from ROOT, whose own package would come first.
    loaded = subprocess.run([sys.executable, "-c", where], cwd=folder, env=environment, check=True,
                            capture_output=True, text=True).stdout.split()  # fmt: skip
    if not all(Path(file).is_relative_to(package) for file in loaded):
        sys.exit(f"sanitizers: the build in {package} must be loaded, got {loaded}.")
    require_vigilance(kind, folder, environment)
    # What a sanitizer says goes to the file descriptor that pytest would catch otherwise.
    command = [sys.executable, "-m", "pytest", f"--rootdir={ROOT}", f"-c={ROOT / 'pyproject.toml'}",
               "-p", "no:cacheprovider", "--capture=sys",
               *(arguments or map(str, TESTS[kind]))]  # fmt: skip
    tail: deque[str] = deque(maxlen=3)
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE,
                          text=True) as process:  # fmt: skip
        for line in process.stdout:
            print(line, end="", flush=True)
            tail.append(line)
    if process.returncode == 0 and not arguments:
        record(kind, "".join(tail))
    return process.returncode


def require_vigilance(kind: str, folder: Path, environment: dict[str, str]) -> None:
    """Leave unless the faults of faults.cpp are found in this environment."""
    target = compiled("faults", folder, environment, *["-DWITH_THREADS"] * (kind == "thread"))
    for fault in FAULTS[kind]:
        call = f"import ctypes; ctypes.CDLL({str(target)!r}).{fault}(5)"
        done = subprocess.run([sys.executable, "-c", call], cwd=folder, env=environment,
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode == 0 or not re.search(r"Sanitizer|runtime error", done.stderr):
            sys.exit(f"sanitizers: {fault} must be found, got {done.returncode}: {done.stderr}")
        print(f"{kind}: {fault} is found", flush=True)


def compiled(name: str, folder: Path, environment: dict[str, str], *flags: str) -> Path:
    """Compile a file of this folder into a library."""
    target, source = folder / f"{name}.so", Path(__file__).with_name(f"{name}.cpp")
    command = ["g++", "-std=c++20", "-shared", "-fPIC", *flags, str(source), "-o", str(target)]
    subprocess.run(command, env=environment, check=True)
    return target


def library(name: str) -> str:
    """Path of a library of the compiler."""
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True)
    return str(Path(found.stdout.strip()).resolve())


def record(kind: str, summary: str) -> None:
    """Write how many tests passed into the counts file."""
    counts = json.loads(COUNTS.read_text("utf-8")) if COUNTS.is_file() else {}
    words = re.findall(r"(\d+) (passed|skipped)", summary)
    counts[kind] = {word: int(number) for number, word in words}
    COUNTS.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
