"""How a command ends: a sentence for the user's mistakes, a traceback for ours."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bpfree.errors import UserError

MISTAKE, NOTHING_SUCCEEDED, INTERRUPTED = 2, 3, 130
_STOPS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
STOPPED = [128 + number for number in _STOPS]


def run(main: Callable[[list[str]], int], argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
        main: takes the arguments, the program's name first, and returns an exit code.
        argv: None means those of this process.

    Returns:
        What `main` returns; 2 after a user's mistake, 130 after Ctrl-C, 143 after TERM, 129 after HUP. Any
        other exception passes, with its traceback.
    """
    argv = sys.argv if argv is None else argv
    for number in _STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _terminate)
    try:
        return main(argv)
    except UserError as error:
        print(f"{Path(argv[0]).name}: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print(
            f"{Path(argv[0]).name}: stopped; the same command goes on from here.", file=sys.stderr
        )
        return INTERRUPTED


def show(text: str) -> None:
    """Prints what was asked for; a reader who has seen enough (`| head`) makes no traceback."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more


def _terminate(number, frame):
    for other in _STOPS:  # a second one would cut short what is done about the first
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)
