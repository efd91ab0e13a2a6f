"""Options, devices and result files of the benchmarks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cases import DEVICES, Case, cases_on
from report import group_tables
from results_file import RESULTS, ResultFile


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=DEVICES, help="measure on this device alone (all that are present)"
    )
    parser.addoption(
        "--quick", action="store_true", help="three short rounds, slow cases left out, for a trial"
    )
    parser.addoption(
        "--results", type=Path, help="folder of the result files (a quick run writes none)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a device and case."""
    if "case" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    wanted = [option("--device")] if option("--device") else list(DEVICES)
    cases = [
        (torch.device(name), case)
        for name in wanted
        if name != "cuda" or torch.cuda.is_available()
        for case in cases_on(name)
        if not (option("--quick") and case.slow)
    ]
    ids = [f"{device.type}-{case}" for device, case in cases]
    metafunc.parametrize(("device", "case"), cases, ids=ids)


@pytest.fixture(scope="session")
def results_folder(request: pytest.FixtureRequest) -> Path | None:
    """Where results go; None: nowhere."""
    folder = request.config.getoption("--results")
    return folder or (None if request.config.getoption("--quick") else RESULTS)


@pytest.fixture
def results(
    case: Case, device: torch.device, results_folder: Path | None
) -> Iterator[ResultFile | None]:
    """The result file of the case, written after it; also when the case fails its gate."""
    file = ResultFile(results_folder, case.group, device.type) if results_folder else None
    yield file
    if file:
        file.write()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the ratios, which pytest-benchmark's own table of whole rounds does not."""
    config = terminalreporter.config
    folder = config.getoption("--results") or (None if config.getoption("--quick") else RESULTS)
    if folder and terminalreporter.stats.get("passed"):
        terminalreporter.section("ratios to the fused op")
        for table in group_tables(folder).values():
            terminalreporter.write_line(table)
