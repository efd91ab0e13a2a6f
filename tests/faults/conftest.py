"""How much of the fault suite runs, and what it counts.

Everywhere the short form runs, a sample; `make faults` (`pytest tests/faults --faults=full`) runs
all of it.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "engine"))

from tiny_runs import SEED, write_tiny_sets
from zygote import Zygote, build_library

__all__ = ["SEED"]


@pytest.fixture(scope="session")
def faults_full(request: pytest.FixtureRequest) -> bool:
    """Whether every point is tried, or a sample."""
    return request.config.getoption("--faults") == "full"


@pytest.fixture(scope="session")
def count(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """`count(what, number=1)` adds to what the result file says was tried."""
    counts: Counter[str] = Counter()

    def add(what: str, number: int = 1) -> None:
        counts[what] += number

    yield add
    target = request.config.getoption("--faults-counts")
    if target:
        text = json.dumps(dict(sorted(counts.items())), indent=1) + "\n"
        Path(target).write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Forks a child for each job, in which calls of the C library may fail."""
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("no C compiler, or no Linux: calls cannot be made to fail")
    parent = Zygote(build_library(tmp_path_factory.mktemp("library")))
    yield parent
    parent.close()


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sets of `method_cases`."""
    return write_tiny_sets(tmp_path_factory.mktemp("sets"))
