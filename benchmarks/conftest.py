"""Devices and the result files of the op benchmarks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES, Case
from report import op_table
from timing import ROOT, Comparison, environment

from vireid_fast._files import atomic_write

RESULTS = ROOT / "benchmarks" / "results" / "ops"


class ResultFile:
    """Records of one device, a list of flat dictionaries, one for each case and provider.

    Cases that a run does not reach keep their records, so that a part can be measured anew.

    Args:
        path: JSON file; may be absent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else "[]"
        self._order = {_key(case): order for order, case in enumerate(CASES)}
        self._records = [r for r in json.loads(text) if (r["op"], r["case"]) in self._order]

    def forget(self, case: Case) -> None:
        """Remove a case; it has no time until it passes its gate again."""
        self._records = [
            record for record in self._records if (record["op"], record["case"]) != _key(case)
        ]

    def add(self, case: Case, comparison: Comparison) -> None:
        """Take over the times of a case."""
        head = {"op": case.op, "case": case.name, "shape": case.shape, "dtype": case.dtype}
        facts = environment(comparison.device)
        for provider in comparison.providers:
            self._records.append({**head, **comparison.summary(provider), **facts})

    def write(self) -> None:
        """Write all records in the order of `CASES`."""
        records: list[dict[str, Any]] = sorted(
            self._records, key=lambda record: self._order[record["op"], record["case"]]
        )
        with atomic_write(self._path) as path:
            path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def _key(case: Case) -> tuple[str, str]:
    return case.op, case.name


@pytest.fixture(scope="session", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def results(device: torch.device) -> Iterator[ResultFile]:
    """The result file of the device, written at the end of the session."""
    file = ResultFile(RESULTS / f"{device.type}.json")
    yield file
    file.write()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the ratios, which pytest-benchmark's own table of whole rounds does not."""
    if terminalreporter.stats.get("passed"):
        terminalreporter.section("ratios to the fused op")
        terminalreporter.write_line(op_table())
