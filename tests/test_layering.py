"""Imports go down only, read from the source with ast."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "vireid_fast"

# Layer -> layers it may import. Files at the top of the package are layers of their own.
ALLOWED = {
    "_version": set(),
    "_checks": set(),
    "_collectives": {"_checks"},
    "_locks": {"_checks"},
    "_files": {"_checks", "_locks"},
    "_extension": {"_checks"},
    "ops": {"_checks", "_extension"},
    "nn": {"ops", "_checks", "_collectives"},
    "clip": {"nn", "ops", "_checks"},
    "losses": {"ops", "_checks"},
    "retrieval": {"ops", "_checks", "_collectives"},
    "models": {"nn", "clip", "ops", "_checks"},
    "dropin": {"nn", "clip", "ops", "_checks"},
    "data": {"_checks", "_files", "_locks", "_extension", "_version"},
    "config": {"_checks", "_files", "configs"},
    "testing": {"ops", "_checks"},
    "report": {"retrieval", "_checks", "_files", "_version"},
    "engine": {
        "models", "nn", "clip", "losses", "retrieval", "data", "ops", "config", "report",
        "_checks", "_collectives", "_files", "_locks", "_extension", "_version",
    },
    "cli": {"engine", "config", "data", "_checks", "_files", "_version"},
    "__main__": {"cli"},
    "__init__": {"dropin", "ops", "retrieval", "engine", "_version"},
}  # fmt: skip


def _layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name and name.startswith("vireid_fast.")}


SOURCES = sorted(p for p in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    layer = _layer(path)
    assert layer in ALLOWED, f"{layer} is no known layer"
    used = {name.split(".")[1] for name in _imports(path)}
    known = {name for name in used if name in ALLOWED}
    assert known <= ALLOWED[layer] | {layer}, f"{path}: {known - ALLOWED[layer] - {layer}}"


def _name(path: Path) -> str:
    return f"{path.parent.name}.{path.stem}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "ops").glob("*/*.py")), ids=_name)
def test_ops_do_not_import_each_others_private_files(path):
    for name in _imports(path):
        parts = name.split(".")
        if parts[1] == "ops" and len(parts) > 3 and (PACKAGE / "ops" / parts[2]).is_dir():
            assert parts[2] == path.parent.name, f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "ops").glob("*/reference.py")), ids=_name)
def test_references_and_triton_are_independent(path):
    assert not any(name.endswith("triton") for name in _imports(path))
    kernels = path.with_name("triton.py")
    if kernels.exists():
        assert not any("reference" in name for name in _imports(kernels))


def test_cuda_device_code_includes_no_torch_header():
    for path in (PACKAGE.parent / "csrc" / "cuda").glob("*.cuh"):
        assert "torch/" not in path.read_text(encoding="utf-8"), path


def test_native_code_includes_stable_headers_only():
    csrc = PACKAGE.parent / "csrc"
    for path in [*csrc.rglob("*.cpp"), *csrc.rglob("*.cu"), *csrc.rglob("*.h")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("#include <torch/"):
                assert line.startswith(
                    ("#include <torch/csrc/stable/", "#include <torch/headeronly/")
                ), f"{path}: {line}"
