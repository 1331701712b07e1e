"""A sweep's process replaces itself when its memory has grown, since backends keep what they compiled.

Neither Keras nor a backend gives back all of a model that nobody uses any more. As everything is on
record, the remedy is that of a crash, without the crash: the same command goes on in the same process,
which whoever started it still sees, with fresh memory.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

_GROWTH = 1.1  # since the first trial, at most
_PATIENCE = 1  # a process works at least so many times as long as it took to start

_STARTED = time.monotonic()


class Due(Exception):
    """Raised between two trials, when it is time to begin with fresh memory."""


class Renewal:
    """Raises `Due` when it is called between two trials and this process holds too much memory."""

    def __init__(self):
        self._starting = time.monotonic() - _STARTED
        self._first: int | None = None

    def __call__(self) -> None:
        now = resident()
        self._first = self._first or now
        lived = time.monotonic() - _STARTED
        if now > _GROWTH * self._first and lived > (1 + _PATIENCE) * self._starting:
            raise Due


def renew() -> None:
    """Replaces this process by the same command, which begins nothing anew; does not return."""
    command = sys.orig_argv
    if command[-1] != "--noreset_training":
        command = [*command, "--noreset_training"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)


def resident() -> int:
    """KiB of memory that this process holds; 0 where the system does not say."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return 0
