"""Tables of the studies on real images, from benchmarks/results/<study>/<row>-seed<N>.json."""

import json
import statistics
from pathlib import Path

from studies import STUDIES, Row, Study

METRICS = ("R1", "R10", "mAP", "mINP")
PLAIN = ("plain", "infrared-visible", "visible-infrared")
MISSING = "No result file yet: run `make results`."
TITLES = {
    "scene_regions": "images of road scenes", "scene_tracks": "tracklets of road scenes",
    "walkers": "synthetic walkers",
}  # fmt: skip
METHODS = {
    "csdn": "CSDN", "clip4vi_reid": "CLIP4VI-ReID", "clip_mc": "CLIP-MC", "lsmrl": "LSMRL",
}  # fmt: skip


class StudyTables:
    """The tables of one study.

    Args:
        study: The study.
        folder: Folder of all result files.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        self.study = study
        self._records = {
            row.key: [
                json.loads(path.read_text(encoding="utf-8"))
                for path in sorted((folder / study.key).glob(f"{row.key}-seed*.json"))
            ]
            for row in study.rows
        }

    def blocks(self) -> dict[str, str]:
        """Name of a block in docs/results.md -> its table."""
        key = self.study.key
        blocks = {f"{key}-summary": f"{self.start()}\n\n{self.summary()}",
                  f"{key}-seeds": self.seeds()}  # fmt: skip
        if any(row.ablation for row in self.study.rows):
            blocks[f"{key}-ablations"] = self.ablations()
        return blocks

    def summary(self, *, modes: tuple[str, ...] = PLAIN, reranked: bool = True) -> str:
        """Rows of the main table: mean and standard deviation over seeds, in percent."""
        lines = [_head("row", "seeds", *METRICS, "minutes")]
        for row, records in self.main_rows():
            for name, cells in self._cells(row, modes, reranked=reranked):
                minutes = [r["minutes"] for r in records]
                spent = statistics.mean(minutes) if minutes[0] is not None else None
                shown = f"{spent:.1f}" if spent is not None and "re-rank" not in name else ""
                lines.append(_line(name, str(len(minutes)), *cells, shown))
        return "\n".join(lines) if len(lines) > 1 else MISSING

    def ablations(self) -> str:
        """What each module adds, one seed and a shorter budget than in the main table."""
        lines = [_head("method", "row", *METRICS, "minutes")]
        for row in self.study.rows:
            if not row.ablation or not self._records[row.key]:
                continue
            minutes = self._records[row.key][0]["minutes"]
            for name, cells in self._cells(row, PLAIN, reranked=False):
                lines.append(_line(METHODS[row.ablation], name, *cells, f"{minutes:.1f}"))
        return "\n".join(lines) if len(lines) > 1 else MISSING

    def seeds(self) -> str:
        """Every seed of the main rows by itself; the spread is over the trials of a protocol."""
        metrics = ("R1", "R5", "R10", "R20", "mAP", "mINP")
        lines = [_head("seed", "row", *metrics)]
        for row, records in self.main_rows():
            for record in records:
                for name, result in record["results"].items():
                    many = result["trials"] > 1
                    cells = [f"{100 * result[m]:.2f}"
                             + (f" ± {100 * result['std'][m]:.2f}" if many else "")
                             for m in metrics]  # fmt: skip
                    lines.append(_line(str(record["seed"]), _title(row, name), *cells))
        return "\n".join(lines) if len(lines) > 1 else MISSING

    def start(self) -> str:
        """Minutes of what all rows start from, in a sentence."""
        spent: dict[str, list[float]] = {}
        for records in self._records.values():
            for record in records:
                for name, minutes in record["minutes_before"].items():
                    spent.setdefault(name, []).append(minutes)
        parts = [f"{name} {statistics.mean(values):.1f}" for name, values in spent.items()]
        return f"Minutes before: {', '.join(parts)}." if parts else MISSING

    def main_rows(self) -> list[tuple[Row, list[dict]]]:
        """Rows of the main table that have results, and these."""
        return [(row, self._records[row.key]) for row in self.study.rows
                if not row.ablation and self._records[row.key]]  # fmt: skip

    def _cells(
        self, row: Row, modes: tuple[str, ...], *, reranked: bool
    ) -> list[tuple[str, list[str]]]:
        """Name and metric cells of each result of a row that is shown."""
        records = self._records[row.key]
        shown = [
            name
            for name in records[0]["results"]
            if name.removesuffix(", reranked") in modes or (reranked and name == "reranked")
        ]
        return [
            (_title(row, name),
             [_spread([r["results"][name][m] for r in records]) for m in METRICS])
            for name in shown
            if reranked or not name.endswith("reranked")
        ]  # fmt: skip


def overview(folder: Path) -> str:
    """The README's table: trained rows of every study, infrared queries."""
    metrics = ("R1", "mAP", "mINP")
    lines = [_head("data", "row", "seeds", *metrics, "re-ranked R1", "re-ranked mAP")]
    for study in STUDIES:
        for row, records in StudyTables(study, folder).main_rows():
            plain = next(name for name in ("plain", "infrared-visible")
                         if name in records[0]["results"])  # fmt: skip
            again = "reranked" if plain == "plain" else f"{plain}, reranked"
            if not row.trained:
                continue
            values = [(plain, m) for m in metrics] + [(again, m) for m in metrics[:2]]
            cells = [_spread([r["results"][name][m] for r in records]) for name, m in values]
            lines.append(_line(TITLES[study.key], row.title, str(len(records)), *cells))
    return "\n".join(lines) if len(lines) > 1 else MISSING


def _title(row: Row, result: str) -> str:
    mode = result.removesuffix(", reranked")
    words = [row.title]
    if mode not in ("plain", "reranked"):
        words.append(f"({mode})")
    if result.endswith("reranked"):
        words.append("+ re-ranking")
    return " ".join(words)


def _spread(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _head(*names: str) -> str:
    left = {"row", "data", "method"}
    rule = " | ".join("---" if name in left else "---:" for name in names)
    return f"| {' | '.join(names)} |\n| {rule} |"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
