"""Scalars for TensorBoard, written in this thread: what cannot be written is an error here."""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vireid_fast._files import append_bytes


class ScalarEvents:
    """An event file of scalars; its format is TensorBoard's, which must be installed.

    TensorBoard's own writer has a thread, whose errors end it and not the training.

    Args:
        folder: Folder of the event files; made if absent.

    Raises:
        ImportError: TensorBoard is not installed.
        WriteError: The file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = folder / name
        self._append([Event(wall_time=time.time(), file_version="brain.Event:2")])

    def write(self, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        """Append the values of one epoch as "STAGE/NAME"; all of them or none."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        now = time.time()
        scalars = [Summary.Value(tag=f"{stage}/{name}", simple_value=value)
                   for name, value in values.items()]  # fmt: skip
        self._append(
            [Event(wall_time=now, step=epoch, summary=Summary(value=[one])) for one in scalars]
        )

    def _append(self, events: list[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        records = io.BytesIO()
        writer = RecordWriter(records)
        for event in events:
            writer.write(event.SerializeToString())
        append_bytes(self._file, records.getvalue())


def scalar_events(folder: Path) -> ScalarEvents | None:
    """An event file, or None where TensorBoard is not installed."""
    try:
        return ScalarEvents(folder)
    except ImportError:
        return None
