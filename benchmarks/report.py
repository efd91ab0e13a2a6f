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
    """Median times of the op benchmarks with their ratio to the peers."""
    lines = [
        "| op | case | provider | ratio to fused (p20-p80) |",
        "| --- | --- | --- | ---: |",
    ]
    for path in sorted((RESULTS / "ops").glob("*.json")):
        for record in json.loads(path.read_text(encoding="utf-8")):
            low, high = record["p20"], record["p80"]
            lines.append(
                f"| {record['op']} | {record['case']} | {record['provider']} | "
                f"{record['ratio']:.2f} ({low:.2f}-{high:.2f}) |"
            )
    return "\n".join(lines)


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
