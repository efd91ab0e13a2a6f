"""Scalars for TensorBoard, read by TensorBoard."""

import errno
import os

import pytest

from vireid_fast import _files
from vireid_fast._checks import WriteError
from vireid_fast.engine.scalar_events import ScalarEvents, scalar_events

pytest.importorskip("tensorboard")


def _read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_tensorboard_reads_what_was_written(tmp_path):
    events = scalar_events(tmp_path / "tensorboard")
    events.write("joint", 1, {"loss": 2.5, "val_R1": 0.25})
    events.write("joint", 2, {"loss": 1.5})
    assert _read(tmp_path / "tensorboard") == {
        "joint/loss": [(1, 2.5), (2, 1.5)], "joint/val_R1": [(1, 0.25)],
    }  # fmt: skip


def test_a_refused_event_leaves_the_others(tmp_path, monkeypatch):
    events = ScalarEvents(tmp_path)
    events.write("joint", 1, {"loss": 2.5})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_files.os, "fsync", full)
    with pytest.raises(WriteError, match=r"events\.out\.tfevents.* must be written, got No space"):
        events.write("joint", 2, {"loss": 1.5})
    assert _read(tmp_path) == {"joint/loss": [(1, 2.5)]}
