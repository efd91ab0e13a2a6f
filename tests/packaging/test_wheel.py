"""The built wheel: what is in it, what its binaries need, and its use in a clean environment."""

import email
import json
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from build_tree import ROOT, VERSION, run

CPYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
# What the kernels may take from outside: the stable C interface of libtorch, CPython (audited by
# itself), the C++ standard library, and what the compiler and the C library bring.
OUTSIDE = re.compile(
    r"(aoti_)?torch_\w+|_?Py\w+|(vtable for |typeinfo (name )?for )?std::.*|_ITM_\w+|__gmon_start__"
    r"|.*@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+"
)

# A new environment downloads torch.
pytestmark = pytest.mark.timeout(2400)

SMOKE = """
import numpy as np, torch, vireid_fast
torch.manual_seed(0)
features = torch.nn.functional.normalize(torch.randn(40, 16), dim=1)
ids, cameras = torch.arange(40) % 10, torch.arange(40) // 10 + 1
near = vireid_fast.knn(features, features, k=5)
plain = ((features[:, None].double() - features.double()) ** 2).sum(2)
assert torch.equal(near.indices, plain.argsort(dim=1, stable=True)[:, :5])
distance = vireid_fast.pairwise_distance(features, features)
assert torch.allclose(distance.double(), plain.sqrt(), atol=1e-3)
reranked = vireid_fast.rerank(features[:10], features[10:], k1=8, k2=3)
assert reranked.shape == (10, 30) and bool((reranked >= 0).all())
np.savez("all.npz", features=features.numpy(), person_ids=ids.numpy(), camera_ids=cameras.numpy())
print(vireid_fast.__file__)
"""


@pytest.fixture(scope="module")
def unpacked(wheel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    ZipFile(wheel_file).extractall(folder)
    return folder


def _info(unpacked: Path, name: str) -> email.message.Message:
    return email.message_from_string(
        (unpacked / f"vireid_fast-{VERSION}.dist-info" / name).read_text(encoding="utf-8")
    )


def test_both_files_carry_the_version(artifacts):
    names = {path.name for path in artifacts.iterdir()}
    platform = "linux_x86_64"
    assert names == {
        f"vireid_fast-{VERSION}.tar.gz",
        f"vireid_fast-{VERSION}-{CPYTHON}-{CPYTHON}-{platform}.whl",
    }


def test_metadata(unpacked):
    told = _info(unpacked, "METADATA")
    assert (told["Name"], told["Version"]) == ("vireid_fast", VERSION)
    assert told["Requires-Python"] == ">=3.10" and told["License-Expression"] == "MIT"
    tag = _info(unpacked, "WHEEL")
    assert tag["Root-Is-Purelib"] == "false"
    assert tag.get_all("Tag") == [f"{CPYTHON}-{CPYTHON}-linux_x86_64"]


def test_contents(unpacked):
    names = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file()}
    info = f"vireid_fast-{VERSION}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    suffix = f"cpython-{CPYTHON[2:]}-x86_64-linux-gnu.so"
    binaries = {name for name in names if name.endswith(".so")}
    assert binaries == {"vireid_fast/_C.abi3.so", f"vireid_fast/_host.{suffix}"}
    package = ROOT / "vireid_fast"
    tracked = {str(p.relative_to(ROOT)) for p in package.rglob("*") if p.is_file()}
    tracked = {name for name in tracked if not name.endswith((".so", ".pyc"))}
    presets = {f"vireid_fast/{p.relative_to(ROOT)}" for p in ROOT.glob("configs/**/*.*")}
    assert {name for name in names if not name.startswith(info)} == tracked | presets | binaries


def test_no_file_names_the_machine_that_built_it(unpacked):
    # Fixed folders besides those of this machine: /tmp and home folders of whoever builds.
    folders = [b"/tmp/", b"/home/", b"/root/", str(ROOT).encode(), sys.prefix.encode()]
    for path in unpacked.rglob("*.so"):
        content = path.read_bytes()
        assert [folder for folder in folders if folder in content] == [], path.name


def test_the_kernels_use_the_stable_interfaces_alone(unpacked):
    """One binary serves torch 2.10 and newer, and every Python from 3.10."""
    pytest.importorskip("abi3audit")
    binary = unpacked / "vireid_fast" / "_C.abi3.so"
    audit = run(sys.executable, "-m", "abi3audit", "--strict", "--report",
                "--assume-minimum-abi3", "3.10", binary)  # fmt: skip
    (spec,) = json.loads(audit)["specs"].values()
    result = spec["object"]["result"]
    assert result["is_abi3"] and result["non_abi3_symbols"] == []
    listed = run("nm", "--dynamic", "--undefined-only", "--demangle", binary).splitlines()
    symbols = {re.sub(r"^\s*[Uwv] ", "", line) for line in listed}
    assert "aoti_torch_get_data_ptr" in symbols
    assert {name for name in symbols if not OUTSIDE.fullmatch(name)} == set()


@pytest.fixture(scope="module")
def clean(
    wheel_file: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A new environment with torch and the wheel; its bin folder."""
    folder = tmp_path_factory.mktemp("clean") / "env"
    venv.create(folder, with_pip=True)
    torch = shlex.split(request.config.getoption("--torch"))
    run(folder / "bin" / "pip", "install", "--quiet", *torch)
    run(folder / "bin" / "pip", "install", "--quiet", wheel_file)
    return folder / "bin"


def test_a_clean_environment_has_all_that_the_wheel_needs(clean, tmp_path):
    run(clean / "pip", "check")
    origin = run(clean / "python", "-c", SMOKE, cwd=tmp_path).strip()
    assert origin.startswith(str(clean.parent))
    told = json.loads(run(clean / "vireid", "info", "--json", cwd=tmp_path))
    assert told["vireid_fast"] == VERSION and told["advice"] == []
    assert {line["cpu"].split(" ")[0] for line in told["kernels"].values()} == {"C++"}
    run(clean / "vireid", "eval", "--features", "all.npz", "--protocol", "sysu/agw",
        "--json", "result.json", cwd=tmp_path)  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert "sysu/agw" in json.dumps(result)


def test_its_command_line_draws_and_finds_the_configurations(clean, tmp_path):
    run(clean / "vireid", "synth", "--out", "people", "--identities", "4", cwd=tmp_path)
    run(clean / "vireid", "check-data", "--root", "people", cwd=tmp_path)
    refused = subprocess.run([clean / "vireid", "train", "--config", "csdn/none", "--run", "run"],
                             cwd=tmp_path, capture_output=True, text=True, timeout=120)  # fmt: skip
    assert refused.returncode == 1 and "'csdn/sysu_mm01_small'" in refused.stderr


def test_type_checkers_see_the_installed_package(clean, tmp_path):
    (tmp_path / "usage.py").write_text((ROOT / "tests/packaging/typed_usage.py").read_text())
    run(sys.executable, "-m", "mypy", "--python-executable", clean / "python",
        "--warn-unused-ignores", "--config-file=", "--ignore-missing-imports", "usage.py",
        cwd=tmp_path)  # fmt: skip
