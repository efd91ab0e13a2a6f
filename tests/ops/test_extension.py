"""The native build: symbols, loading, absence, damage, choices of setup.py, host helpers."""

import importlib.resources
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import kernels_check
import numpy as np
import pytest
import torch

from vireid_fast import _extension
from vireid_fast._extension import HAS_EXTENSION, INSTRUCTION_SETS, limit_instruction_set

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(_extension.__file__).parent
needs_extension = pytest.mark.skipif(not HAS_EXTENSION, reason="the CPU extension is not built")
# The import hook of an editable install would find the built modules of the checkout.
WITHOUT_HOOK = """
import sys
sys.meta_path = [f for f in sys.meta_path if not getattr(f, "__name__", "").startswith("_Editable")]
"""
ON_REFERENCES = """
import torch
from vireid_fast import _extension, ops
from vireid_fast.ops._registration import KERNELS
assert not _extension.HAS_EXTENSION and _extension.host is None
assert _extension.instruction_set() is None
assert KERNELS and {served["cpu"] for served in KERNELS.values()} == {"reference"}
x = torch.randn(9, 5, requires_grad=True)
ops.pairwise_distance(x, x[:4]).sum().backward()
labels = torch.tensor([0, 1, 1])
prompts = torch.randn(6, 4), torch.randn(6, 4), torch.randn(2, 2, 4, requires_grad=True)
ops.prompt_injection(*prompts, labels, 1).sum().backward()
features = x.detach()
distances = ops.pairwise_distance(features[:3], features[3:], metric="squared_euclidean")
order = distances.argsort(dim=1, stable=True)
assert torch.equal(ops.smallest_k(distances, 2).indices, order[:, :2])
neighbours = ops.knn(features, features, 9).indices
crow, col = ops.k_reciprocal_sets(neighbours, 3)
row = torch.arange(9).repeat_interleave(crow.diff())
weight = ops.reciprocal_weights(crow, ops.pair_distance(features, row, col))
expanded = ops.expand_query(crow, col, weight, neighbours, 2)
assert ops.jaccard_distance(*expanded, 3).shape == (3, 6)
ids = torch.arange(3), torch.arange(6) % 3
assert ops.rank_statistics(distances, *ids).num_positives.tolist() == [2, 2, 2]
print("all on references")
"""


def run_python(code, folder=ROOT, **variables):
    """Run code in a fresh interpreter, with environment variables changed (None removes)."""
    environment = {k: v for k, v in {**os.environ, **variables}.items() if v is not None}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment,
                          capture_output=True, text=True, timeout=120)  # fmt: skip


def run_setup(prelude="", **variables):
    code = f"import sys, runpy\n{prelude}\nsys.argv = ['setup.py', '--name']\n"
    code += "runpy.run_path('setup.py', run_name='__main__')"
    return run_python(code, **variables)


@pytest.fixture
def package_without_build(tmp_path):
    """A copy of the package as VIREID_BUILD=none installs it."""
    shutil.copytree(PACKAGE, tmp_path / "vireid_fast",
                    ignore=shutil.ignore_patterns("*.so", "__pycache__"))  # fmt: skip
    return tmp_path


@needs_extension
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is absent")
def test_library_needs_no_unstable_symbol():
    library = PACKAGE / "_C.abi3.so"
    assert kernels_check.unstable_symbols(library) == []
    run = subprocess.run(f"nm -D --undefined-only {library} | c++filt", shell=True,
                         capture_output=True, text=True, check=True)  # fmt: skip
    names = [line.split(maxsplit=1)[1] for line in run.stdout.splitlines()]
    assert any(name.startswith("aoti_torch_") for name in names)
    assert not [n for n in names if n.startswith(("at::", "c10::", "torch::", "caffe2::"))]


@needs_extension
def test_library_is_built_for_the_limited_api():
    assert _extension._C.__file__.endswith(".abi3.so")


@needs_extension
def test_limit_is_kept_and_restored():
    before = _extension.instruction_set()
    with limit_instruction_set("baseline"):
        assert _extension.instruction_set() == "baseline"
        with limit_instruction_set("avx512"):
            assert _extension.instruction_set() == before
        assert _extension.instruction_set() == "baseline"
    assert _extension.instruction_set() == before


@needs_extension
def test_limit_rejects_unknown_names():
    expected = r"name must be .*baseline.*avx2.*avx512.*, got 'sse'"
    with pytest.raises(ValueError, match=expected), limit_instruction_set("sse"):
        pass
    with pytest.raises(ValueError, match=expected):
        _extension._C.limit_instruction_set("sse")
    with pytest.raises(TypeError):
        _extension._C.limit_instruction_set(3)


def test_everything_runs_without_extension(package_without_build):
    run = run_python(WITHOUT_HOOK + ON_REFERENCES, package_without_build)
    assert run.stdout.strip() == "all on references", run.stderr


@pytest.mark.parametrize("name", ["_C", "_host"])
def test_broken_extension_raises(package_without_build, name):
    suffix = ".abi3.so"
    (package_without_build / "vireid_fast" / f"{name}{suffix}").write_bytes(b"not a library")
    run = run_python(WITHOUT_HOOK + "import vireid_fast.ops", package_without_build)
    assert run.returncode != 0
    assert f"RuntimeError: vireid_fast: the built extension {name} must load" in run.stderr
    assert "pip install --no-build-isolation -e ." in run.stderr


def test_broken_cuda_extension_raises(tmp_path, monkeypatch):
    library = tmp_path / "_C_cuda.abi3.so"
    library.write_bytes(b"not a library")
    spec = importlib.util.spec_from_file_location("_C_cuda", library)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not _extension._load_cuda()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RuntimeError, match="extension _C_cuda must load with torch"):
        _extension._load_cuda()


def test_setup_rejects_unknown_choice():
    run = run_setup(VIREID_BUILD="gpu")
    assert run.returncode == 1
    assert "VIREID_BUILD must be auto, cpu, cuda or none, got 'gpu'" in run.stderr


def test_setup_without_build_needs_neither_torch_nor_compiler():
    run = run_setup("sys.modules['torch'] = None", VIREID_BUILD="none", CXX="no-such-compiler")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("vireid_fast")


def test_setup_without_torch_tells_the_command():
    run = run_setup("sys.modules['torch'] = None", VIREID_BUILD=None)
    assert run.returncode == 1
    assert "pip install torch && pip install --no-build-isolation -e ." in run.stderr


def test_setup_without_compiler():
    run = run_setup(VIREID_BUILD=None, CXX="no-such-compiler")
    assert run.returncode == 0 and "no-such-compiler not found, so no kernels" in run.stderr
    run = run_setup(VIREID_BUILD="cpu", CXX="no-such-compiler")
    assert run.returncode == 1 and "needs the compiler no-such-compiler" in run.stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_setup_without_cuda():
    run = run_setup(VIREID_BUILD="cuda")
    assert run.returncode == 1 and "impossible: torch" in run.stderr
    run = run_setup(VIREID_BUILD="auto")
    assert run.returncode == 0 and "so only the CPU kernels are built" in run.stderr


def test_presets_are_package_data():
    names = {path.name for path in importlib.resources.files("vireid_fast.configs").iterdir()}
    assert "csdn" in names


@pytest.mark.skipif(_extension.host is None, reason="the host extension is not built")
class TestHost:
    def test_instruction_sets_end_with_the_one_in_use(self):
        found = _extension.host.instruction_sets()
        assert found == list(INSTRUCTION_SETS[: len(found)])
        assert found[-1] == _extension.instruction_set()

    def test_build_info(self):
        info = _extension.host.build_info()
        assert info["torch"].split("+")[0].count(".") == 2
        assert info["cpp_standard"] >= 202002
        assert info["compiler"] and info["cuda"] == bool(info["cuda_version"])

    @pytest.mark.parametrize("count", [0, 1, 7, 1000])
    def test_segment_plan_is_a_stable_sort(self, count):
        labels = np.random.default_rng(count).integers(0, 11, count)
        order, offsets = _extension.host.segment_plan(labels, 12)
        assert np.array_equal(order, np.argsort(labels, kind="stable"))
        assert np.array_equal(np.diff(offsets), np.bincount(labels, minlength=12))
        assert offsets[0] == 0 and order.dtype == offsets.dtype == np.int64

    def test_segment_plan_takes_strided_labels(self):
        order, _ = _extension.host.segment_plan(np.array([1, 9, 0, 9, 1, 9])[::2], 2)
        assert order.tolist() == [1, 0, 2]

    def test_segment_plan_rejects_bad_arguments(self):
        plan = _extension.host.segment_plan
        with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got 2 at position 1"):
            plan(np.array([0, 2]), 2)
        with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got -1 at position 0"):
            plan(np.array([-1]), 2)
        with pytest.raises(ValueError, match=r"labels must have 1 dimension, got 2"):
            plan(np.zeros((2, 2), dtype=np.int64), 2)
        with pytest.raises(ValueError, match=r"segments must be >= 0, got -1"):
            plan(np.zeros(0, dtype=np.int64), -1)
        with pytest.raises(TypeError):
            plan(np.array([0.5]), 2)
