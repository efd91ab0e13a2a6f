"""A shell in which the commands of a page run as a reader would type them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Programs that the pages call and that must not be those of the machine.
PROGRAMS = (
    "vireid", "torchrun", "python", "python3", "pip", "make", "git", "ruff", "benchmarks/gpu.sh",
)  # fmt: skip


@dataclass(frozen=True)
class Shell:
    """A folder that starts empty, and a shell in it."""

    folder: Path
    environment: dict[str, str]

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """What bash makes of a script; the first failure ends it."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        )  # fmt: skip

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run code as a script in the same folder."""
        (self.folder / "block.py").write_text(code, encoding="utf-8")
        return self.run("python block.py")


@pytest.fixture(scope="session")
def command_server(tmp_path_factory) -> Iterator[Path]:
    """The socket of a server that outlives the pages."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "cache").mkdir()
    command = [sys.executable, HERE / "command_server.py", folder / "socket", folder / "cache"]
    # Checkpoints as they are published are drawn there.
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout.readline() == "ready\n"
        yield folder / "socket"
        server.kill()


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> Path:
    """A folder with the programs that hand their arguments to the server."""
    folder = tmp_path_factory.mktemp("bin")
    client = HERE / "command_client.py"
    for name in PROGRAMS:
        file = folder / name.rpartition("/")[2]
        file.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {client} {name} "$@"\n')
        file.chmod(0o755)
    return folder


@pytest.fixture
def open_shell(command_server, programs, tmp_path_factory) -> Callable[[], Shell]:
    """Open a shell in a new folder."""

    def make() -> Shell:
        folder = tmp_path_factory.mktemp("page")
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "activate").touch()
        for name in ("pip", "python"):
            (folder / ".venv" / "bin" / name).symlink_to(programs / name)
        (folder / "docs").mkdir()
        (folder / "docs" / "examples").symlink_to(HERE.parents[1] / "docs" / "examples")
        (folder / "benchmarks").mkdir()
        (folder / "benchmarks" / "gpu.sh").symlink_to(programs / "gpu.sh")
        environment = {
            "PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "100",
            "DOCS_COMMAND_SERVER": str(command_server), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        return Shell(folder, environment)

    return make
