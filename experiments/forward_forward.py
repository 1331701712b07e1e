"""Test error on MNIST of Forward-Forward beside its controls, as in the table of docs/RESULTS.md.

    python experiments/forward_forward.py runs/ff --data_dir <prepared TensorFlow Datasets>
    python experiments/forward_forward.py runs/ff --only unsupervised --only untrained

Each row is one training per seed on all 60,000 examples, with the recipe that the row says; the test
set is used at its end. Resumes where it was if run again; flags that are not named below go on to
tune.py. The last thing printed is the table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from mnist import FRESH_SEED, sweep

from bpfree import reporting
from bpfree.tuning.statistics import summary


@dataclass(frozen=True)
class Row:
    """One line of the table: a rule on an architecture, and how long it trains."""

    algorithm: str
    arch: str
    epochs: int
    lr: float = 1.5e-3


ROWS = {
    "64-32": Row("ff", "64-32", 60),
    "2000-2000": Row("ff", "2000-2000", 5),
    "1000x3": Row("ff", "1000x3", 100),
    "unsupervised": Row("ff:mode=unsupervised", "500x4", 30),
    "untrained": Row("ff:mode=unsupervised,train_blocks=false", "500x4", 30),
}


def train(directory: Path, row: Row, seeds: int, common: list[str]) -> None:
    """One execution per seed of a row."""
    sweep(
        directory,
        *common,
        f"--algorithm={row.algorithm}",
        f"--arch={row.arch}",
        f"--lr={row.lr}",
        f"--num_epochs={row.epochs}",
        "--activation=relu",
        "--optimizer=momentum",
        "--lr_schedule=cosine",
        "--weight_decay=3e-4",
        "--validation=0",
        "--objective=error",
        "--score=last",
        f"--executions_per_trial={seeds}",
        f"--seed={FRESH_SEED}",
    )


def main() -> None:
    """Trains the rows asked for, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", action="append", choices=ROWS, help="repeatable [all rows]")
    parser.add_argument("--seeds", type=int, default=1)
    options, common = parser.parse_known_args()
    lines = []
    for name in options.only or ROWS:
        row, folder = ROWS[name], options.directory / name
        train(folder, row, options.seeds, common)
        errors = summary(reporting.results(folder)["test_error"])
        lines.append((row.algorithm, row.arch, f"{row.lr:g}", f"{row.epochs}", str(errors)))
    print("\nForward-Forward on MNIST, test error in % (mean ± 95 % t interval)\n")
    print("| rule | layers | learning rate | epochs | test error |\n|---|---|---|---|---|")
    for line in lines:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
