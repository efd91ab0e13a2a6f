"""What a benchmark case is."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timing import Budget, Provider
from torch import Tensor

# Input sets of a GPU case that are used in turn: one alone would stay in the L2 cache (60 MB).
GPU_INPUT_SETS = 4
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Workload:
    """Providers on one set of inputs, and the gate that their first outputs must pass.

    Attributes:
        providers: The fused ones first.
        check: Takes the outputs by provider name; raises AssertionError where one is wrong.
    """

    providers: tuple[Provider, ...]
    check: Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Case:
    """One line of the benchmark.

    Attributes:
        group: Name of the result file and of the table.
        op: Public function or class.
        name: What the case stands for.
        shape: Sizes of the inputs, as text.
        build: Makes the inputs on a device.
        dtype: Name of the dtype of the inputs.
        devices: Device types that it is measured on.
        budget: How long it is measured.
        memory: Providers whose peak memory is measured.
        graphs: On a GPU also replayed as a CUDA graph.
        microseconds: Wanted time of the first fused provider on an H200, in a CUDA graph where
            the case has one.
        megabytes: Wanted peak memory of one call of the first fused provider.
        whole_megabytes: Wanted peak of the whole process with it, interpreter and inputs included.
        slow: Takes minutes on a CPU; left out of a quick run.
        items: What one call handles, where a rate is told beside the ratios; 0: none is.
        unit: Name of an item, in the plural.
    """

    group: str
    op: str
    name: str
    shape: str
    build: Callable[[torch.device], Workload]
    dtype: str = "float32"
    devices: tuple[str, ...] = DEVICES
    budget: Budget = field(default_factory=Budget)
    memory: tuple[str, ...] = ()
    graphs: bool = True
    microseconds: float | None = None
    megabytes: float | None = None
    whole_megabytes: float | None = None
    slow: bool = False
    items: int = 0
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"


def input_sets(device: torch.device) -> int:
    """Number of input sets that a case should make."""
    return GPU_INPUT_SETS if device.type == "cuda" else 1


def in_turn(runs: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    """A function that calls the given ones in turn, the first one first."""
    if len(runs) == 1:
        return runs[0]
    cycle = itertools.cycle(runs)
    return lambda: next(cycle)()


def peers_of(providers: Sequence[Provider], outputs: Mapping[str, Any]) -> list[str]:
    """Names of the providers whose output is that of the op, the fused ones aside.

    A peer that failed has no output.
    """
    roles = ("peer", "reference", "variant")
    return [one.name for one in providers if one.role in roles and one.name in outputs]


def gemm_floor(
    flops: float, rows: int, inner: int, columns: int, device: torch.device,
    dtype: torch.dtype = torch.float32, only: str = "",
) -> Provider:  # fmt: skip
    """The time of `flops` floating-point operations at the rate of a matrix product.

    With `only` it belongs to that fused provider of several.
    """
    a = torch.randn(rows, inner, device=device).to(dtype)
    b = torch.randn(inner, columns, device=device).to(dtype)
    scale = flops / (2 * rows * inner * columns)
    name = f"GEMM of the same FLOPs, {only}" if only else "GEMM of the same FLOPs"
    return Provider(name, "floor", lambda: a @ b, scale=scale, only=only)


def copy_floor(moved: float, like: Tensor) -> Provider:
    """The time of `moved` bytes at the rate of a copy of `like`, which reads and writes it."""
    source = like.detach().contiguous()
    target = torch.empty_like(source)
    scale = moved / (2 * source.numel() * source.element_size())
    return Provider(
        "bytes moved at the copy rate", "floor", lambda: target.copy_(source), scale=scale
    )
