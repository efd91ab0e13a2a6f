"""How much of the fault suite runs, and what it counts.

Everywhere the short form runs; `make faults` (or VIREID_FAULTS=full) runs all of it.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class Faults:
    """The extent of the suite, and its counts.

    Attributes:
        full: Whether every point is tried, or a sample.
        seed: Seed of everything random; the environment's VIREID_FAULTS_SEED, else 0.
        counts: How often what was tried, by "group: what".
    """

    full: bool
    seed: int
    counts: Counter[str] = field(default_factory=Counter)

    def count(self, what: str, number: int = 1) -> None:
        """Add to a count, which goes into the result file and from there to the README."""
        self.counts[what] += number


@pytest.fixture(scope="session")
def faults() -> Iterator[Faults]:
    extent = os.environ.get("VIREID_FAULTS", "short")
    assert extent in ("short", "full"), f"VIREID_FAULTS must be short or full, got {extent!r}"
    suite = Faults(extent == "full", int(os.environ.get("VIREID_FAULTS_SEED", "0")))
    print(f"fault suite: {extent}, seed {suite.seed}")
    yield suite
    target = os.environ.get("VIREID_FAULT_COUNTS")
    if target:
        text = json.dumps(dict(sorted(suite.counts.items())), indent=1) + "\n"
        Path(target).write_text(text, encoding="utf-8")
