"""Options, devices and result files of the benchmarks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cases import DEVICES, Case, cases_on
from report import group_tables
from results_file import RESULTS, ResultFile

_LOST_GPU = 70


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=DEVICES, help="measure on this device alone (all that are present)"
    )
    parser.addoption(
        "--quick", action="store_true", help="one to three rounds, slow cases left out, for a trial"
    )
    parser.addoption(
        "--results", type=Path, help="folder of the result files (a quick run writes none)"
    )
    # Of run.py.
    parser.addoption("--journal", type=Path, help="file that tells which case started and finished")
    parser.addoption("--skip-cases", type=Path, help="file with the cases that are left out")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what an earlier process reached."""
    if path := config.getoption("--skip-cases"):
        reached = set(path.read_text(encoding="utf-8").splitlines())
        left_out = [item for item in items if item.nodeid in reached]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.nodeid not in reached]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep the journal, and end a process whose GPU answers no more."""
    path = item.config.getoption("--journal")
    if not path:
        return (yield)
    _note(path, "start", item)
    done = yield
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            # The context is lost for this process, not for the next one.
            pytest.exit(f"{item.nodeid} broke the GPU: {error}", returncode=_LOST_GPU)
    _note(path, "finish", item)
    return done


def _note(path: Path, word: str, item: pytest.Item) -> None:
    with path.open("a", encoding="utf-8") as journal:
        journal.write(f"{word} {item.nodeid}\n")


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
) -> ResultFile | None:
    """The result file of the group of the case."""
    return ResultFile(results_folder, case.group, device.type) if results_folder else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the ratios, which pytest-benchmark's own table of whole rounds does not."""
    config = terminalreporter.config
    folder = config.getoption("--results") or (None if config.getoption("--quick") else RESULTS)
    if folder and terminalreporter.stats.get("passed"):
        terminalreporter.section("ratios to the fused op")
        for table in group_tables(folder).values():
            terminalreporter.write_line(table)
