"""Peak memory of the process on the host."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

_PROCESS = Path("/proc/self")


def reset_host_peak() -> None:
    """Begins to look for the peak anew, where the system can: Linux, and not in every container."""
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")


def host_peak() -> int | None:
    """Most bytes that were resident at once since `reset_host_peak`; None where nothing says it.

    It is that of the whole process: interpreter, libraries and data are in it. Where the peak cannot be
    reset, it is that since the process began.
    """
    with suppress(OSError, StopIteration):
        lines = (_PROCESS / "status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    with suppress(ImportError):
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return None
