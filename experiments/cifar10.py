"""CIFAR-10 with a VGG8B whose blocks learn from local losses, against backpropagation.

    python experiments/cifar10.py runs/cifar10 --data_dir <prepared TensorFlow Datasets>
    python experiments/cifar10.py runs/small --arch vgg8b:width=0.25,hidden=256,bn_momentum=0.9 \\
        --examples_frac 0.1 --reg_rate 0 --num_epochs 20 --executions_per_trial 3 --use_xla=false \\
        --data_dir …

From the recipe of Nøkland & Eidnes 2019: Adam at 5e-4, batch 128, dropout 0.2, batch normalisation
(with the momentum that PyTorch calls 0.1), flips and crops. Not theirs: the learning rate is divided by
10 after half and three quarters of the epochs (theirs is multiplied by 0.25 after 200, 300, 350 and 375
of 400), dropout is of single values (theirs of whole channels), and ReLU is the activation for predsim,
too (theirs LeakyReLU(0.01)). The epoch with the least validation error (a tenth of the training images)
is tested. Resumes where it was if run again; flags that are not named below go on to tune.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mnist import run

RECIPE = [
    *("--dataset=cifar10", "--batch_size=128", "--activation=relu", "--batch_norm"),
    *("--lr=5e-4", "--lr_schedule=multistep", "--fw_init=he"),
    *("--augment=flip", "--augment=crop", "--objective=val_error"),
]
RULES = ["bp", "lw:loss=cross_entropy", "lw:loss=predsim"]


def main() -> None:
    """Trains every rule with the recipe; the leaderboard of train.bash is the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--arch", default="vgg8b:bn_momentum=0.9")
    parser.add_argument("--num_epochs", type=int, default=400)
    parser.add_argument("--reg_rate", default="0.2", help="of dropout [%(default)s]")
    parser.add_argument("--rule", action="append", help="repeatable [bp and both losses of lw]")
    options, common = parser.parse_known_args()
    rules = [f"--algorithm={rule}" for rule in options.rule or RULES]
    shape = [f"--arch={options.arch}", f"--reg_rate={options.reg_rate}"]
    run(options.directory, *RECIPE, *rules, *shape, f"--num_epochs={options.num_epochs}", *common)


if __name__ == "__main__":
    main()
