"""One headless Chromium for the tests of pages; they are skipped, with the reason, without it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """A page in Chromium, with what it logged and asked for."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path: Path, *, width: int = 1200, dark: bool = False) -> None:
        """Load a file; of a width below 500 as on a phone."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.command("Emulation.setEmulatedMedia", features=features)
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900,
                     deviceScaleFactor=1, mobile=width < 500)  # fmt: skip
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(path.as_uri())
        self.driver.execute_script("try { localStorage.clear(); } catch {}")

    def command(self, name: str, **arguments) -> dict:
        return self.driver.execute_cdp_cmd(name, arguments)

    def run(self, script: str, *arguments):
        """Value of a script's `return`."""
        return self.driver.execute_script(script, *arguments)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> tuple[list[str], list[str]]:
        """Addresses asked for since `open`, and those of them that the page's policy stopped.

        A data: address is none.
        """
        log = self.driver.get_log("performance")
        messages = [json.loads(entry["message"])["message"] for entry in log]
        sent = {m["params"]["requestId"]: m["params"]["request"]["url"] for m in messages
                if m["method"] == "Network.requestWillBeSent"}  # fmt: skip
        stopped = {m["params"]["requestId"] for m in messages
                   if m["method"] == "Network.loadingFailed"
                   and m["params"].get("blockedReason") == "csp"}  # fmt: skip
        asked = {id: url for id, url in sent.items() if not url.startswith("data:")}
        return list(asked.values()), [url for id, url in asked.items() if id in stopped]

    def keys(self, *keys: str) -> None:
        """Press keys, as a keyboard does: to what has the focus."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium here: apt-get install -y chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield Browser(started)
    finally:
        started.quit()


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Callable[[object], Path]:
    """Write the page of a report or a search once; returns its path."""
    from vireid_fast.report.content import Report
    from vireid_fast.report.page import write_page
    from vireid_fast.report.search_page import write_search_page

    folder, paths = tmp_path_factory.mktemp("pages"), {}

    def write(make: Callable[[], object]) -> Path:
        if make not in paths:
            paths[make] = folder / f"{make.__name__}.html"
            made = make()
            (write_page if isinstance(made, Report) else write_search_page)(made, paths[make])
        return paths[make]

    return write
