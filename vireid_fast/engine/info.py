"""What `vireid info` tells: versions, kernels in use, and what to run to get the others."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

import vireid_fast.ops  # noqa: F401  (registers the ops)
from vireid_fast._extension import HAS_CUDA_EXTENSION, HAS_EXTENSION, host, instruction_set
from vireid_fast.engine.run_folder import environment
from vireid_fast.ops._registration import KERNELS

BUILD_CPU = "VIREID_BUILD=cpu pip install --no-build-isolation -e ."
BUILD_CUDA = "VIREID_BUILD=cuda pip install --no-build-isolation -e ."


@dataclass(frozen=True)
class KernelLine:
    """What one raw op runs on each kind of device."""

    op: str
    cpu: str
    cuda: str


def kernel_lines() -> list[KernelLine]:
    """The kernels in use, one line per raw op."""
    gpu = torch.cuda.is_available()
    return [
        KernelLine(
            op,
            f"C++ ({instruction_set()})" if served["cpu"] == "C++" else served["cpu"],
            served["cuda"] if gpu else "no GPU here",
        )
        for op, served in sorted(KERNELS.items())
    ]


def advice() -> list[str]:
    """Commands that would bring kernels that are not in use."""
    lines = []
    if not HAS_EXTENSION:
        lines.append(f"CPU kernels are not built: {BUILD_CPU}")
    if torch.cuda.is_available() and not HAS_CUDA_EXTENSION:
        lines.append(f"CUDA kernels are not built: {BUILD_CUDA}")
    if torch.cuda.is_available() and importlib.util.find_spec("triton") is None:
        lines.append("Triton kernels need triton: pip install triton")
    return lines


def report() -> dict[str, Any]:
    """Everything as plain values."""
    return {
        **environment(),
        "instruction_sets": host.instruction_sets() if host else None,
        "build": host.build_info() if host else None,
        "kernels": {line.op: {"cpu": line.cpu, "cuda": line.cuda} for line in kernel_lines()},
        "advice": advice(),
    }


def fact_lines(values: Mapping[str, object]) -> list[str]:
    """The facts of a report that need no table, one aligned line each."""
    names = ("vireid_fast", "python", "torch", "numpy", "platform", "threads", "cuda",
             "instruction_sets", "build")  # fmt: skip
    return [f"{name.replace('_', ' '):17} {_words(values[name])}" for name in names]


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)
