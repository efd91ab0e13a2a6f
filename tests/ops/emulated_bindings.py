"""The bindings of csrc/cuda, compiled by g++ with tests/cuda_emulation, as ops on CPU tensors.

Namespace and library become vireid_emulated; everything else, dispatcher included, is what a GPU
machine runs.
"""

import functools
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch._ops import OpOverload

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
DISPATCHER = "vireid_emulated"


def _run(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def _compile(source: Path, target: Path) -> str:
    from torch.utils.cpp_extension import include_paths

    folder = ROOT / "tests" / "cuda_emulation"
    _run(["g++", "-x", "c++", "-std=c++20", "-O1", "-g0", "-ffp-contract=off", "-fPIC", "-c",
          f"-Dvireid_fast={DISPATCHER}", "-DTORCH_TARGET_VERSION=0x020a000000000000",
          f"-I{folder}", *(f"-I{path}" for path in include_paths()), str(source), "-o",
          str(target)])  # fmt: skip
    return str(target)


@functools.cache
def load() -> None:
    """Compile and register the bindings, once per process."""
    from torch.utils.cpp_extension import library_paths

    if shutil.which("g++") is None:
        pytest.skip("g++ is absent")
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        targets = [Path(scratch) / f"{source.stem}.o" for source in SOURCES]
        objects = list(pool.map(_compile, SOURCES, targets))
        library = f"{scratch}/bindings.so"
        _run(["g++", "-shared", "-o", library, *objects, "-ltorch_cpu", "-lc10",
              *(f"-L{path}" for path in library_paths())])  # fmt: skip
        torch.ops.load_library(library)


@functools.cache
def emulated(op: OpOverload) -> OpOverload:
    """The binding of a raw op."""
    load()
    schema = str(op._schema).partition("::")[2]
    name = schema.partition("(")[0]
    torch.library.define(f"{DISPATCHER}::{name}", schema.removeprefix(name))
    return getattr(getattr(torch.ops, DISPATCHER), name).default
