"""The bindings of csrc/cuda beside the schemas of the raw ops, which meet on a GPU machine only."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import vireid_fast.ops

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
