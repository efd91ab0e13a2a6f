"""What the tests of packaging share: the source tree, its metadata, commands."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = re.fullmatch(
    r'""".*"""\n\n__version__ = "(.+)"\n', (ROOT / "vireid_fast" / "_version.py").read_text()
).group(1)


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command, give its standard output; a failure shows all that it printed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True,
        timeout=2000,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def project() -> dict:
    """The table [project] of pyproject.toml."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # pytest brings it to Python 3.10
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirement(text: str) -> tuple[str, str]:
    """Name and version range of a requirement, without its marker; "any" without a range."""
    name, versions = re.fullmatch(r"([\w-]+)\s*([^;]*?)\s*(?:;.*)?", text).groups()
    return name, versions or "any"
