"""Training curves from logs, whole and damaged."""

import json
from pathlib import Path

from vireid_fast.engine.report.training import training_curves


def _line(stage: str, epoch: int, **values: object) -> str:
    return json.dumps({"stage": stage, "epoch": epoch, **values})


def test_every_quantity_of_every_stage_but_the_seconds(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    lines = [
        _line("prompts", 1, loss=3.0, seconds=1.0), _line("prompts", 2, loss=2.0, seconds=1.0),
        _line("visual", 1, loss=9.0, val_R1=0.5), _line("visual", 2, loss=8.0),
        _line("visual", 3, loss=7.0, val_R1=0.75),
    ]  # fmt: skip
    file.write_text("\n".join(lines) + "\n")
    curves, notes = training_curves(file)
    assert notes == ()
    assert [(c.stage, c.name, c.epochs, c.values) for c in curves] == [
        ("prompts", "loss", (1, 2), (3.0, 2.0)),
        ("visual", "loss", (1, 2, 3), (9.0, 8.0, 7.0)),
        ("visual", "val_R1", (1, 3), (0.5, 0.75)),
    ]


def test_damaged_lines_are_left_out_and_named(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    lines = [
        _line("a", 1, loss=1.0).encode(), b'{"stage": "a", "epo', b"[1, 2]", b"\xff\xfe",
        b"[" * 100_000, _line("a", "2", loss=1.0).encode(), _line("a", True, loss=1.0).encode(),
        _line("a", 3, loss="low", text=[1]).encode(), b'{"stage": "a", "epoch": 4, "loss": NaN}',
        _line("a", 0, loss=1.0).encode(), _line("a", 10**9, loss=1.0).encode(),
        _line("a", 4, loss=10**400, text=True).encode(),
        _line("a", 5, loss=5.0).encode(),
    ]  # fmt: skip
    file.write_bytes(b"\n".join(lines))
    curves, notes = training_curves(file)
    assert [(c.name, c.epochs, c.values) for c in curves] == [("loss", (1, 5), (1.0, 5.0))]
    assert notes == (
        "metrics.jsonl: 8 damaged lines left out (2, 3, 4, 5, 6, 7, 10, 11).",
        "metrics.jsonl: 5 values left out that are no finite numbers.",
    )


def test_a_missing_log_and_a_folder_in_its_place(tmp_path: Path):
    assert training_curves(tmp_path / "metrics.jsonl") == ((), ())
    curves, (note,) = training_curves(tmp_path)
    assert curves == () and "could not be read" in note
