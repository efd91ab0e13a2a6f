"""A case that crashes or fails neither takes others with it nor passes unseen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The first case that is measured dies or fails, in the middle.
BREAK = """
import os, signal
from pathlib import Path

def pytest_collection_finish(session):
    import timing
    whole = timing.Comparison.first_outputs
    marker = Path(os.environ["BROKEN_ONCE"])
    def first_outputs(self):
        if not marker.exists():
            marker.touch()
            {broken}
        return whole(self)
    timing.Comparison.first_outputs = first_outputs
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "crashed: "),
        ("raise AssertionError('wrong result')", "FAILED "),
    ],
)
def test_a_broken_case_costs_no_other(tmp_path, broken, told):
    (tmp_path / "breaker.py").write_text(BREAK.format(broken=broken), encoding="utf-8")
    results = tmp_path / "results" / "injection" / "cpu.json"
    results.parent.mkdir(parents=True)
    # What an earlier run found must not outlive the failure.
    stale = {"op": "prompt_injection", "case": "64 prompts, forward"}
    results.write_text(json.dumps([stale]), encoding="utf-8")
    # A worker of pytest-xdist switches pytest-benchmark off, also in the processes it starts.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "benchmarks/run.py", "-q", "-p", "no:cacheprovider", "-p", "breaker",
         "--quick", "--device", "cpu", "--results", str(tmp_path / "results"),
         "-k", "prompt_injection and 64 and not bfloat16"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**inherited, "PYTHONPATH": path, "BROKEN_ONCE": str(tmp_path / "broken")},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{told}benchmarks/test_cases.py::test_case[cpu-prompt_injection-64" in done.stdout
    cases = {record["case"] for record in json.loads(results.read_text(encoding="utf-8"))}
    assert cases == {"64 prompts, forward + backward"}
