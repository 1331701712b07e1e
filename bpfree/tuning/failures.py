"""Why a trial failed, in one line of its traceback."""

from __future__ import annotations

import re

_RAISED = re.compile(r"^([A-Za-z_][\w.]*)(?:: (.*))?$")
_WRAPPED = "Exception encountered when calling"
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


def plain(traceback: str | None) -> str:
    """The traceback without a terminal's colours, in which Keras prints messages."""
    return _COLOUR.sub("", traceback or "").strip()


def reason(traceback: str | None) -> str | None:
    """The exception and its message; None where nothing was recorded.

    Keras wraps what is raised within a layer into a message of several lines, with the true one after
    the first and the layer's arguments after that.

    Args:
        traceback: as Python prints it, or any text, whose last line is its reason.
    """
    lines = [line for line in plain(traceback).splitlines() if line.strip()]
    for index in range(len(lines) - 1, -1, -1):
        raised = _RAISED.match(lines[index])
        if raised and raised[2] and raised[2].startswith(_WRAPPED) and index + 1 < len(lines):
            return f"{raised[1]}: {lines[index + 1].strip()}"
    return lines[-1].strip() if lines else None
