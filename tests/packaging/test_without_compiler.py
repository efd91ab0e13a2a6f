"""The sdist holds every file of the repository; VIREID_BUILD=none installs without a compiler."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from build_tree import ROOT, VERSION, run

# What the repository keeps for itself.
NOT_SHIPPED = {".gitignore"}
TORCH_ONLY = "import vireid_fast as v, torch; x = torch.eye(3); v.rerank(x, x, k1=2, k2=1)"


@pytest.fixture(scope="module")
def no_compiler(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose PATH has no compiler, for a build of Python files alone."""
    tools = tmp_path_factory.mktemp("tools")
    for tool in ("sh", "env", "uname"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    return {"PATH": str(tools), "HOME": str(tools), "VIREID_BUILD": "none"}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory, no_compiler: dict[str, str]) -> Path:
    """The sdist of a copy of the tree, since building leaves files in the tree."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "tree", ignore=_left_out)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder,
        folder / "tree", env=no_compiler)  # fmt: skip
    return folder / f"vireid_fast-{VERSION}.tar.gz"


def _left_out(folder: str, names: list[str]) -> set[str]:
    left = {"__pycache__"} | {name for name in names if name.endswith((".so", ".egg-info"))}
    if Path(folder) == ROOT:
        left |= {name for name in names if name.startswith(".") and name != ".ci"}
        left |= {"build", "dist", "runs", "data"}
    return left & set(names)


@pytest.fixture(scope="module")
def unpacked(sdist: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    return sdist.parent / f"vireid_fast-{VERSION}"


@pytest.fixture(scope="module")
def pure_wheel(unpacked: Path, no_compiler: dict[str, str]) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
        "--wheel-dir", unpacked.parent, unpacked, env=no_compiler)  # fmt: skip
    (wheel,) = unpacked.parent.glob("*.whl")
    return wheel


def test_the_sdist_holds_every_tracked_file(unpacked):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout: what is tracked is unknown")
    present = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file()}
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert tracked - present == NOT_SHIPPED
    assert not [name for name in present if name.endswith((".so", ".pyc"))]


def test_a_wheel_without_kernels_is_for_every_python_and_machine(pure_wheel):
    assert pure_wheel.name == f"vireid_fast-{VERSION}-py3-none-any.whl"


def test_it_holds_every_module_and_data_file(pure_wheel, unpacked):
    names = {name for name in ZipFile(pure_wheel).namelist() if ".dist-info/" not in name}
    package = unpacked / "vireid_fast"
    expected = {f"vireid_fast/{p.relative_to(package)}" for p in package.rglob("*") if p.is_file()}
    presets = unpacked / "configs"
    expected |= {f"vireid_fast/configs/{p.relative_to(presets)}" for p in presets.rglob("*.*")}
    assert names == expected


def test_it_runs_on_the_references(pure_wheel, tmp_path):
    # A path of the same packages, but not of the checkout that is installed beside them.
    venv.create(tmp_path / "env")
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    ZipFile(pure_wheel).extractall(site)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-c", TORCH_ONLY, cwd=tmp_path)
    told = json.loads(run(python, "-m", "vireid_fast", "info", "--json", cwd=tmp_path))
    assert {kernel["cpu"] for kernel in told["kernels"].values()} == {"reference"}
    assert told["advice"] == [
        "CPU kernels are not built: VIREID_BUILD=cpu pip install --no-build-isolation -e ."
    ]


def test_pip_installs_the_unpacked_sources(unpacked, no_compiler, tmp_path):
    target = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--no-build-isolation", ".", "--no-deps",
        "--quiet", "--target", target, cwd=unpacked, env=no_compiler)  # fmt: skip
    place = f"{TORCH_ONLY}; print(v.__version__, v.__file__)"
    found = run(sys.executable, "-c", place, cwd=tmp_path, env={"PYTHONPATH": str(target)})
    assert found.split() == [VERSION, str(target / "vireid_fast" / "__init__.py")]


def test_auto_without_a_compiler_says_so(unpacked, no_compiler):
    told = _setup_name(unpacked, no_compiler | {"VIREID_BUILD": "auto"})
    assert told.returncode == 0 and "g++ not found, so no kernels are built" in told.stderr


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("cpu", "setup: VIREID_BUILD=cpu needs the compiler g++, not found."),
        ("fast", "setup: VIREID_BUILD must be auto, cpu, cuda or none, got 'fast'."),
    ],
)
def test_what_cannot_be_built_is_refused(unpacked, no_compiler, wish, message):
    refused = _setup_name(unpacked, no_compiler | {"VIREID_BUILD": wish})
    assert refused.returncode == 1
    assert refused.stderr.strip() == message


def _setup_name(tree: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "setup.py", "--name"], cwd=tree, env=env,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
