"""The bindings of csrc/cuda: their parameters, and, emulated, what they return and refuse."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from emulated_bindings import emulated
from torch import Tensor

import vireid_fast.ops
from vireid_fast.ops.rank_statistics.gallery_index import GalleryIndex
from vireid_fast.testing import make_features

CUDA = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
BINDING = re.compile(r'm\.impl\("(\w+)", TORCH_BOX\(&vireid_fast::(\w+)\)\)')
# C++ parameter -> type of the schema.
KINDS = {
    "const Tensor&": "Tensor",
    "Tensor": "Tensor",
    "const std::optional<Tensor>&": "Optional[Tensor]",
    "int64_t": "int",
    "double": "float",
}


def bindings() -> dict[str, list[str]]:
    """Name of each op that csrc/cuda implements -> the types of its parameters."""
    found = {}
    for path in sorted(CUDA.glob("*.cu")):
        source = path.read_text()
        for op, function in BINDING.findall(source):
            assert function == f"{op}_cuda" and op not in found
            parameters = re.search(rf"\b{function}\(([^)]*)\) \{{", source)[1].split(",")
            found[op] = [KINDS[p.strip().rpartition(" ")[0]] for p in parameters]
    return found


def registered() -> set[str]:
    """Ops that are registered with cuda="C++"."""
    names = set()
    for package in pkgutil.iter_modules(vireid_fast.ops.__path__):
        if package.ispkg:
            module = importlib.import_module(f"vireid_fast.ops.{package.name}.op")
            calls = Path(module.__file__).read_text().split("register_op(")[1:]
            names |= {
                re.search(r'f?"(\w+)\(', call)[1] for call in calls if 'cuda="C++"' in call
            }  # fmt: skip
    return names


def test_every_op_has_its_binding():
    assert set(bindings()) == registered()


@pytest.mark.parametrize("op", sorted(bindings()))
def test_parameters_are_those_of_the_schema(op):
    schema = getattr(torch.ops.vireid_fast, op).default._schema
    assert [str(argument.type) for argument in schema.arguments] == bindings()[op]


def op(name: str):
    return getattr(torch.ops.vireid_fast, name).default


def strided(value: Tensor) -> Tensor:
    """The same values, not contiguous."""
    return value.repeat_interleave(2, -1)[..., ::2]


def make_arguments(dtype: torch.dtype) -> dict[str, list[tuple]]:
    """Arguments of every op, made by the CPU kernels from one set of features."""
    x = make_features(60, 37, dtype=dtype, distinct=55)
    distances, indices, farthest = op("knn")(x, x, 24)
    crow, col = op("k_reciprocal_sets")(indices, 20)
    row = torch.repeat_interleave(crow.diff())
    weight = op("reciprocal_weights")(crow, op("pair_distance")(x, row, col))
    sparse = crow, strided(col), strided(weight)
    inverted = op("invert_rows")(crow, col, weight, 20)
    matrix = op("pairwise_distance")(x[:20], x[20:], 1)
    index = GalleryIndex.build(torch.arange(40) % 7, torch.arange(40) % 3)
    lists = [
        part for label in (index.identities, index.groups)
        for part in (label.of, label.start, label.items)
    ]  # fmt: skip
    labels = (torch.arange(20) % 8 - 1, torch.arange(20) % 3, *lists)
    slack = x.new_zeros(60)
    known = op("knn")(x, x[:50], 24)
    coarse = op("pairwise_distance")(x, x[50:], 1)
    wide = strided(x)
    return {
        "pairwise_distance": [(wide, wide[:7], metric) for metric in range(3)],
        "centred_distance": [
            (wide, wide[:7], centre, x.new_empty(60, 7)) for centre in (None, x[3])
        ],
        "knn": [(wide, wide, 24), (wide[:0], wide, 3), (wide, wide[:9], 40)],
        "smallest_k": [(strided(matrix), 5), (matrix, 100)],
        "pair_distance": [(wide, strided(row), col), (wide, row[:0], col[:0])],
        "merge_lists": [
            (wide, x[50:], coarse, slack, strided(known[0]), *known[1:], 50, 24),
            (wide, x[:0], coarse[:, :0], slack, distances, indices, farthest, 50, 9),
        ],
        "rank_normalised": [(strided(distances), indices, farthest, 21)],
        "entry_distance": [(wide[:20], wide[20:], crow, strided(col), distances, indices)],
        "k_reciprocal_sets": [(strided(indices), 20), (indices[:, :5], 3)],
        "reciprocal_weights": [(crow, strided(distances.flatten()[: len(col)]))],
        "expand_query": [(*sparse, strided(indices), 6)],
        "jaccard_distance": [(*sparse, 20), (*sparse, 0), (*sparse, 60)],
        "invert_rows": [(*sparse, 20), (*sparse, 60)],
        "blend_jaccard": [(*sparse, *inverted, farthest[5:20], 5, 0.3, matrix[5:].clone())],
        "count_nearer": [(matrix, torch.arange(21), farthest[:20], indices[:20, 3], 20)],
        "rank_statistics": [
            (strided(matrix), *labels, columns, drop)
            for columns in (None, torch.arange(39, -1, -1)) for drop in range(3)
        ],
        "feature_rank_statistics": [
            (wide[:20], wide[20:], *labels, metric, 1.0, 2) for metric in range(3)
        ],
    }  # fmt: skip


# exp is another function than the CPU's.
CLOSE = {"reciprocal_weights": {"rtol": 1e-6, "atol": 0.0}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", sorted(bindings()))
def test_bindings_give_the_bits_of_the_cpu_kernels(name, dtype):
    for arguments in make_arguments(dtype)[name]:
        mutable = isinstance(arguments[-1], Tensor) and name in (
            "blend_jaccard",
            "centred_distance",
        )
        other = (*arguments[:-1], arguments[-1].clone()) if mutable else arguments
        found, expected = emulated(op(name))(*other), op(name)(*arguments)
        if mutable:
            found, expected = other[-1], arguments[-1]
        torch.testing.assert_close(
            found, expected, equal_nan=True, **CLOSE.get(name, {"rtol": 0, "atol": 0})
        )


def test_bindings_refuse_what_would_leave_memory():
    x = torch.randn(6, 4)
    row = torch.tensor([0, 6])
    with pytest.raises(RuntimeError, match="row and column must lie in"):
        emulated(op("pair_distance"))(x, row, row)
    lists = torch.tensor([[0, 1], [1, 0], [2, -1], [3, 2], [4, 3], [5, 4]])
    with pytest.raises(RuntimeError, match="indices must lie in"):
        emulated(op("k_reciprocal_sets"))(lists, 2)
    crow, col, weight = torch.arange(7), torch.arange(6), torch.ones(6)
    broken = torch.tensor([0, 2, 1, 3, 4, 5, 6])
    for name, rest in (("expand_query", (lists.abs(), 2)), ("jaccard_distance", (3,)),
                       ("invert_rows", (3,))):  # fmt: skip
        with pytest.raises(RuntimeError, match="crow must rise"):
            emulated(op(name))(broken, col, weight, *rest)
        with pytest.raises(RuntimeError, match="col must lie in"):
            emulated(op(name))(crow, col + 1, weight, *rest)
    with pytest.raises(RuntimeError, match="indices must lie in"):
        emulated(op("expand_query"))(crow, col, weight, lists, 2)
    index = op("invert_rows")(crow, col, weight, 3)
    with pytest.raises(RuntimeError, match="gallery rows"):
        emulated(op("blend_jaccard"))(
            crow,
            col,
            weight,
            index[0],
            index[1] + 1,
            index[2],
            weight[:3],
            0,
            0.3,
            torch.ones(3, 3),
        )
    labels = [torch.tensor([0, 7]), torch.zeros(2).long()]
    gallery = GalleryIndex.build(torch.arange(6), torch.arange(6))
    index = gallery.identities
    labels += [index.of, index.start, index.items] * 2
    with pytest.raises(RuntimeError, match="must be in range"):
        emulated(op("rank_statistics"))(torch.rand(2, 6), *labels, None, 0)
