"""Test error on MNIST of PEPITA and of difference target propagation by their published recipes.

    python experiments/pepita_dtp.py runs/pepita_dtp --data_dir <prepared TensorFlow Datasets>
    python experiments/pepita_dtp.py runs/quick --recipe pepita --recipe bp --num_epochs 10

PEPITA, and BP and untrained blocks beside it: 784-1024-10 with relu and without biases, SGD with momentum
0.9, rate 0.1 (BP: 0.01), times 0.1 after 60 and 90 % of the epochs, batches of 64, 10 % dropout (Dellaferrera
& Kreiman 2022). DTP, and BP on the same network: 784-500-500-10 with elu, and a LeNet with the values that
Ernoult et al. 2022 chose for theirs, momentum 0.9, cosine schedule. Inputs lie in [0, 1]. Three trainings
each on all 60,000 examples, seeds 100 to 102, and the test error at their end. Runs resume where they were
if the command is given again; flags that are not named below go on to tune.py. The last thing printed is the
table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mnist import run

from bpfree import reporting
from bpfree.tuning.statistics import summary

COMMON = [
    *(
        "--dataset=mnist",
        "--scaler=zero_one",
        "--validation=0",
        "--objective=error",
        "--score=last",
    ),
    *("--executions_per_trial=3", "--seed=100", "--optimizer=momentum", "--nobatch_norm"),
]
DENSE = ["--arch=1024", "--activation=relu", "--fw_init=he", "--nouse_bias", "--batch_size=64"]
DENSE += ["--reg_rate=0.1"]
ELU = ["--activation=elu", "--lr_schedule=cosine", "--reg_rate=0"]
MLP = ["--arch=500-500", "--lr=0.05", "--batch_size=128", *ELU]
LENET = ["--arch=CONV_32_5_1_2_CONV_64_5_1_2_FC_512_FC_10:pool=last", "--lr=0.036"]
LENET += ["--batch_size=256", "--weight_decay=1e-4", *ELU]
LENET_FEEDBACK = (
    "beta=0.4655,sigma=[0.4164,0.3826,0.1395],iterations=[41,51,24],"
    "feedback_lr=[7.188e-4,1.251e-4,3.541e-2],bw_init=uniform"
)
RECIPES = {
    "pepita": ["--algorithm=pepita:bw_init=he_uniform", "--lr=0.1", *DENSE],
    "bp": ["--algorithm=bp", "--lr=0.01", *DENSE],
    "shallow": ["--algorithm=shallow", "--lr=0.01", *DENSE],
    "dtp-mlp": ["--algorithm=dtp", *MLP],
    "bp-mlp": ["--algorithm=bp", *MLP],
    "dtp-lenet": [f"--algorithm=dtp:{LENET_FEEDBACK}", *LENET],
    "bp-lenet": ["--algorithm=bp", *LENET],
}
"""By name, what is trained and how."""


def flags(recipe: str, epochs: int) -> list[str]:
    """A recipe's flags for so many epochs."""
    found = [*COMMON, *RECIPES[recipe], f"--num_epochs={epochs}"]
    if "--lr_schedule=cosine" not in found and epochs >= 10:
        found.append(f"--lr_schedule=multistep:{epochs * 6 // 10}-{epochs * 9 // 10}")
    projects = found[len(COMMON)].startswith(("--algorithm=pepita", "--algorithm=dtp"))
    return [*found, "--bw_init=ortho"] if projects else found


def main() -> None:
    """Trains and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="repeatable [all]")
    parser.add_argument("--num_epochs", type=int, default=100)
    options, more = parser.parse_known_args()
    rows = []
    for recipe in options.recipe or RECIPES:
        folder = options.directory / f"{recipe}-{options.num_epochs}"
        run(folder, *flags(recipe, options.num_epochs), *more)
        runs = reporting.results(folder)
        architecture = f"`{runs['arch'].iloc[0]}`"
        error = str(summary(runs["test_error"]))
        rows.append((recipe, architecture, str(options.num_epochs), error))
    print("\nMNIST, test error in % (mean ± 95 % t interval)\n")
    print("| recipe | network | epochs | test error |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
