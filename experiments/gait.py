"""Test error of GAIT-prop and target propagation beside backpropagation, on a square network.

    python experiments/gait.py runs/gait --data_dir <prepared TensorFlow Datasets>
    python experiments/gait.py runs/try --dataset digits --num_epochs 1

Network, loss (half the squared error of 0/1 labels), optimizer (Adam without bias correction), batch
size, learning rates and regularisers are the published ones (Ahmad, van Gerven & Ambrogioni 2020, as
in their code): learning rate 1e-4, for target propagation 1e-5; λ = 0, 0.1 and 1000. Unlike there,
batches are shuffled, and no test error is looked at before the end. Each rule trains on all training
data for as many epochs, from the same initial weights and in the same order, once for every seed.
Finished runs are not repeated and broken ones go on where they were. The last thing printed is the
table: the test error after the last epoch, and its difference from that of backpropagation, by seed.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import keras
import keras_tuner
from keras import ops

import bpfree
from bpfree import autodiff
from bpfree.metrics import metrics
from bpfree.tuning import execution
from bpfree.tuning.optimizers import Uncorrected
from bpfree.tuning.records import Execution, write_json
from bpfree.tuning.statistics import paired_difference, summary

CONTENDERS = {
    "bp": ("bp", 1e-4),
    "gait": ("gait:ortho_reg=0.1,inverse=transpose", 1e-4),
    "tp": ("tp:ortho_reg=1000,inverse=transpose", 1e-5),
}
"""Spec string and learning rate, as published."""
FRESH_SEED = 100


@keras.saving.register_keras_serializable("experiments")
def half_squared_error(labels, outputs):
    """½ Σ_d (outputs − one-hot label)² of each example."""
    labels = ops.reshape(ops.cast(labels, "int32"), (-1,))
    wanted = ops.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    return ops.sum(ops.square(outputs - wanted), axis=-1) / 2


def learner(name: str, arch: str, data: bpfree.data.Dataset, seed: int) -> bpfree.Learner:
    """The built and compiled learner of one contender."""
    spec, lr = CONTENDERS[name]
    network = bpfree.architectures.get(arch, data.input_shape, data.classes, seed=seed)
    model = bpfree.Learner(network, spec, seed=seed)
    model.compile(
        keras.optimizers.Adam(Uncorrected(lr), beta_1=0.9, beta_2=0.99, epsilon=1e-8),
        loss=half_squared_error,
        metrics=metrics("classification"),
        jit_compile=True,
        steps_per_execution=1 if autodiff.ALWAYS_COMPILED else 10,
    )
    model.build((None, *data.input_shape))
    model.optimizer.build(model.trainable_variables)
    return model


def test_error(name: str, options, data: bpfree.data.Dataset, seed: int) -> float:
    """The test error in % of one run, which is trained to its end unless it is there."""
    regime = execution.Regime(
        options.num_epochs,
        keras_tuner.Objective("error", "min"),
        score="last",
        batch_size=60,
        scaler="zero_one",
    )
    size = f"{options.arch.replace(':', '-')}-{options.num_epochs}"
    spec = re.sub(r"\W+", "-", CONTENDERS[name][0])
    folder = options.directory / options.dataset / size / spec / f"execution-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    run = Execution(folder)
    if not run.test():
        model = learner(name, options.arch, data, seed)
        seconds = execution.run(model, data, regime, run, seed)["seconds"]
        write_json(run.test_file, execution.evaluate(model, data, regime))
        print(f"{name}, seed {seed}: {seconds / options.num_epochs:.1f} s an epoch", flush=True)
    return run.test()["error"]


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data_dir")
    parser.add_argument("--arch", default="square:4")
    parser.add_argument("--rule", action="append", choices=CONTENDERS, help="repeatable [all]")
    parser.add_argument("--num_epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 100 on")
    options = parser.parse_args()
    data = bpfree.data.load(options.dataset, data_dir=options.data_dir, validation=0)
    seeds = range(FRESH_SEED, FRESH_SEED + options.seeds)
    names = ["bp", *(name for name in options.rule or CONTENDERS if name != "bp")]
    errors = {name: [test_error(name, options, data, seed) for seed in seeds] for name in names}
    print(f"\n{options.dataset}, {options.arch}, test error in % (mean ± 95 % t interval)\n")
    print("| rule | learning rate | epochs | test error | minus bp |\n|---|---|---|---|---|")
    for name, found in errors.items():
        spec, lr = CONTENDERS[name]
        apart = "" if name == "bp" else str(paired_difference(found, errors["bp"]))
        print(f"| {spec} | {lr:g} | {options.num_epochs} | {summary(found)} | {apart} |")


if __name__ == "__main__":
    main()
