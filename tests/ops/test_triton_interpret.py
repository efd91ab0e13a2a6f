"""Numerics of the Triton kernels without a GPU, through Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_interpreted_kernels_match_reference():
    pytest.importorskip("triton", reason="triton is not installed")
    file = Path(__file__).with_name("interpreted.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("width", "expected"),
    [(1, (16, 1, 1)), (512, (512, 1, 4)), (768, (1024, 1, 4)), (4097, (1024, 5, 4))],
)
def test_plan_covers_the_width(width, expected):
    pytest.importorskip("triton", reason="triton is not installed")
    from vireid_fast.ops.prompt_injection.triton import _plan

    assert tuple(_plan(width)) == expected
