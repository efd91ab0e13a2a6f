"""The CUDA kernels of csrc/cuda on the CPU: compiled by g++ with tests/cuda_emulation, by ctypes.

Everything of a kernel runs, barriers, warp exchanges and the tensor core's fragments included, one
thread after the other. Tensors are on the CPU, contiguous, and checked by nobody.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
BLOCK_BYTES = 1 << 24


@functools.cache
def library() -> ctypes.CDLL:
    """Compile the kernels, once per process."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is absent")
    folder = ROOT / "tests" / "cuda_emulation"
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "kernels.so"
        command = ["g++", "-std=c++20", "-O1", "-g0", "-ffp-contract=off", "-shared", "-fPIC",
                   "-Wall", "-Wno-unknown-pragmas", "-Werror", f"-I{folder}", "-o", str(target),
                   str(folder / "kernels.cpp")]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return ctypes.CDLL(str(target))


def call(name: str, *arguments: Tensor | int | float | bool | None) -> int:
    """Call a C function: tensors by their address, integers as 64 bits."""

    def convert(value):
        if value is None or isinstance(value, Tensor):
            return ctypes.c_void_p(value.data_ptr() if value is not None else None)
        kinds = {bool: ctypes.c_bool, int: ctypes.c_int64, float: ctypes.c_double}
        return kinds[type(value)](value)

    function = getattr(library(), name)
    function.restype = ctypes.c_int64 if name == "k_reciprocal_sets" else ctypes.c_int
    return function(*map(convert, arguments))


def checked(name: str, *arguments) -> None:
    """`call` a function that returns a CUDA error code."""
    assert call(name, *arguments) == 0


def lists_like(value: Tensor, rows: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of a search, full of what no search gives."""
    return (
        value.new_full((rows, k), -7),
        torch.full((rows, k), -7),
        value.new_full((rows,), -7),
    )


def knn(
    query: Tensor, database: Tensor, k: int, *, coarse: bool, most_bytes: int = BLOCK_BYTES
) -> tuple[tuple[Tensor, Tensor, Tensor], int]:
    """The lists, and the number of rows that the coarse pass gave up."""
    k = min(k, database.shape[0])
    lists = lists_like(query, query.shape[0], k)
    lost = torch.zeros(1, dtype=torch.int64)
    checked(f"knn_{SUFFIX[query.dtype]}", query, query.shape[0], database, *database.shape, k,
            coarse, most_bytes, *lists, lost)  # fmt: skip
    return lists, int(lost)


def coarse_halves(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Half squared distances from the coarse pass, and what they may be off by, both float64."""
    halves = torch.full((x.shape[0], y.shape[0]), -7, dtype=torch.float64)
    margins = halves.clone()
    checked("coarse_halves", x, x.shape[0], y, *y.shape, halves, margins)
    return halves, margins


def smallest_k(distances: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    k = min(k, distances.shape[1])
    lists = lists_like(distances, distances.shape[0], k)
    checked(f"smallest_k_{SUFFIX[distances.dtype]}", distances, *distances.shape, k, *lists)
    return lists


def pairwise_distance(x: Tensor, y: Tensor, metric: int) -> Tensor:
    out = x.new_full((x.shape[0], y.shape[0]), -7)
    checked(f"pairwise_distance_{SUFFIX[x.dtype]}", metric, x, x.shape[0], y, *y.shape, out)
    return out


def pair_distance(x: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, bool]:
    """Distances, and whether an index lies outside."""
    out = x.new_full(row.shape, -7)
    outside = torch.zeros(1, dtype=torch.int32)
    checked(f"pair_distance_{SUFFIX[x.dtype]}", x, *x.shape, row, column, row.shape[0], out,
            outside)  # fmt: skip
    return out, bool(outside)


def centred_distance(x: Tensor, y: Tensor, centre: Tensor | None) -> Tensor:
    out = x.new_full((x.shape[0], y.shape[0]), -7)
    checked(f"centred_distance_{SUFFIX[x.dtype]}", x, x.shape[0], y, *y.shape, centre, out)
    return out


def merge_lists(
    lists: tuple[Tensor, Tensor, Tensor],
    added: tuple[Tensor, Tensor, Tensor],
    first_index: int,
    k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, listed = lists[0].shape
    out = lists_like(lists[0], rows, k)
    checked(f"merge_lists_{SUFFIX[lists[0].dtype]}", *lists, *added, rows, listed,
            added[0].shape[1], first_index, k, *out)  # fmt: skip
    return out


def rank_normalised(
    distances: Tensor, indices: Tensor, farthest: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    ranked = indices.new_full((indices.shape[0], k), -7)
    undecided = torch.zeros(indices.shape[0], dtype=torch.bool)
    checked(f"rank_normalised_{SUFFIX[distances.dtype]}", distances, indices, farthest,
            *distances.shape, k, ranked, undecided)  # fmt: skip
    return ranked, undecided


def entry_distance(query: Tensor, gallery: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    out = query.new_full(col.shape, -7)
    checked(f"entry_distance_{SUFFIX[query.dtype]}", query, query.shape[0], gallery,
            query.shape[1], crow, crow.shape[0] - 1, col, col.shape[0], out)  # fmt: skip
    return out


def k_reciprocal_sets(indices: Tensor, k1: int) -> tuple[Tensor, Tensor, bool]:
    """Offsets, columns, and whether an index lies outside."""
    rows, width = indices.shape
    crow = torch.full((rows + 1,), -7)
    col = torch.full((rows * (min(k1, rows) + 1) * (k1 // 2 + 3) + 1,), -7)
    broken = torch.zeros(1, dtype=torch.int32)
    count = call("k_reciprocal_sets", indices, rows, width, k1, crow, col, broken)
    assert count >= 0
    return crow, col[:count], bool(broken)


def reciprocal_weights(crow: Tensor, distances: Tensor) -> Tensor:
    out = distances.new_full(distances.shape, -7)
    checked(f"reciprocal_weights_{SUFFIX[distances.dtype]}", crow, crow.shape[0] - 1, distances,
            out)  # fmt: skip
    return out


def expand_query(
    crow: Tensor, col: Tensor, weight: Tensor, indices: Tensor, k2: int
) -> tuple[Tensor, Tensor, Tensor]:
    room = int(crow.diff()[indices[:, :k2]].sum())
    out = torch.full_like(crow, -7), col.new_full((room,), -7), weight.new_full((room,), -7)
    checked(f"expand_query_{SUFFIX[weight.dtype]}", crow, col, weight, indices, *indices.shape, k2,
            *out)  # fmt: skip
    count = int(out[0][-1])
    return out[0], out[1][:count], out[2][:count]


def jaccard(
    crow: Tensor,
    col: Tensor,
    weight: Tensor,
    num_query: int,
    blend: tuple[Tensor, Tensor, float] | None = None,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """The inverted index and Jaccard distances, or a blend: (distances, farthest, lambda)."""
    num_rows = crow.shape[0] - 1
    entries = int(crow[-1] - crow[num_query])
    index = (
        torch.full_like(crow, -7),
        torch.full((entries,), -7, dtype=torch.int32),
        weight.new_full((entries,), -7),
    )
    if blend is None:
        out, farthest, share = weight.new_full((num_query, num_rows - num_query), -7), None, 0.0
    else:
        out, farthest, share = blend[0].clone(), blend[1], blend[2]
    checked(f"jaccard_{SUFFIX[weight.dtype]}", crow, col, weight, num_rows, num_query, farthest,
            share, *index, out)  # fmt: skip
    return index, out


def count_nearer(
    distances: Tensor, crow: Tensor, bound: Tensor, index: Tensor, first: int
) -> Tensor:
    counts = torch.full_like(index, -7)
    checked(f"count_nearer_{SUFFIX[bound.dtype]}", distances, *distances.shape, crow, bound, index,
            bound.shape[0], first, counts)  # fmt: skip
    return counts


def rank_statistics(
    distances: Tensor, labels: tuple[Tensor, ...], columns: Tensor | None, drop: int
) -> tuple[tuple[Tensor, ...], bool]:
    """The statistics, and whether the index is broken; `labels` as the raw op takes them."""
    queries, index = labels[:2], labels[2:6]
    rows = distances.shape[0]
    out = tuple(
        torch.full((rows,), -7, dtype=kind)
        for kind in (torch.int64, torch.int64, torch.float64, torch.float64, torch.int64)
    )
    broken = torch.zeros(1, dtype=torch.int32)
    checked(f"rank_statistics_{SUFFIX[distances.dtype]}", distances, *distances.shape, columns,
            *queries, *index, index[1].shape[0] - 1, index[0].shape[0], drop, broken,
            *out)  # fmt: skip
    return out, bool(broken)
