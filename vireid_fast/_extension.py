"""Loads the native extensions once. An absent build is fine; a broken one raises.

`_C` holds the CPU kernels, `_C_cuda` the CUDA kernels (loaded only where a GPU is), `_host` the
host-side helpers. Importing a library registers its kernels with the torch dispatcher.
"""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from vireid_fast._checks import require

SEARCH_PLANS = ("automatic", "measure_all", "float32", "int16", "int8")
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
_REBUILD = "Rebuild: pip install --no-build-isolation -e ."


def _broken(name: str, error: Exception) -> RuntimeError:
    return RuntimeError(
        f"vireid_fast: the built extension {name} must load with torch {torch.__version__}, "
        f"got {error}. {_REBUILD}"
    )


def _import(name: str) -> ModuleType | None:
    """Import a built module; None if it was not built."""
    if importlib.util.find_spec(f"vireid_fast.{name}") is None:
        return None
    try:
        return importlib.import_module(f"vireid_fast.{name}")
    except (ImportError, OSError) as error:
        raise _broken(name, error) from error


def _load_cuda() -> bool:
    """Load the CUDA kernels; False if they were not built or no GPU is there."""
    spec = importlib.util.find_spec("vireid_fast._C_cuda")
    if spec is None or spec.origin is None or not torch.cuda.is_available():
        return False
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        raise _broken("_C_cuda", error) from error
    return True


_C = _import("_C")
host = _import("_host")
"""The module of host-side helpers, or None where it was not built."""

HAS_EXTENSION = _C is not None
"""Whether the C++ kernels for the CPU are in use."""

HAS_CUDA_EXTENSION = _load_cuda()
"""Whether the CUDA C++ kernels are in use."""


def instruction_set() -> str | None:
    """Instruction set of the CPU kernels in use: avx512, avx2 or baseline; None without them."""
    return _C.instruction_set() if _C is not None else None


@contextmanager
def limit_instruction_set(name: str) -> Iterator[None]:
    """Keep the CPU kernels at or below an instruction set (a test's way to every branch).

    Args:
        name: "baseline", "avx2" or "avx512".

    Raises:
        ValueError: The name is unknown.
        RuntimeError: The CPU extension is not built.
    """
    require(
        name in INSTRUCTION_SETS, "limit_instruction_set", "name",
        f"be one of {list(INSTRUCTION_SETS)}", repr(name),
    )  # fmt: skip
    if _C is None:
        raise RuntimeError(f"limit_instruction_set: the CPU extension is not built. {_REBUILD}")
    before = _C.instruction_set()
    _C.limit_instruction_set(name)
    try:
        yield
    finally:
        _C.limit_instruction_set(before)


@contextmanager
def search_plan(name: str) -> Iterator[None]:
    """Fix how `knn` goes about float32 searches on the CPU; results do not depend on it.

    Args:
        name: "automatic" (its rule: csrc/cpu/neighbour_filter.h), "measure_all", or "float32",
            "int16" or "int8" products as a filter, where these apply.

    Raises:
        ValueError: The name is unknown.
        RuntimeError: The CPU extension is not built.
    """
    require(name in SEARCH_PLANS, "search_plan", "name", f"be one of {list(SEARCH_PLANS)}",
            repr(name))  # fmt: skip
    if _C is None:
        raise RuntimeError(f"search_plan: the CPU extension is not built. {_REBUILD}")
    _C.set_search_plan(name)
    try:
        yield
    finally:
        _C.set_search_plan("automatic")
