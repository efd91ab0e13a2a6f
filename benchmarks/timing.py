"""Interleaved timing: every round runs all providers, so that noise hits each of them alike."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from stopwatches import CaptureError, Stopwatch, host_stopwatch, stopwatches

FUSED = "fused"
Role = Literal["fused", "variant", "reference", "peer", "floor"]
Target = float | Mapping[str, float] | None

_WARM_UP_SECONDS = 0.05
# One sample repeats a quick call, so that the clock and one interrupt weigh little.
_SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Provider:
    """One way to compute a case.

    Attributes:
        name: As it stands in the tables.
        role: "fused" is what the package does by itself, the one that all others are compared to
            (a case may have several: one per prompt template); "variant" another way of ours;
            "floor" the least work that the op needs, as torch does it, whose output is not that of
            the op.
        run: Computes the result; None: it cannot run here, for the reason in `absent`.
        scale: Factor on the measured time; a floor may be a share of what it runs.
        target: Ratio of times to the fused provider that we aim at, or one by fused provider. 1.0
            reads "not slower beyond noise".
        memory_target: The same for the ratio of peak memory.
        absent: Why it cannot run.
        only: Name of the one fused provider that it is compared to; empty: to all.
        once: It takes so long that its first call is the sample of every round: the processor time
            of this process where that is less than the wall clock's, as on a machine that stalls.
        allowance: Seconds that are added to its time, where the wish is "at most this much more".
    """

    name: str
    role: Role
    run: Callable[[], Any] | None
    scale: float = 1.0
    target: Target = None
    memory_target: Target = None
    absent: str = ""
    only: str = ""
    once: bool = False
    allowance: float = 0.0

    def target_against(self, fused: str) -> float | None:
        """Wanted ratio of times to one fused provider."""
        return self.target.get(fused) if isinstance(self.target, Mapping) else self.target

    def seconds(self, measured: float) -> float:
        """The time that counts, of one that was measured."""
        return self.scale * measured + self.allowance

    def memory_target_against(self, fused: str) -> float | None:
        """Wanted ratio of peak memory to one fused provider."""
        wanted = self.memory_target
        return wanted.get(fused) if isinstance(wanted, Mapping) else wanted


@dataclass(frozen=True)
class Budget:
    """How long one case is measured.

    Attributes:
        seconds: First calls and rounds; inputs and gate come on top.
        least_rounds: Rounds that are taken even if they last longer.
        most_rounds: Rounds after which a quick case stops.
    """

    seconds: float = 6.0
    least_rounds: int = 3
    most_rounds: int = 60


@dataclass
class Comparison:
    """Times of several providers of one case, taken round by round.

    On a GPU each sample exists twice: "eager" between two events, launches included, and "graph",
    the replay of a captured graph of many calls.

    Attributes:
        providers: The fused ones among them; absent ones are not run.
        device: Device that they run on.
        graphs: Also replay CUDA graphs.
        first_call: Seconds of the first call of each, compilation included.
        samples: Seconds per call by (clock, provider), one value per round.
        lost: Why a provider has no samples of a clock.
    """

    providers: tuple[Provider, ...]
    device: torch.device
    graphs: bool = True
    first_call: dict[str, float] = field(default_factory=dict)
    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    lost: dict[tuple[str, str], str] = field(default_factory=dict)
    _clocks: dict[tuple[str, str], tuple[Stopwatch, int]] = field(default_factory=dict)
    _rounds_done: int = 0

    @property
    def fused(self) -> list[Provider]:
        """The providers that all others are compared to."""
        return [provider for provider in self.providers if provider.role == FUSED]

    @property
    def pairs(self) -> list[tuple[Provider, Provider]]:
        """Every provider with each fused one that it is compared to; a fused one with itself."""
        return [
            (provider, fused)
            for fused in self.fused
            for provider in self.providers
            if provider is fused or (provider.role != FUSED and provider.only in ("", fused.name))
        ]

    @property
    def clocks(self) -> list[str]:
        """Clocks that have samples, in the order of measuring."""
        return list(dict.fromkeys(clock for clock, _ in self.samples))

    def first_outputs(self) -> dict[str, Any]:
        """Call every provider once; what they return goes through the correctness gate.

        Memory that they do not write holds NaN meanwhile, but for those whose only call this is. A
        peer without a target that refuses, as a backend does that was not made for a shape, is told
        as absent.
        """
        outputs = {}
        present = []
        for provider in self.providers:

            def run(provider: Provider = provider) -> None:
                outputs[provider.name] = provider.run()

            try:
                if provider.run is not None:
                    self.first_call[provider.name] = self._first_call(provider, run)
            except (ImportError, RuntimeError) as error:
                if provider.role != "peer" or provider.target is not None:
                    raise
                reason = str(error).partition("\n")[0]
                provider = dataclasses.replace(provider, run=None, absent=f"failed: {reason}")
            present.append(provider)
        self.providers = tuple(present)
        return outputs

    def warm_up(self, budget: Budget) -> int:
        """Warm every provider up by time.

        Returns:
            Number of rounds that fit the time of one case.
        """
        per_round = 0.0
        for provider in self._present():
            for clock, make in stopwatches(self.device, self.graphs).items():
                key = clock, provider.name
                if provider.once:
                    self.samples[key] = []
                    continue
                try:
                    stopwatch = make(provider.run, self.device)
                    calls = self._warm_up_one(provider, stopwatch)
                except CaptureError as error:
                    self.lost[key] = str(error)
                    continue
                # The fastest call: one that was interrupted would make the samples too short.
                repeats = math.ceil(_SAMPLE_SECONDS / min(calls))
                self._clocks[key] = stopwatch, repeats
                self.samples[key] = []
                per_round += repeats * sum(calls) / len(calls)
        again = [self.first_call[one.name] for one in self._present() if not one.once]
        left = budget.seconds - sum(again)
        return min(max(int(left / per_round), budget.least_rounds), budget.most_rounds)

    def round(self) -> None:
        """Take one sample of every provider; each round starts with another one."""
        keys = list(self._clocks)
        shift = self._rounds_done % len(keys)
        by_name = {provider.name: provider for provider in self.providers}
        for key in keys[shift:] + keys[:shift]:
            stopwatch, repeats = self._clocks[key]
            self.samples[key].append(by_name[key[1]].seconds(stopwatch(repeats)))
        for key in self.samples.keys() - self._clocks.keys():
            self.samples[key].append(by_name[key[1]].seconds(self.first_call[key[1]]))
        self._rounds_done += 1

    def summary(self, provider: Provider, fused: Provider, clock: str) -> dict[str, Any]:
        """Median, p20 and p80 of the ratio to the fused provider of the same round.

        `ratio`, `p20`, `p80` and `worst`, the least favourable round, are above 1 where the fused
        provider is the faster one. A provider without samples gives the reason in `absent`.
        """
        named = {"provider": provider.name, "role": provider.role, "against": fused.name,
                 "clock": clock, "target": provider.target_against(fused.name)}  # fmt: skip
        lost = [
            provider.absent,
            *(self.lost.get((clock, one.name), "") for one in (provider, fused)),
        ]
        if reason := next(filter(None, lost), ""):
            return {**named, "absent": reason}
        samples = np.array(self.samples[clock, provider.name])
        ratios = samples / np.array(self.samples[clock, fused.name])
        return {
            **named,
            "ratio": float(np.median(ratios)),
            "p20": float(np.percentile(ratios, 20)),
            "p80": float(np.percentile(ratios, 80)),
            "worst": float(ratios.min()),
            "rounds": len(samples),
            "milliseconds": 1e3 * float(np.median(samples)),
            "first_call_milliseconds": 1e3 * provider.seconds(self.first_call[provider.name]),
            **({"calls": 1} if provider.once else {}),
        }

    def _present(self) -> list[Provider]:
        return [provider for provider in self.providers if provider.run is not None]

    def _first_call(self, provider: Provider, run: Callable[[], None]) -> float:
        """Seconds of the first call."""
        if not provider.once:
            with _poisoned_memory():
                return host_stopwatch(run, self.device)(1)
        begin = time.process_time()
        seconds = host_stopwatch(run, self.device)(1)
        spent = time.process_time() - begin
        return min(seconds, spent) if self.device.type == "cpu" else seconds

    def _warm_up_one(self, provider: Provider, stopwatch: Stopwatch) -> list[float]:
        """Seconds of each call. The first call was the warm-up of a provider that takes long."""
        first = self.first_call[provider.name]
        # A GPU loads its kernels in the first call.
        if first > (10 if self.device.type == "cpu" else 100) * _WARM_UP_SECONDS:
            return [first]
        calls: list[float] = []
        while sum(calls) < _WARM_UP_SECONDS:
            calls.append(stopwatch(1))
        return calls


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """Fill memory that torch hands out with NaN, so that an unwritten value fails the gate."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
