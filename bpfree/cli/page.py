"""Keeps the report page of a running sweep up to date, at little cost and no risk to the sweep."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

import keras

_PAUSE = 60  # seconds between two pages, at least
_SHARE = 0.03  # of the time, at most


class Page(keras.callbacks.Callback):
    """Writes `report.html` into a project's folder, once in a while as epochs end.

    Args:
        project: the folder.
    """

    reads_weights = False
    """So that models may train together, see `bpfree.tuning.populations`."""
    shared = True
    """By all executions: what it knows is no execution's, see `bpfree.tuning.checkpoint`."""

    def __init__(self, project: Path):
        super().__init__()
        self.project = project
        self._due = time.monotonic() + max(0.0, _PAUSE - self._age())

    def on_epoch_end(self, epoch, logs=None):
        if time.monotonic() >= self._due:
            self.write()

    def _age(self) -> float:
        """Seconds since the last page, or since the sweep began: a sweep may go on in a new process."""
        for name in ("report.html", "experiment.json"):
            with suppress(OSError):
                return time.time() - (self.project / name).stat().st_mtime
        return 0.0

    def write(self) -> Path | None:
        """Writes the page now, and returns its path; None, after saying why, if that failed.

        Whatever goes wrong with the page, the sweep goes on.
        """
        started = time.monotonic()
        file = self.project / "report.html"
        try:
            from bpfree.reporting import page

            page.write([self.project], file)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            print(f"{file} could not be written ({reason}).", file=sys.stderr)
            file = None
        ended = time.monotonic()
        self._due = ended + max(_PAUSE, (ended - started) / _SHARE)
        return file
