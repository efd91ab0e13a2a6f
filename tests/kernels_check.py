"""Compile every GPU kernel without a GPU and hold it to its declared budget.

python tests/kernels_check.py

Links the CUDA library for sm_80 and sm_90a against the installed torch (a CPU build will do) and
compiles every Triton kernel for the same targets. A kernel that takes more registers, local memory
or shared memory than csrc/cuda/budgets.json or its triton.py declares fails the check, and so does
one with fewer tensor-core instructions.

What was compiled is remembered in build/kernels under a hash of all that it depends on, so that the
tests and this command compile the same sources once.

Exit codes: 0 all within budget, 1 a kernel exceeds its budget or does not compile, 3 a compiler is
absent (what the other one could check was checked).
"""

import hashlib
import importlib
import json
import multiprocessing
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CUDA_TARGETS = ("80", "90a")
REMEMBERED = ROOT / "build" / "kernels"
LIMITS = ("registers", "spill_bytes", "shared_bytes")
TENSOR_CORE = "tensor_core"


class CheckError(Exception):
    """A kernel does not compile, or its budget is not declared."""


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel takes: per thread, and shared memory per block.

    `tensor_core` counts its tensor-core instructions.
    """

    kernel: str
    target: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    tensor_core: int = 0


@dataclass(frozen=True)
class Result:
    """Usage beside its budget; "tensor_core" of a budget is a minimum, 0 if absent."""

    usage: Usage
    budget: Mapping[str, int]

    @property
    def excess(self) -> list[str]:
        """Names of the limits that the kernel breaks."""
        broken = [name for name in LIMITS if getattr(self.usage, name) > self.budget[name]]
        if self.usage.tensor_core < self.budget.get(TENSOR_CORE, 0):
            broken.append(TENSOR_CORE)
        return broken


def remembered(
    compiled: Callable[[], list[Usage]], sources: Iterable[Path], tools: str
) -> list[Usage]:
    """What compiling the sources gave, from an earlier time if neither they nor the tools changed.

    Args:
        compiled: Compiles; not called if its result is known.
        sources: Every file that the result depends on, this one aside.
        tools: Names the compilers and their versions.
    """
    digest = hashlib.sha256(tools.encode())
    for path in sorted({*sources, Path(__file__)}):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    file = REMEMBERED / f"{digest.hexdigest()}.json"
    if file.exists():
        return [Usage(**usage) for usage in json.loads(file.read_text())]
    found = compiled()
    REMEMBERED.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps([asdict(usage) for usage in found]))
    part.replace(file)
    return found


def parse_ptxas(text: str) -> Iterator[Usage]:
    """Read the kernels out of the (demangled) report of `ptxas -v`."""
    kernel = target = None
    spill = 0
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '(.+)' for '(sm_\w+)'", line):
            kernel, target, spill = found[1], found[2], 0
        elif found := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spill = max(int(found[1]), int(found[2]))
        elif kernel and (found := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            yield Usage(kernel, target, int(found[1]), spill, int(shared[1]) if shared else 0)
            kernel = None


def compile_cuda(sources: Iterable[Path], library: Path) -> str:
    """Compile and link CUDA sources into a library; returns the demangled report of ptxas."""
    from torch.utils.cpp_extension import include_paths

    targets = [f"-gencode=arch=compute_{t},code=sm_{t}" for t in CUDA_TARGETS]
    command = ["nvcc", "-O3", "-std=c++20", "-DUSE_CUDA", "-shared", "-cudart", "static", "-t", "0",
               "-DTORCH_TARGET_VERSION=0x020a000000000000", "-Xcompiler", "-fPIC", "-Xptxas", "-v",
               *targets, *(f"-I{p}" for p in include_paths()), "-o", str(library),
               *(str(s) for s in sources)]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise CheckError(f"nvcc failed:\n{run.stdout}{run.stderr}")
    demangle = subprocess.run(["c++filt"], input=run.stdout + run.stderr, capture_output=True,
                              text=True, check=True)  # fmt: skip
    return demangle.stdout


def budget_of(kernel: str, budgets: Mapping[str, Mapping[str, int]]) -> Mapping[str, int]:
    """The declared budget whose key occurs in the kernel's name."""
    found = [budget for key, budget in budgets.items() if key in kernel]
    if len(found) != 1:
        raise CheckError(f"{kernel}: expected one entry in budgets.json, found {len(found)}")
    return found[0]


def unstable_symbols(library: Path) -> list[str]:
    """C++ symbols of torch that a library needs: only the C functions of the stable ABI may be."""
    run = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True,
                         text=True, check=True)  # fmt: skip
    names = [line.split()[-1] for line in run.stdout.splitlines()]
    return [name for name in names if re.match(r"_Z\w*?(2at|3c10|5torch|6caffe2)", name)]


def check_cuda(
    folder: Path = ROOT / "csrc" / "cuda", budgets: Mapping[str, Mapping[str, int]] | None = None
) -> list[Result]:
    """Compile the CUDA library of a folder and compare each kernel with its budget."""
    if budgets is None:
        budgets = json.loads((folder / "budgets.json").read_text())
    if folder.is_relative_to(ROOT):
        nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
        sources = (path for path in (ROOT / "csrc").rglob("*") if path.is_file())
        usages = remembered(lambda: link_cuda(folder), sources, f"torch {version('torch')} {nvcc}")
    else:
        usages = link_cuda(folder)
    return [Result(usage, budget_of(usage.kernel, budgets)) for usage in usages]


def link_cuda(folder: Path) -> list[Usage]:
    """Compile and link the CUDA library of a folder; what its kernels take."""
    with tempfile.TemporaryDirectory() as scratch:
        library = Path(scratch) / "library.so"
        report = compile_cuda(sorted(folder.glob("*.cu")), library)
        if unstable := unstable_symbols(library):
            raise CheckError(f"the CUDA library needs unstable symbols: {', '.join(unstable)}")
    return list(parse_ptxas(report))


def triton_cases() -> Iterator[tuple[str, object]]:
    """Every `AHEAD_OF_TIME` entry of the modules vireid_fast.ops.*.triton."""
    import vireid_fast.ops as ops

    for package in pkgutil.iter_modules(ops.__path__):
        name = f"{ops.__name__}.{package.name}.triton"
        if package.ispkg and find_spec(name) is not None:
            for case in importlib.import_module(name).AHEAD_OF_TIME:
                yield package.name, case


def compile_triton(case, capability: int) -> Usage:
    """Compile one Triton kernel for a compute capability and read its resources."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = case.kernel.arg_names
    signature = {name: case.signature.get(name, "constexpr") for name in names}
    constants = {(names.index(n),): value for n, value in case.constants.items()}
    # What a launch with dense, aligned tensors specialises on.
    aligned = [n for n, t in case.signature.items() if t.startswith("*") or n.startswith("stride_")]
    source = ASTSource(
        case.kernel, signature, constants,
        {(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
    )  # fmt: skip
    compiled = triton.compile(
        source, target=GPUTarget("cuda", capability, 32),
        options={"num_warps": case.num_warps, "num_stages": case.num_stages},
    )  # fmt: skip
    dtype = next(t for t in case.signature.values() if t.startswith("*")).removeprefix("*")
    name = f"{case.kernel.__name__.strip('_')}<{dtype}> {case.label}".rstrip()
    registers, stack, tensor_core = read_cubin(compiled.asm["cubin"])
    shared = compiled.metadata.shared
    return Usage(name, f"sm_{capability}", registers, stack, shared, tensor_core)


def read_cubin(cubin: bytes) -> tuple[int, int, int]:
    """Registers and stack bytes (spills, local arrays) per thread, tensor-core instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _bundled_tool("cuobjdump", "-res-usage", file.name)
        listing = _bundled_tool("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise CheckError(f"cuobjdump gave no resource usage: {usage}")
    return int(found[1]), int(found[2]), len(re.findall(r"\b(?:HMMA|HGMMA)\.", listing))


def _bundled_tool(name: str, *arguments: str) -> str:
    """Output of a CUDA binary that Triton brings along."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / name
    run = subprocess.run([str(tool), *arguments], capture_output=True, text=True)
    if run.returncode != 0:
        raise CheckError(f"{name} failed: {run.stderr}")
    return run.stdout


def triton_budget(case) -> dict[str, int]:
    """What a Triton kernel declares."""
    return {name: getattr(case, name) for name in (*LIMITS, TENSOR_CORE)}


def _compile_case(number: int, capability: int) -> Usage:
    # The case is looked up anew: a kernel cannot travel between processes.
    _, case = list(triton_cases())[number]
    return compile_triton(case, capability)


def check_triton() -> list[Result]:
    """Compile every declared Triton kernel, in parallel, and compare it with its budget."""
    cases = [case for _, case in triton_cases()]
    jobs = [(i, target) for i, case in enumerate(cases) for target in case.targets]

    def compiled() -> list[Usage]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), context) as pool:
            return list(pool.map(_compile_case, *zip(*jobs, strict=True), chunksize=4))

    sources = (ROOT / "vireid_fast" / "ops").rglob("*.py")
    tools = f"torch {version('torch')} triton {version('triton')}"
    usages = remembered(compiled, sources, tools)
    return [
        Result(usage, triton_budget(cases[i])) for (i, _), usage in zip(jobs, usages, strict=True)
    ]


def table(results: Iterable[Result]) -> str:
    """One line per kernel and target: used / allowed."""
    lines = [f"{'kernel':58} {'target':7} {'registers':>10} {'spill':>7} {'shared':>14} "
             f"{'tensor core':>12}  verdict"]  # fmt: skip
    for result in results:
        usage, budget = result.usage, result.budget
        short = usage.kernel.split("(float")[0].split("(double")[0].replace("vireid_fast::", "")
        cells = [f"{getattr(usage, name)}/{budget[name]}" for name in LIMITS]
        cells.append(f"{usage.tensor_core}>={budget.get(TENSOR_CORE, 0)}")
        verdict = "over budget: " + ", ".join(result.excess) if result.excess else "ok"
        lines.append(f"{short[-58:]:58} {usage.target:7} {cells[0]:>10} {cells[1]:>7} "
                     f"{cells[2]:>14} {cells[3]:>12}  {verdict}")  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Check what the compilers present allow; the exit code tells the outcome."""
    missing = []
    results: list[Result] = []
    try:
        if shutil.which("nvcc"):
            results += check_cuda()
        else:
            missing.append("nvcc is absent: the CUDA library was NOT compiled")
        if find_spec("triton"):
            results += check_triton()
        else:
            missing.append("triton is absent (pip install triton): its kernels were NOT compiled")
    except CheckError as error:
        print(f"kernels-check: {error}")
        return 1
    if results:
        print(table(results))
    for line in missing:
        print(f"kernels-check: {line}")
    over = sum(bool(result.excess) for result in results)
    print(f"kernels-check: {len(results)} kernels compiled, {over} over budget")
    return 1 if over else 3 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
