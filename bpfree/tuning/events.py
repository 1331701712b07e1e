"""An event file, as TensorBoard reads it: written without TensorFlow, and without a thread."""

from __future__ import annotations

import io
import itertools
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

_numbers = itertools.count()


class EventFile:
    """An event file of its own in a run's folder, open only while something is appended.

    TensorBoard's `EventFileWriter` keeps a thread and an open file each, imports TensorFlow where it is
    installed, and in a population there would be hundreds.

    Args:
        run: the folder; made with the first event.
    """

    def __init__(self, run: Path):
        # TensorBoard reads the files of a folder by name. A later process begins a file of its own, as the
        # last record of a killed one may be torn.
        when, who = f"{int(time.time()):010d}", f"{socket.gethostname()}.{os.getpid()}"
        self._path = run / f"events.out.tfevents.{when}.{who}.{next(_numbers)}"

    def append(self, summaries: Iterable[Summary], step: int) -> None:
        """Adds summaries of a step.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        self._write(event(summaries, step))

    def restart(self, step: int) -> None:
        """Says that steps from this one on follow: TensorBoard forgets those that it has seen."""
        log = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=step, session_log=log))

    def _write(self, entry: Event) -> None:
        entries = [entry]
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            entries = [version(), entry]
        with open(self._path, "ab") as file:
            file.write(encoded(entries))


def event(summaries: Iterable[Summary], step: int) -> Event:
    """One event of all summaries."""
    values = [value for summary in summaries for value in summary.value]
    return Event(wall_time=time.time(), step=step, summary=Summary(value=values))


def version() -> Event:
    """What a file begins with."""
    return Event(wall_time=time.time(), file_version="brain.Event:2")


def encoded(events: Iterable[Event]) -> bytes:
    """The events as a file has them."""
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for entry in events:
        writer.write(entry.SerializeToString())
    return buffer.getvalue()
