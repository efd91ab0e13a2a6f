"""Native build. VIREID_BUILD=auto|cpu|cuda|none chooses what is compiled; see README.md."""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).resolve().parent
CUDA_ARCHITECTURES = "sm_80 sm_90a compute_90"
INSTALL = "pip install --no-build-isolation -e ."


def sources(*patterns: str) -> list[str]:
    """Files of csrc in a fixed order, relative to the root as setuptools wants them."""
    return sorted(str(p.relative_to(ROOT)) for g in patterns for p in (ROOT / "csrc").glob(g))


def cuda_obstacle() -> str:
    """Why the CUDA kernels cannot be compiled here; empty if they can."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return "" if CUDA_HOME else "no CUDA toolkit found (nvcc on PATH or CUDA_HOME)"


def choose() -> str:
    """Resolve VIREID_BUILD to none, cpu or cuda, or leave with the reason."""
    wish = os.environ.get("VIREID_BUILD", "auto")
    if wish not in ("auto", "cpu", "cuda", "none"):
        sys.exit(f"setup: VIREID_BUILD must be auto, cpu, cuda or none, got {wish!r}.")
    if wish == "none":
        return "none"
    try:
        import torch  # noqa: F401
    except ImportError:
        sys.exit(f"setup: torch must be installed first. Run: pip install torch && {INSTALL}")
    compiler = os.environ.get("CXX", "g++").split()[0]
    if shutil.which(compiler) is None:
        if wish != "auto":
            sys.exit(f"setup: VIREID_BUILD={wish} needs the compiler {compiler}, not found.")
        sys.stderr.write(f"setup: {compiler} not found, so no kernels are built (torch only).\n")
        return "none"
    obstacle = cuda_obstacle()
    if wish == "cuda" and obstacle:
        sys.exit(f"setup: VIREID_BUILD=cuda is impossible: {obstacle}.")
    if wish == "auto" and obstacle:
        sys.stderr.write(f"setup: {obstacle}, so only the CPU kernels are built.\n")
    return "cpu" if wish == "cpu" or obstacle else "cuda"


def extensions(choice: str) -> list[Extension]:
    """The extension modules of a build for the CPU or for CPU and GPU."""
    import pybind11
    import torch
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    flags = ["-O3", "-g0", "-std=c++20", "-ffp-contract=off", "-fno-math-errno",
             "-fvisibility=hidden"]  # fmt: skip
    # Checks name their source file; the folders of the machine that built a wheel are left out.
    flags += [f"-ffile-prefix-map={d}=." for d in (ROOT, Path(torch.__file__).parents[1])]
    stable = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # PyTorch 2.10
    headers = sources("*.h", "cpu/*.h", "cuda/*.h", "cuda/*.cuh")
    cuda = torch.version.cuda if choice == "cuda" else ""
    host = {"BUILD_TORCH": torch.__version__, "BUILD_CUDA": cuda,
            "CUDA_ARCHITECTURES": CUDA_ARCHITECTURES if cuda else ""}  # fmt: skip
    built = [
        CppExtension("vireid_fast._C", sources("module.cpp", "cpu/*.cpp"), depends=headers,
                     py_limited_api=True, extra_compile_args=[*flags, *stable, "-Wno-psabi"]),
        Extension("vireid_fast._host", sources("host/*.cpp"), language="c++", depends=headers,
                  include_dirs=[pybind11.get_include()], extra_compile_args=flags,
                  define_macros=[(f"VIREID_{k}", f'"{v}"') for k, v in host.items()]),
    ]  # fmt: skip
    if choice == "cuda":
        pairs = (name.split("_") for name in CUDA_ARCHITECTURES.split())
        targets = [f"-gencode=arch=compute_{a},code={kind}_{a}" for kind, a in pairs]
        nvcc = ["-O3", "-std=c++20", "-DUSE_CUDA", *stable, *targets]
        nvcc += ["-Xcompiler", ",".join(flags[-2:])]
        built.append(CUDAExtension(
            "vireid_fast._C_cuda", sources("cuda/*.cu"), depends=headers, py_limited_api=True,
            extra_compile_args={"cxx": [*flags, *stable], "nvcc": nvcc}))  # fmt: skip
    return built


choice = choose()
build = {}
if choice != "none":
    from torch.utils.cpp_extension import BuildExtension

    build = {"ext_modules": extensions(choice),
             "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=True)}}  # fmt: skip

setup(
    packages=[*find_packages(include=["vireid_fast", "vireid_fast.*"]), "vireid_fast.configs"],
    package_dir={"vireid_fast.configs": "configs"},
    **build,
)
