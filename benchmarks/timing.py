"""Interleaved timing: every round runs all providers, so that noise hits each of them alike."""

import math
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vireid_fast import __version__
from vireid_fast._extension import instruction_set

ROOT = Path(__file__).resolve().parents[1]
FUSED = "fused"

_CASE_SECONDS = 6.0  # first calls and rounds of one case; its inputs and its gate come on top
_MIN_ROUNDS, _MAX_ROUNDS = 3, 60
_WARM_UP_SECONDS = 0.05
# One sample repeats a quick call, so that the clock and one interrupt weigh little.
_SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Provider:
    """One way to compute a case.

    Attributes:
        name: As it stands in the tables; "fused" is the one that all others are compared to.
        role: "floor" marks the least work that the op needs, as torch does it; its output is not
            that of the op.
        run: Computes the result.
        scale: Factor on the measured time; a floor may be a share of what it runs.
    """

    name: str
    role: Literal["fused", "reference", "peer", "floor"]
    run: Callable[[], Any]
    scale: float = 1.0


@dataclass
class Comparison:
    """Times of several providers of one case, taken round by round.

    Attributes:
        providers: The fused one among them.
        device: Device that they run on.
        first_call: Seconds of the first call of each, compilation included.
        samples: Seconds per call of each, one value per round.
    """

    providers: tuple[Provider, ...]
    device: torch.device
    first_call: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    _repeats: dict[str, int] = field(default_factory=dict)
    _rounds_done: int = 0

    def first_outputs(self) -> dict[str, Any]:
        """Call every provider once; what they return goes through the correctness gate."""
        outputs = {}
        for provider in self.providers:
            begin = time.perf_counter()
            outputs[provider.name] = provider.run()
            self._synchronize()
            self.first_call[provider.name] = time.perf_counter() - begin
        return outputs

    def warm_up(self) -> int:
        """Warm every provider up by time.

        Returns:
            Number of rounds that fit the time of one case.
        """
        per_round = 0.0
        for provider in self.providers:
            calls = self._warm_up_one(provider)
            # The fastest call: one that was interrupted would make the samples too short.
            self._repeats[provider.name] = math.ceil(_SAMPLE_SECONDS / min(calls))
            self.samples[provider.name] = []
            per_round += self._repeats[provider.name] * sum(calls) / len(calls)
        left = _CASE_SECONDS - sum(self.first_call.values())
        return min(max(int(left / per_round), _MIN_ROUNDS), _MAX_ROUNDS)

    def round(self) -> None:
        """Take one sample of every provider; each round starts with another one."""
        shift = self._rounds_done % len(self.providers)
        for provider in self.providers[shift:] + self.providers[:shift]:
            repeats = self._repeats[provider.name]
            seconds = self._elapsed(provider.run, repeats) / repeats
            self.samples[provider.name].append(provider.scale * seconds)
        self._rounds_done += 1

    def summary(self, provider: Provider) -> dict[str, Any]:
        """Median, p20 and p80 of the ratio to the fused provider of the same round.

        `ratio`, `p20`, `p80` and `worst`, the least favourable round, are above 1 where the fused
        provider is the faster one.
        """
        samples = np.array(self.samples[provider.name])
        ratios = samples / np.array(self.samples[FUSED])
        return {
            "provider": provider.name,
            "role": provider.role,
            "ratio": float(np.median(ratios)),
            "p20": float(np.percentile(ratios, 20)),
            "p80": float(np.percentile(ratios, 80)),
            "worst": float(ratios.min()),
            "rounds": len(samples),
            "milliseconds": 1e3 * float(np.median(samples)),
            "first_call_milliseconds": 1e3 * provider.scale * self.first_call[provider.name],
        }

    def _warm_up_one(self, provider: Provider) -> list[float]:
        """Seconds of each call. The first call was the warm-up of a provider that takes long."""
        if self.first_call[provider.name] > 10 * _WARM_UP_SECONDS:
            return [self.first_call[provider.name]]
        calls: list[float] = []
        while sum(calls) < _WARM_UP_SECONDS:
            calls.append(self._elapsed(provider.run, 1))
        return calls

    def _elapsed(self, run: Callable[[], Any], repeats: int) -> float:
        self._synchronize()
        begin = time.perf_counter()
        for _ in range(repeats):
            run()
        self._synchronize()
        return time.perf_counter() - begin

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def environment(device: torch.device) -> dict[str, Any]:
    """What a time depends on besides the case."""
    on_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if on_gpu else _cpu_name(),
        "threads": torch.get_num_threads(),
        "instruction_set": instruction_set(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "numpy": np.__version__,
        "vireid_fast": __version__,
        "git_sha": _git_sha(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


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
