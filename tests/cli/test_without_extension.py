"""`VIREID_BUILD=none`: the commands say which kernels are missing, and work."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import run_vireid

import vireid_fast

# The import hook of an editable install would find the built modules of the checkout.
WITHOUT_HOOK = """
sys.meta_path = [f for f in sys.meta_path if not getattr(f, "__name__", "").startswith("_Editable")]
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a copy of the package as VIREID_BUILD=none installs it."""
    source = Path(vireid_fast.__file__).parent
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(source, tmp_path / "bare" / "vireid_fast", ignore=ignore)
    return tmp_path / "bare"


def test_info_names_the_command(folder):
    done = run_vireid("info", prelude=WITHOUT_HOOK, cwd=folder)
    assert done.code == 0, done.err
    assert "reference" in done.out and "C++" not in done.out
    command = "VIREID_BUILD=cpu pip install --no-build-isolation -e ."
    assert f"CPU kernels are not built: {command}" in done.out
    values = json.loads(run_vireid("info", "--json", prelude=WITHOUT_HOOK, cwd=folder).out)
    assert values["extension"] is False and values["build"] is None
    assert {kernel["cpu"] for kernel in values["kernels"].values()} == {"reference"}


def test_evaluation_gives_the_same_numbers(vireid, folder, pair, tmp_path):
    command = ("eval", *pair, "--rerank", "5,3,0.3", "--json")
    vireid.ok(*command, tmp_path / "built.json")
    done = run_vireid(*command, tmp_path / "bare.json", prelude=WITHOUT_HOOK, cwd=folder)
    assert done.code == 0, done.err
    built, bare = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("built", "bare"))
    for name in ("R1", "mAP", "mINP"):
        np.testing.assert_allclose(bare[name], built[name], rtol=0, atol=1e-12)
