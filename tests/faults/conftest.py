"""How much of the fault suite runs, and what it counts.

Everywhere the short form runs, a sample; `make faults` (`pytest tests/faults --faults=full`) runs
all of it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SEED = 20260101
"""Of everything that the suite draws; a failure names what was drawn."""


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
