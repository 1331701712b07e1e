"""Test error on MNIST of Forward-Forward beside its controls, as in the table of docs/RESULTS.md.

    python experiments/forward_forward.py runs/ff --data_dir <prepared TensorFlow Datasets>
    python experiments/forward_forward.py runs/ff --only unsupervised --only untrained

Each row is one training per seed on all 60,000 examples, with the recipe that the row says; the test
set is used at its end. The row `pixels` is the control without any layer: a linear classifier like that
of `ff`, on the normalised pixels, in plain Keras. Resumes where it was if run again; flags that are not
named below go on to tune.py. The last thing printed is the table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mnist import FRESH_SEED, sweep

from bpfree import reporting
from bpfree.tuning.statistics import summary

BATCH = 100


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
    "pixels": Row("linear", "", 30),
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


def linear(row: Row, seeds: int, data_dir: str | None) -> list[float]:
    """Test errors in % of a softmax regression on pixels that are divided by their root mean square."""
    import keras

    import bpfree

    data = bpfree.data.load("mnist", data_dir=data_dir, validation=0)
    (x, x_test), count = map(normalised, (data.x_train, data.x_test)), len(data.x_train)
    errors = []
    for seed in range(FRESH_SEED, FRESH_SEED + seeds):
        keras.utils.set_random_seed(seed)
        rate = keras.optimizers.schedules.CosineDecay(row.lr, row.epochs * (count // BATCH))
        model = keras.Sequential([keras.layers.Dense(data.classes, kernel_initializer="zeros")])
        model.compile(
            keras.optimizers.SGD(rate, momentum=0.9),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(x, data.y_train, batch_size=BATCH, epochs=row.epochs, verbose=0)
        wrong = model.predict(x_test, verbose=0).argmax(1) != np.ravel(data.y_test)
        errors.append(100 * float(wrong.mean()))
    return errors


def normalised(images) -> np.ndarray:
    """Flat images (N, d) with mean square 1, float32."""
    flat = images.reshape(len(images), -1).astype("float32")
    return flat / np.sqrt(np.mean(flat**2, axis=1, keepdims=True))


def main() -> None:
    """Trains the rows asked for, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", action="append", choices=ROWS, help="repeatable [all rows]")
    parser.add_argument("--data_dir")
    parser.add_argument("--seeds", type=int, default=1)
    options, common = parser.parse_known_args()
    lines = []
    for name in options.only or ROWS:
        row, folder = ROWS[name], options.directory / name
        if row.algorithm == "linear":
            errors = summary(linear(row, options.seeds, options.data_dir))
        else:
            data = [f"--data_dir={options.data_dir}"] if options.data_dir else []
            train(folder, row, options.seeds, [*data, *common])
            errors = summary(reporting.results(folder)["test_error"])
        lines.append((row.algorithm, row.arch, f"{row.lr:g}", f"{row.epochs}", str(errors)))
    print("\nForward-Forward on MNIST, test error in % (mean ± 95 % t interval)\n")
    print("| rule | layers | learning rate | epochs | test error |\n|---|---|---|---|---|")
    for line in lines:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
