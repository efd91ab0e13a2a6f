"""Result files: one JSON list a group and device, of flat records, one a case and provider."""

import json
from pathlib import Path
from typing import Any

from cases import GROUPS, Case
from machine import ROOT, environment
from memory import Peak
from timing import Comparison

from vireid_fast._files import atomic_write

RESULTS = ROOT / "benchmarks" / "results"


class ResultFile:
    """Records of one group on one device.

    Cases that a run does not reach keep their records, so that a part can be measured anew.

    Args:
        folder: Folder of all result files.
        group: Key of `GROUPS`.
        device: Device type.
    """

    def __init__(self, folder: Path, group: str, device: str) -> None:
        self._path = folder / group / f"{device}.json"
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else "[]"
        cases = [case for case in GROUPS[group] if device in case.devices]
        self._order = {_key(case): order for order, case in enumerate(cases)}
        self._records = [r for r in json.loads(text) if (r["op"], r["case"]) in self._order]

    def forget(self, case: Case) -> None:
        """Remove a case from the file; it has no time until it passes its gate again."""
        self._records = [
            record for record in self._records if (record["op"], record["case"]) != _key(case)
        ]
        self.write()

    def add(self, case: Case, comparison: Comparison, memory: dict[str, Peak]) -> None:
        """Write the times of a case, and the peak memory of the providers that have one."""
        head = {"op": case.op, "case": case.name, "shape": case.shape, "dtype": case.dtype}
        facts = environment(comparison.device)
        first = comparison.fused[0]
        judged = "graph" if case.graphs else comparison.clocks[0]
        for clock in comparison.clocks:
            for provider, fused in comparison.pairs:
                record = {**head, **comparison.summary(provider, fused, clock)}
                if provider is first and case.microseconds and clock == judged:
                    record["target_microseconds"] = case.microseconds
                if case.items and "milliseconds" in record:
                    record["rate"] = 1e3 * case.items / record["milliseconds"]
                    record["unit"] = case.unit
                if provider.name in memory and fused.name in memory:
                    own, other = memory[provider.name], memory[fused.name]
                    record |= {
                        "memory_megabytes": own.call / 1e6,
                        "memory_ratio": own.call / max(other.call, 1),
                        "memory_target": provider.memory_target_against(fused.name),
                    }
                    if provider is first:
                        record |= _wanted_memory(case, own)
                self._records.append({**record, **facts})
        self.write()

    def write(self) -> None:
        """Write all records in the order of the cases; no file where there are none."""
        records: list[dict[str, Any]] = sorted(
            self._records, key=lambda record: self._order[record["op"], record["case"]]
        )
        if not records:
            self._path.unlink(missing_ok=True)
            return
        with atomic_write(self._path) as path:
            path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def _wanted_memory(case: Case, peak: Peak) -> dict[str, float]:
    """What a case asks of the memory of its first fused provider, and what decides it."""
    wanted = {}
    if case.megabytes is not None:
        wanted["target_megabytes"] = case.megabytes
    if case.whole_megabytes is not None:
        wanted |= {
            "whole_megabytes": peak.whole / 1e6,
            "target_whole_megabytes": case.whole_megabytes,
        }
    return wanted


def _key(case: Case) -> tuple[str, str]:
    return case.op, case.name
