"""Result files -> Markdown: README.md, docs/results.md, docs/performance.md. No table is typed."""

import json
from collections.abc import Callable
from pathlib import Path

from studies import STUDIES
from study_tables import StudyTables, overview

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Folder of results/ and module of cases/ -> what it is called; the order of the tables.
GROUPS = {
    "text_tower": "text tower",
    "attention": "cross-modal attention",
    "injection": "prompt injection",
    "attention_pool": "attention pool",
    "accelerate": "accelerate",
    "metric_losses": "metric losses",
    "method_steps": "training steps",
    "extraction": "feature extraction",
    "stfl": "grouped and shifted blocks",
    "diffusion": "semantic diffusion",
    "ops": "retrieval ops",
}


def group_table(group: str, folder: Path = RESULTS) -> str:
    """Every measured case of a benchmark group, device by device."""
    devices = [records for records in _records(group, folder).values() if records]
    parts = [_device_table(records) for records in devices]
    return "\n\n".join(parts) if parts else "Not measured yet: run `make bench`."


def group_tables(folder: Path = RESULTS) -> dict[str, str]:
    """The tables of all groups that have results, by group."""
    return {group: group_table(group, folder) for group in GROUPS if _records(group, folder)}


def performance_table(folder: Path = RESULTS) -> str:
    """Best and worst ratio to a peer and the targets met, one line a measured group and device."""
    lines, devices = [], set()
    for group, title in GROUPS.items():
        for device, records in _records(group, folder).items():
            devices.add(device)
            timed = [r for r in records if "ratio" in r]
            # Where nobody else does it, our own plain path stands in.
            peers = [r for r in timed if r["role"] == "peer"] or [
                r for r in timed if r["role"] == "reference"
            ]
            told = [_extreme(peers, choose) for choose in (max, min)] if peers else ["", ""]
            lines.append(f"| {title} | {device} | {told[0]} | {told[1]} | {_met(records)} |")
    where = "device" if "cuda" in devices else "device (GPU not measured yet)"
    return "\n".join([
        f"| benchmark | {where} | best against a peer | worst against a peer | targets met |",
        "| --- | --- | --- | --- | ---: |",
        *lines,
    ])  # fmt: skip


def _records(group: str, folder: Path) -> dict[str, list[dict]]:
    """The records of a group by device type."""
    files = sorted((folder / group).glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def _device_table(records: list[dict]) -> str:
    """A line on the machine, then all ratios of one device."""
    lines = [
        f"{_machines(records)}.",
        "",
        f"Targets met: {_met(records)}.",
        "",
        "| op | case | shape | provider | ratio (p20-p80) | worst round | target | memory |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for record in records:
        if record["role"] == "fused" and not _fused_is_told(record):
            continue
        lines.append(f"| {' | '.join(_cells(record))} |")
    return "\n".join(lines)


def _fused_is_told(record: dict) -> bool:
    """The fused provider's own line holds only what is no ratio."""
    return any(key in record for key in ("target_microseconds", "memory_megabytes", "rate"))


def _cells(record: dict) -> list[str]:
    name = f"floor: {record['provider']}" if record["role"] == "floor" else record["provider"]
    if record.get("clock", "host") != "host":
        name = f"{name} ({record['clock']})"
    if "rate" in record:
        name = f"{name}: {record['rate']:.3g} {record['unit']}/s"
    case = record["case"]
    if record.get("against", "fused") not in ("fused", record["provider"]):
        case = f"{case}: {record['against']}"
    ratio, worst = _ratio_cells(record)
    head = [record["op"], case, f"{record['shape']}, {record['dtype']}", name]
    return [*head, ratio, worst, _target_cell(record), _memory_cell(record)]


def _ratio_cells(record: dict) -> tuple[str, str]:
    if "absent" in record:
        return f"left out: {record['absent']}", ""
    if record["role"] == "fused":
        return ("", "")
    spread = f"{_ratio(record['p20'])}-{_ratio(record['p80'])}"
    return f"{_ratio(record['ratio'])} ({spread})", _ratio(record["worst"])


def _target_cell(record: dict) -> str:
    if "target_microseconds" in record and "milliseconds" in record:
        wanted, found = record["target_microseconds"], 1e3 * record["milliseconds"]
        return f"{found:.1f} us of {wanted:.0f}, {'met' if found <= wanted else 'missed'}"
    if record.get("target") is None or "ratio" not in record:
        return ""
    return f"{record['target']:.2f} {'met' if _ratio_met(record) else 'missed'}"


def _memory_cell(record: dict) -> str:
    if "memory_megabytes" not in record:
        return ""
    text = f"{record['memory_megabytes']:,.0f} MB"
    if record["role"] == "fused":
        return text
    text += f", {record['memory_ratio']:.3g}x"
    if (wanted := record["memory_target"]) is None:
        return text
    return f"{text} of {wanted:g}x, {'met' if record['memory_ratio'] >= wanted else 'missed'}"


def _ratio_met(record: dict) -> bool:
    """A target of 1 asks for "not slower beyond noise": the 80th percentile may reach it."""
    found = record["p80"] if record["target"] == 1.0 else record["ratio"]
    return found >= record["target"]


def _met(records: list[dict]) -> str:
    """Targets of all kinds that are met, and how many there are."""
    verdicts = [_ratio_met(r) for r in records if r.get("target") is not None and "ratio" in r]
    verdicts += [
        r["memory_ratio"] >= r["memory_target"] for r in records if r.get("memory_target")
    ]
    verdicts += [
        1e3 * r["milliseconds"] <= r["target_microseconds"]
        for r in records
        if "target_microseconds" in r and "milliseconds" in r
    ]
    return f"{sum(verdicts)} of {len(verdicts)}" if verdicts else "none set"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _machines(records: list[dict]) -> str:
    """Where, with what and when the records were taken; they may come from several runs."""
    facts = {}
    for r in records:
        software = [f"torch {r['torch']}"]
        if r.get("cudnn"):
            software += [f"CUDA {r['cuda']}", f"cuDNN {r['cudnn']}"]
        text = (
            f"{r['device_name']} ({r['device']}, {r['instruction_set'] or 'no extension'}), "
            f"{r['threads']} thread{'s' if r['threads'] > 1 else ''}, {', '.join(software)}, "
            f"vireid_fast {r['vireid_fast']} at {(r['git_sha'] or 'no commit')[:10]}, "
            f"{r['date'][:10]}"
        )
        facts[text] = None
    return "; ".join(facts)


def _extreme(peers: list[dict], choose: Callable[..., dict]) -> str:
    """The best or worst record as it is told in the summary."""
    record = choose(peers, key=lambda peer: peer["ratio"])
    return f"{_ratio(record['ratio'])}: {record['case']}, to {record['provider']}"


def replace_block(path: Path, name: str, content: str) -> None:
    """Replace what stands between `<!-- name:begin -->` and `<!-- name:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, tail = rest.partition(end)
    path.write_text(f"{head}{begin}\n{content}\n{end}{tail}", encoding="utf-8")


def write_tables() -> None:
    """Write every generated table."""
    replace_block(ROOT / "README.md", "results", overview(RESULTS))
    for study in STUDIES:
        for name, content in StudyTables(study, RESULTS).blocks().items():
            replace_block(ROOT / "docs" / "results.md", name, content)
    replace_block(ROOT / "README.md", "performance", performance_table())
    for group in GROUPS:
        replace_block(ROOT / "docs" / "performance.md", group, group_table(group))


if __name__ == "__main__":
    write_tables()
