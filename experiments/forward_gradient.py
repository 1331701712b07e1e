"""Test error of forward gradients by target, guess and space, as a Markdown table.

    python experiments/forward_gradient.py runs/fg --data_dir <prepared TensorFlow Datasets>
    python experiments/forward_gradient.py runs/fg --dataset digits --arch 32-32 --num_epochs 3

Every rule is trained with the same network, learning rate, number of epochs and seeds, on all training
examples; the test error is the last epoch's. `bp`, `shallow` and `localonly` stand beside them. A run that
is cut off resumes if started again; flags that are not named below go on to tune.py. The last thing
printed is the table.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

from mnist import run

from bpfree import reporting
from bpfree.tuning.statistics import summary

TARGETS = ("global", "local")
GUESSES = ("local", "fixed-ntk", "ntk", "random")
SPACES = ("activation", "weight", "avg-weight")
REFERENCES = ("bp", "shallow", "localonly")


def grid() -> list[tuple[str, str, str, str]]:
    """Spec string, target, guess and space; noise in both weight spaces is the same, and runs once."""
    return [
        (f"fg:target={target},guess={guess},space={space}", target, guess, space)
        for target, guess, space in product(TARGETS, GUESSES, SPACES)
        if (guess, space) != ("random", "weight")
    ]


def train(directory: Path, rules: list[str], options, further: list[str]) -> None:
    """Runs train.bash to its end: every rule with every seed."""
    run(
        directory,
        *(f"--algorithm={rule}" for rule in rules),
        *("--nobatch_norm", "--reg_rate=0", "--validation=0", "--objective=error", "--score=last"),
        *("--scaler=zero_one", "--bw_init=ortho", "--batch_size=100"),
        *(f"--dataset={options.dataset}", f"--arch={options.arch}", f"--lr={options.lr}"),
        *(f"--activation={options.activation}", f"--num_epochs={options.num_epochs}"),
        *(f"--executions_per_trial={options.seeds}", *further),
    )


def main() -> None:
    """Trains and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--arch", default="500-500-500")
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--lr", default="3e-4")
    parser.add_argument("--num_epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    options, further = parser.parse_known_args()
    train(options.directory, [*REFERENCES, *(spec for spec, *_ in grid())], options, further)
    errors = reporting.results(options.directory).groupby("algorithm")["test_error"]
    epochs = f"{options.num_epochs} epochs, {options.seeds} seeds"
    print(
        f"\n{options.dataset}, {options.arch}, {epochs}: test error in % (mean ± 95 % t interval)\n"
    )
    print("| target | guess | space | test error |\n|---|---|---|---|")
    for spec, *names in [*((name, name, "", "") for name in REFERENCES), *grid()]:
        print(f"| {' | '.join(names)} | {summary(errors.get_group(spec))} |")


if __name__ == "__main__":
    main()
