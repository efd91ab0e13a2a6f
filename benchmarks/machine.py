"""What a time depends on besides the case: machine, versions, commit."""

import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vireid_fast import __version__
from vireid_fast._extension import instruction_set

ROOT = Path(__file__).resolve().parents[1]


def environment(device: torch.device) -> dict[str, Any]:
    """Facts that stand in every record."""
    on_gpu = device.type == "cuda"
    facts = {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if on_gpu else _cpu_name(),
        "threads": torch.get_num_threads(),
        "instruction_set": instruction_set(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "numpy": np.__version__,
        "transformers": _version("transformers"),
        "faiss": _version("faiss-cpu"),
        "torchmetrics": _version("torchmetrics"),
        "vireid_fast": __version__,
        "git_sha": _git_sha(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if on_gpu:
        facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return facts


def _cpu_name() -> str:
    """The model's name where the system tells it (Linux)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_sha() -> str | None:
    """Commit of the checkout, with a + where files differ from it; None outside a checkout."""
    sha = _git("rev-parse", "HEAD")
    # Result files are the outcome of a run, not a change of what was measured.
    changed = _git("status", "--porcelain", "--", ":/", ":(exclude,top)benchmarks/results")
    return f"{sha}+" if sha and changed else sha


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


_PACKAGES = ("numpy", "scipy", "triton", "transformers", "xformers", "safetensors", "faiss-cpu",
             "torchmetrics", "pytest",
             "pytest-benchmark", "pytest-timeout", "hypothesis", "pybind11", "ninja")  # fmt: skip


def main() -> None:
    """Print what a GPU machine has, so that its log says what was measured with what."""
    print(f"Python {platform.python_version()}, torch {torch.__version__}, "
          f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")  # fmt: skip
    for package in _PACKAGES:
        print(f"{package:18} {_version(package) or 'absent'}")
    if not torch.cuda.is_available():
        print("no CUDA device")
        return
    print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())
    for name in ("cudnn", "flash", "mem_efficient", "math"):
        print(f"SDPA {name}: enabled {getattr(torch.backends.cuda, f'{name}_sdp_enabled')()}")


if __name__ == "__main__":
    main()
