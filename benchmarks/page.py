"""Time that writing the report page takes, and its size, for the records of a large invented sweep."""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np

from bpfree.reporting import page
from bpfree.tuning.records import Execution, Experiment

RULES = ("bp", "dfa", "drtp", "cce", "ff")
ARCHS = ("500", "500x5", "500-1000-500", "1000", "1000-1000")
ACTIVATIONS = ("tanh", "relu", "swish", "lrelu")
RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
TRACKERS = ("bp_cosine", "nhsic_x", "nhsic_y", "weight_alignment")
TRACKED = [f"{tracker}/block_{block}" for tracker in TRACKERS for block in range(1, 6)]


def invent(folder: Path, trials: int, executions: int, epochs: int) -> None:
    """Records of a finished sweep; its curves fall and its best rate lies inside the range."""
    experiment = Experiment(folder)
    choices = {"algorithm": RULES, "arch": ARCHS, "activation": ACTIVATIONS, "lr": RATES}
    about = {"direction": "min", "trials": trials, "command": ["tune.py"], "versions": {}}
    experiment.open({"dataset": "invented", "objective": "val_error", "choices": choices}, about)
    grid = list(product(*choices.values()))
    for index in range(trials):
        values = dict(
            zip(choices, grid[index % len(grid)], strict=True), batch_size=index // len(grid)
        )
        trial = experiment.trial(index, values)
        trial.begin()
        level = 2 + RULES.index(values["algorithm"]) + abs(np.log10(values["lr"]) + 3)
        scores = [_execute(trial.execution(k), k, index, level, epochs) for k in range(executions)]
        trial.complete(float(np.mean(scores)), scores)


def _execute(execution: Execution, k: int, index: int, level: float, epochs: int) -> float:
    noise = np.random.default_rng([index, k]).normal(0, 0.1, epochs)
    errors = level + 40 * np.exp(-np.arange(epochs) / 20) + noise
    names = ("loss", "val_loss", "error", "val_error", *TRACKED)
    execution.extend(
        [
            {"epoch": epoch, **{name: float(error) for name in names}}
            for epoch, error in enumerate(errors, 1)
        ]
    )
    best = int(errors.argmin())
    metrics = {"val_error": float(errors[best])}
    execution.finish(
        {"score": float(errors[best]), "best_epoch": best + 1, "epochs": epochs, "seed": k}
        | {"metrics": metrics, "seconds": 1.0}
    )
    return float(errors[best])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--executions", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project, file = Path(folder) / "sweep", Path(folder) / "report.html"
        invent(project, options.trials, options.executions, options.epochs)
        seconds = []
        for _ in range(options.rounds):
            started = time.perf_counter()
            page.write([project], file)
            seconds.append(time.perf_counter() - started)
        size = file.stat().st_size / 1e6
    print(f"{options.trials} trials × {options.executions} executions × {options.epochs} epochs:")
    print(
        f"{size:.1f} MB, written in {np.median(seconds):.1f} s "
        f"({min(seconds):.1f}–{max(seconds):.1f}, {options.rounds} rounds)"
    )


if __name__ == "__main__":
    main()
