"""What a training of each rule costs on MNIST: time, floating-point operations, memory, energy.

    python experiments/costs.py runs/costs --data_dir <prepared TensorFlow Datasets>
    python experiments/costs.py runs/try --dataset digits --num_epochs 1

784-500×5-10, tanh, Adam at 3e-4, batch 100, one training after the other, seeds 100 to 102. Nothing is
tuned: the table is about the cost of as many epochs for all rules, and their errors only say that they
learned. Resumes where it was if run again; flags that are not named below go on to tune.py. Run it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from mnist import FRESH_SEED, NETWORK, run

from bpfree import reporting
from bpfree.tuning.statistics import summary

RULES = ["bp", "dfa", "drtp", "ll", "lw", "sp", "mf"]
COSTS = {
    "train_flops": ("FLOPs", 1),
    "peak_host_memory": ("peak memory of the host, MiB", 2**-20),
    "peak_device_memory": ("of the device, MiB", 2**-20),
    "energy": ("energy, J", 1),
}
"""What `reporting.results` has beside seconds, its head and its unit."""


def mean(values: pd.Series, unit: float) -> str:
    """The mean, or that there was no meter."""
    return f"{(values * unit).mean():.4g}" if values.notna().all() else "not measured"


def main() -> None:
    """Trains every rule and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--arch", default="500x5")
    parser.add_argument("--num_epochs", type=int, default=5)
    parser.add_argument("--rule", action="append", help=f"repeatable {RULES}")
    options, common = parser.parse_known_args()
    rules = options.rule or RULES
    run(
        options.directory,
        *(f"--dataset={options.dataset}", f"--arch={options.arch}", "--scaler=zero_one"),
        *(f"--algorithm={rule}" for rule in rules),
        *(*NETWORK, "--activation=tanh", "--lr=3e-4", "--batch_size=100", "--population=off"),
        *(f"--num_epochs={options.num_epochs}", f"--seed={FRESH_SEED}"),
        *("--validation=0", "--objective=error", "--score=last"),
        *common,
    )
    runs = reporting.results(options.directory)
    print(
        f"\n{options.dataset}, {options.arch}, {options.num_epochs} epochs, mean ± 95 % interval\n"
    )
    heads = ["rule", "time, s", *(head for head, _ in COSTS.values()), "test error, %"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for rule in rules:
        trained = runs[runs["algorithm"] == rule]
        cells = [f"`{rule}`", str(summary(trained["seconds"]))]
        cells += [mean(trained[name], unit) for name, (_, unit) in COSTS.items()]
        print(f"| {' | '.join(cells)} | {summary(trained['test_error'])} |")


if __name__ == "__main__":
    main()
