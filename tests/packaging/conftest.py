"""The built files under test: `make wheel-check` runs `pytest tests/packaging --artifacts dist`."""

from pathlib import Path

import pytest
from build_tree import ROOT


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--artifacts", help="Folder with the sdist and the wheel to check.")
    parser.addoption("--torch", default="torch", help="What pip installs as torch.")


@pytest.fixture(scope="session")
def artifacts(request: pytest.FixtureRequest) -> Path:
    # The options exist only if this folder is named on the command line.
    folder = request.config.getoption("--artifacts", default=None)
    if folder is None:
        pytest.skip("needs a built wheel: make wheel wheel-check")
    return ROOT / folder


@pytest.fixture(scope="session")
def wheel_file(artifacts: Path) -> Path:
    (found,) = artifacts.glob("*.whl")
    return found
