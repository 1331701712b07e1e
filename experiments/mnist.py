"""Test error on MNIST of each rule with its own learning rate, as in the tables of docs/RESULTS.md.

    python experiments/mnist.py runs/mnist --arch 500 --data_dir <prepared TensorFlow Datasets>
    python experiments/mnist.py runs/local --arch 500-500 --activation relu --num_epochs 20 \\
        --rule bp --rule lw --rule mf --rule sp

For each rule: the learning rate among 1e-4, 3e-4 and 1e-3 and the number of epochs, at most 100, with
the least validation error (54,000 training examples, 6,000 validation examples, seed 0); then five
trainings (`--seeds`) on all 60,000 examples for that many epochs, with seeds from 100 on, and the test
error at their end. Both steps resume where they were if run again; flags that are not named below go on to
tune.py. The last thing printed is the table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bpfree import reporting
from bpfree.tuning.statistics import summary

ROOT = Path(__file__).parents[1]
NETWORK = ["--nobatch_norm", "--bw_init=ortho", "--reg_rate=0"]
DATA = ["--dataset=mnist", "--scaler=zero_one"]
RATES = ["--lr=1e-4", "--lr=3e-4", "--lr=1e-3"]
FRESH_SEED = 100


def run(directory: Path, *flags: str) -> None:
    """Runs train.bash to its end; where that fails, ends with its exit code, for it has said why."""
    process = subprocess.Popen([ROOT / "train.bash", directory, *flags])
    while process.poll() is None:
        try:
            process.wait()
        except KeyboardInterrupt:  # which train.bash has heard as well
            continue
    if process.returncode:
        sys.exit(process.returncode)


def sweep(directory: Path, *flags: str) -> None:
    """Sweeps over MNIST, on the network of these experiments."""
    run(directory, *DATA, *NETWORK, *flags)


def tune(directory: Path, rules: list[str], common: list[str], epochs: int) -> None:
    """One execution per rule and learning rate."""
    sweep(
        directory,
        *common,
        *(f"--algorithm={rule}" for rule in rules),
        *RATES,
        f"--num_epochs={epochs}",
        "--objective=val_error",
        "--executions_per_trial=1",
    )


def retrain(directory: Path, chosen, common: list[str], seeds: int) -> None:
    """As many executions as seeds with the chosen rate and number of epochs, on all training data."""
    sweep(
        directory,
        *common,
        f"--algorithm={chosen.algorithm}",
        f"--lr={chosen.lr}",
        f"--num_epochs={chosen.best_epoch:.0f}",
        "--validation=0",
        "--objective=error",
        "--score=last",
        f"--executions_per_trial={seeds}",
        f"--seed={FRESH_SEED}",
    )


def main() -> None:
    """Tunes, retrains and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--arch", default="500")
    parser.add_argument("--rule", action="append", help="repeatable [bp dfa drtp]")
    parser.add_argument("--num_epochs", type=int, default=100)
    parser.add_argument("--activation", default="tanh")
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 100 on")
    options, common = parser.parse_known_args()
    common += [
        f"--{flag}={getattr(options, flag)}" for flag in ("arch", "activation", "batch_size")
    ]
    rules = options.rule or ["bp", "dfa", "drtp"]
    folder = options.directory / options.arch
    tuning = folder / "-".join(["tuning", *rules])
    tune(tuning, rules, common, options.num_epochs)
    runs = reporting.results(tuning)
    rows = []
    for rule in rules:
        of_rule = runs[runs["algorithm"] == rule]
        chosen = of_rule.loc[of_rule["score"].idxmin()]
        retrain(folder / f"final-{rule}", chosen, common, options.seeds)
        errors = reporting.results(folder / f"final-{rule}")["test_error"]
        rows.append((rule, f"{chosen.lr:g}", f"{chosen.best_epoch:.0f}", str(summary(errors))))
    print(f"\nMNIST 784-{options.arch}-10, test error in % (mean ± 95 % t interval)\n")
    print("| rule | learning rate | epochs | test error |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
