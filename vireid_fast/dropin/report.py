"""What `accelerate` and `revert` did, as data and as a table."""

from dataclasses import dataclass
from typing import NamedTuple


class ReportEntry(NamedTuple):
    """One module.

    Attributes:
        name: Its name in the model, as `named_modules` gives it; "" is the model itself.
        kind: What it was recognised as, for instance "attention pool".
        detail: What was done, or why nothing was.
    """

    name: str
    kind: str
    detail: str


@dataclass(frozen=True)
class AccelerationReport:
    """What `accelerate` did; `str()` gives a table.

    Attributes:
        replaced: Modules that compute in a faster way now.
        left: Modules that were recognised and stay as they are, with the reason.
    """

    replaced: tuple[ReportEntry, ...]
    left: tuple[ReportEntry, ...]

    def __str__(self) -> str:
        rows = [("replaced", *self._row(entry)) for entry in self.replaced]
        rows += [("left", *self._row(entry)) for entry in self.left]
        if not rows:
            return "nothing to accelerate: no module of a known kind"
        rows.insert(0, ("", "module", "kind", "detail"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]])
            for row in rows
        )

    @staticmethod
    def _row(entry: ReportEntry) -> tuple[str, str, str]:
        return (entry.name or "(the model)", entry.kind, entry.detail)
