"""Training curves from the log of a run."""

import json
import sys
from pathlib import Path
from typing import Any

from vireid_fast.report.content import TrainingCurve

# What a line says beside its quantities.
_KEYS = ("stage", "epoch", "seconds")
# More than anyone trains: a longer axis comes from a damaged line.
_LAST_EPOCH = 1_000_000


def training_curves(file: Path) -> tuple[tuple[TrainingCurve, ...], tuple[str, ...]]:
    """Every quantity of every stage in `metrics.jsonl`, but the seconds.

    Args:
        file: One JSON object a line: stage, epoch (1-based) and quantities by name.

    Returns:
        Curves in the order of the log, and sentences on what could not be read: a damaged line is
        left out, and so is a value that is no finite number.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return (), ()
    except OSError as error:
        return (), (f"{file.name} could not be read ({error.strerror}): no training curves.",)
    curves: dict[tuple[str, str], dict[int, float]] = {}
    damaged, values = [], 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _record(line)
        if record is None:
            damaged.append(number)
            continue
        for name, value in record.items():
            if name in _KEYS:
                continue
            if _is_number(value):
                own = curves.setdefault((record["stage"], name), {})
                own[record["epoch"]] = float(value)
            else:
                values += 1
    found = tuple(
        TrainingCurve(stage, name, tuple(sorted(own)), tuple(own[n] for n in sorted(own)))
        for (stage, name), own in curves.items()
    )
    return found, _notes(file, damaged, values)


def _record(line: bytes) -> dict[str, Any] | None:
    """An epoch, or None for a damaged line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    fits = (
        isinstance(record, dict)
        and isinstance(record.get("stage"), str)
        and type(record.get("epoch")) is int
        and 1 <= record["epoch"] <= _LAST_EPOCH
    )
    return record if fits else None


def _is_number(value: Any) -> bool:
    """Whether a value can be drawn: finite, and no integer beyond every float."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _notes(file: Path, damaged: list[int], values: int) -> tuple[str, ...]:
    notes = []
    if damaged:
        some = ", ".join(map(str, damaged[:8])) + (", ..." if len(damaged) > 8 else "")
        word = "line" if len(damaged) == 1 else "lines"
        notes.append(f"{file.name}: {len(damaged)} damaged {word} left out ({some}).")
    if values:
        notes.append(f"{file.name}: {values} values left out that are no finite numbers.")
    return tuple(notes)
