"""Memory and record keeping of a sweep of many small trials, which are hardly ever the same program.

Runs tune.py on the digits with networks of 8 units, an epoch each, of all activations and many batch
sizes; every `--every` trials it asks the system how much memory the process holds, which may replace
itself. Record keeping is whatever reads and writes the files of trials and executions, snapshots and
weights included: its share of the whole time so far.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ACTIVATIONS = ["tanh", "relu", "swish", "lrelu", "sigmoid", "elu", "linear"]
RATES = [0.001]
_MEASURED = "measured"  # before seconds of record keeping and MiB, in what a child prints


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("flags", nargs="*", help="further flags of tune.py, after --")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.flags)
        return
    from compiled import table

    print(table(["trials", "MiB", "of the first", "s", "records, %"], measure(options)))


def measure(options) -> list[list[str]]:
    """A line of the table for every `--every` trials."""
    rows, started = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--experiment_dir={folder}", *sweep(options.trials), *options.flags]
        command = [sys.executable, __file__, "--child", "--", *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        recorded = earlier = 0.0  # by the process, and by those that it has replaced
        for line in process.stdout:
            if found := re.match(rf"{_MEASURED} (\S+) (\S+)", line):
                earlier += recorded if float(found[1]) < recorded else 0.0
                recorded, now = float(found[1]), float(found[2])
            found = re.match(r"trial (\d+)/", line)
            if not found or int(found[1]) % options.every or len(rows) >= int(found[1]):
                continue
            first = float(rows[0][1]) if rows else now
            since = time.perf_counter() - started
            share = 100 * (earlier + recorded) / since
            rows.append(
                [found[1], f"{now:.0f}", f"{now / first:.2f}", f"{since:.0f}", f"{share:.1f}"]
            )
            print(*rows[-1], file=sys.stderr)
        if process.wait():
            sys.exit(process.returncode)
    return rows


def sweep(trials: int) -> list[str]:
    """Flags of so many trials, or a few more."""
    sizes = [16 + i for i in range(-(-trials // (len(ACTIVATIONS) * len(RATES))))]
    swept = {"activation": ACTIVATIONS, "batch_size": sizes, "lr": RATES}
    fixed = {"algorithm": "bp", "arch": "8", "reg_rate": 0, "num_epochs": 1}
    flags = [f"--{name}={value}" for name, values in swept.items() for value in values]
    flags += [f"--{name}={value}" for name, value in fixed.items()]
    return [*flags, "--nobatch_norm", "--executions_per_trial=1", "--examples_frac=0.1"]


def child(flags: list[str]) -> None:
    """tune.py, with a clock on its records."""
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from bpfree.cli import answer, renewal, tune
    from bpfree.tuning import callbacks, checkpoint, progress, records

    clock = Clock()
    kept = {
        records.Trial: ("__init__", "save", "begin"),
        records.Execution: ("history", "extend", "cut", "result", "finish"),
        checkpoint.Checkpoint: ("save", "write", "progress", "restore_callbacks", "remove"),
        callbacks: ("save_weights",),
    }
    for owner, names in kept.items():
        for name in names:
            setattr(owner, name, clock.on(getattr(owner, name)))
    ended = progress.Progress.trial_ended

    def tell(self, trial):
        print(f"{_MEASURED} {clock.seconds:.3f} {renewal.resident() / 1024:.0f}")
        ended(self, trial)

    progress.Progress.trial_ended = tell
    sys.argv[:] = ["tune.py", *flags]  # its own, so that the process may be renewed
    sys.exit(answer.run(tune.main))


class Clock:
    """The seconds that are spent in some functions, those that call each other counted once."""

    def __init__(self):
        self.seconds, self._inside = 0.0, False

    def on(self, function):
        """The function, timed."""

        @functools.wraps(function)
        def timed(*args, **kwargs):
            if self._inside:
                return function(*args, **kwargs)
            self._inside, began = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds += time.perf_counter() - began

        return timed


if __name__ == "__main__":
    main()
