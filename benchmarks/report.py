"""Result files -> Markdown: the README's summary and docs/results.md. Tables are never typed."""

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
METRICS = ("R1", "R10", "mAP", "mINP")


def _scene_rows() -> tuple[list[dict], list[str]]:
    files = sorted((RESULTS / "scene_regions").glob("seed*.json"))
    seeds = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return seeds, list(seeds[0]["rows"]) if seeds else []


def _spread(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def summary_table() -> str:
    """Mean and standard deviation over seeds, in percent."""
    seeds, names = _scene_rows()
    if not seeds:
        return "No result file yet: run `make results`."
    lines = [
        f"| {len(seeds)} seeds, % | " + " | ".join(METRICS) + " | minutes |",
        "| --- |" + " ---: |" * (len(METRICS) + 1),
    ]
    for name in names:
        cells = [_spread([s["rows"][name][metric] for s in seeds]) for metric in METRICS]
        minutes = [s["minutes"][name] for s in seeds if name in s["minutes"]]
        cells.append(f"{statistics.mean(minutes):.1f}" if minutes else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seed_table() -> str:
    """Every seed by itself, with the spread over the ten trials."""
    seeds, names = _scene_rows()
    metrics = ("R1", "R5", "R10", "R20", "mAP", "mINP")
    lines = [
        "| seed | row | " + " | ".join(metrics) + " |",
        "| ---: | --- |" + " ---: |" * len(metrics),
    ]
    for seed in seeds:
        for name in names:
            row = seed["rows"][name]
            cells = [f"{100 * row[m]:.2f} ± {100 * row['std'][m]:.2f}" for m in metrics]
            lines.append(f"| {seed['seed']} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def op_table() -> str:
    """Time of every provider of the op benchmarks relative to the fused one, device by device."""
    files = sorted((RESULTS / "ops").glob("*.json"))
    devices = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    parts = [_device_table(records) for records in devices if records]
    return "\n\n".join(parts) if parts else "No result file yet: run `make bench`."


def _device_table(records: list[dict]) -> str:
    """A line on the machine, best and worst case, then all ratios of one device."""
    others = [record for record in records if record["role"] != "fused"]
    lines = [
        f"{_machines(records)}. Ratio: time of the provider / time of the fused op, median of "
        "paired rounds; above 1 the fused op is faster. A floor is the least work that the op "
        "needs, as torch does it.",
        "",
        f"Against peers: {_extremes([r for r in others if r['role'] == 'peer'])}.",
        "",
        "| op | case | shape | provider | ratio (p20-p80) | worst round |",
        "| --- | --- | --- | --- | ---: | ---: |",
    ]
    for record in others:
        name = record["provider"]
        if record["role"] == "floor":
            name = f"floor: {name}"
        cells = (
            record["op"], record["case"], f"{record['shape']}, {record['dtype']}", name,
            f"{_ratio(record['ratio'])} ({_ratio(record['p20'])}-{_ratio(record['p80'])})",
            _ratio(record["worst"]),
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _machines(records: list[dict]) -> str:
    """Where, with what and when the records were taken; they may come from several runs."""
    facts = {
        (
            f"{r['device_name']} ({r['device']}, {r['instruction_set'] or 'no extension'}), "
            f"{r['threads']} thread{'s' if r['threads'] > 1 else ''}, torch {r['torch']}, "
            f"vireid_fast {r['vireid_fast']} at {(r['git_sha'] or 'no commit')[:10]}, "
            f"{r['date'][:10]}"
        ): None
        for r in records
    }
    return "; ".join(facts)


def _extremes(peers: list[dict]) -> str:
    """Best and worst case, as they are told beside each other."""

    def describe(record: dict) -> str:
        place = f"{record['op']}, {record['case']}, to {record['provider']}"
        return f"{_ratio(record['ratio'])} ({place})"

    best = max(peers, key=lambda record: record["ratio"])
    worst = min(peers, key=lambda record: record["ratio"])
    return f"best {describe(best)}, worst {describe(worst)}"


def replace_block(path: Path, name: str, content: str) -> None:
    """Replace what stands between `<!-- name:begin -->` and `<!-- name:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, tail = rest.partition(end)
    path.write_text(f"{head}{begin}\n{content}\n{end}{tail}", encoding="utf-8")


def write_tables() -> None:
    """Write every generated table."""
    replace_block(ROOT / "README.md", "results", summary_table())
    replace_block(ROOT / "docs" / "results.md", "summary", summary_table())
    replace_block(ROOT / "docs" / "results.md", "seeds", seed_table())
    replace_block(ROOT / "docs" / "results.md", "ops", op_table())


if __name__ == "__main__":
    write_tables()
