"""Result files -> README.md, docs/results.md, docs/performance.md and its figure.

No table is typed.
"""

import json
from collections.abc import Callable
from pathlib import Path

from memory_figure import memory_figure
from studies import STUDIES
from study_tables import StudyTables, overview

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = ROOT / "docs" / "memory_per_item.svg"
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
    "rerank": "re-ranking",
    "neighbours": "exact neighbours",
    "evaluation": "evaluation",
    "large_galleries": "large galleries",
    "ops": "distances and ranks",
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
    """Best and worst ratio to a peer and the targets met, one line a measured group and device.

    Groups for which no target is set share one line a device.
    """
    lines, rest = [], {device: ([], []) for device in ("cpu", "cuda")}
    on_gpu = False
    for group, title in GROUPS.items():
        for device, records in _records(group, folder).items():
            on_gpu |= device == "cuda"
            if any(map(_is_wanted, records)):
                lines.append(_summary_line(title, device, _compared(records), _met(records)))
            else:
                rest[device][0].append(title)
                rest[device][1].extend(_compared(records))
    lines += [_summary_line(", ".join(titles), device, peers, _met([]))
              for device, (titles, peers) in rest.items() if titles]  # fmt: skip
    where = "device" if on_gpu else "device (GPU not measured yet)"
    return "\n".join([
        f"| benchmark | {where} | best against a peer | worst against a peer | targets met |",
        "| --- | --- | --- | --- | ---: |",
        *lines,
    ])  # fmt: skip


def _compared(records: list[dict]) -> list[dict]:
    """Ratios to peers; where nobody else does it, to our own plain path."""
    timed = [record for record in records if "ratio" in record]
    return [record for record in timed if record["role"] == "peer"] or [
        record for record in timed if record["role"] == "reference"
    ]


def _summary_line(title: str, device: str, peers: list[dict], met: str) -> str:
    told = [_extreme(peers, choose) for choose in (max, min)] if peers else ["", ""]
    return f"| {title} | {device} | {told[0]} | {told[1]} | {met} |"


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


def _is_wanted(record: dict) -> dict[str, bool]:
    """What is wanted of a record, and whether it is met."""
    verdicts = {}
    if record.get("target") is not None and "ratio" in record:
        verdicts["ratio"] = _ratio_met(record)
    if record.get("memory_target"):
        verdicts["memory_ratio"] = record["memory_ratio"] >= record["memory_target"]
    if "target_microseconds" in record and "milliseconds" in record:
        verdicts["time"] = 1e3 * record["milliseconds"] <= record["target_microseconds"]
    if "target_megabytes" in record:
        verdicts["memory"] = record["memory_megabytes"] <= record["target_megabytes"]
    if "target_whole_megabytes" in record:
        verdicts["whole"] = record["whole_megabytes"] <= record["target_whole_megabytes"]
    return verdicts


def _cells(record: dict) -> list[str]:
    name = f"floor: {record['provider']}" if record["role"] == "floor" else record["provider"]
    if record.get("clock", "host") != "host":
        name = f"{name} ({record['clock']})"
    if record.get("calls") == 1:
        name = f"{name} (one call)"
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
    verdicts = _is_wanted(record)
    if "time" in verdicts:
        wanted, found = record["target_microseconds"], 1e3 * record["milliseconds"]
        scale, unit = (1e3, "ms") if wanted >= 1e3 else (1, "us")
        return f"{found / scale:,.1f} {unit} of {wanted / scale:,.0f}, {_word(verdicts['time'])}"
    if "ratio" not in verdicts:
        return ""
    return f"{record['target']:.2f} {_word(verdicts['ratio'])}"


def _memory_cell(record: dict) -> str:
    if "memory_megabytes" not in record:
        return ""
    verdicts = _is_wanted(record)
    text = f"{record['memory_megabytes']:,.0f} MB"
    if "memory" in verdicts:
        text += f" of {record['target_megabytes']:,.0f}, {_word(verdicts['memory'])}"
    if "whole" in verdicts:
        text += f"; process {record['whole_megabytes']:,.0f} MB of "
        text += f"{record['target_whole_megabytes']:,.0f}, {_word(verdicts['whole'])}"
    if record["role"] == "fused":
        return text
    text += f", {record['memory_ratio']:.3g}x"
    if "memory_ratio" not in verdicts:
        return text
    return f"{text} of {record['memory_target']:g}x, {_word(verdicts['memory_ratio'])}"


def _word(met: bool) -> str:
    return "met" if met else "missed"


def _ratio_met(record: dict) -> bool:
    """A target of 1 asks for "not slower beyond noise": the 80th percentile may reach it."""
    found = record["p80"] if record["target"] == 1.0 else record["ratio"]
    return found >= record["target"]


def _met(records: list[dict]) -> str:
    """Targets of all kinds that are met, and how many there are."""
    verdicts = [met for record in records for met in _is_wanted(record).values()]
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
    FIGURE.write_text(memory_figure(RESULTS), encoding="utf-8")


if __name__ == "__main__":
    write_tables()
