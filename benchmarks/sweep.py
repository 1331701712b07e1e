"""Time of a whole sweep: plain Keras Tuner against bpfree, on both backends.

The grid is `--rules` × four learning rates × `--executions` of 64-64 on the digits. Every contender has a
process of its own; its time is that of the search, with building and compiling, without imports. On a
machine that does other work as well, the processor's seconds say more than the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

CONTENDERS = {
    "keras_tuner tensorflow": "keras_tuner.GridSearch",
    "keras_tuner jax": "keras_tuner.GridSearch",
    "bpfree tensorflow": "bpfree",
    "alone jax": "bpfree, one by one",
    "bpfree jax": "bpfree",
}
"""What `--contenders` takes, with its name in the table."""
RATES = [1e-4, 1e-3, 1e-2, 1e-1]
SIZES = [(1, 3), (4, 3), (4, 12), (4, 30)]
"""Rules and executions of the sweeps whose time is compared: 12, 48, 192 and 480 trainings."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rules", nargs="+", default=["bp", "dfa", "drtp", "ll"])
    parser.add_argument("--executions", type=int, default=3, help="per trial")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument(
        "--growth", action="store_true", help="also 12 to 480 trainings, bpfree jax"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(search(options.child.split()[0], options)))
        return
    from compiled import table  # after the child, which may be on another backend

    trainings = len(options.rules) * len(RATES) * options.executions
    print(
        f"{trainings} trainings of 64-64 on the digits, {options.epochs} epochs, Adam, batch 64\n"
    )
    found = {name: run(name, options.rules, options) for name in options.contenders}
    head = ["sweep", "backend", "s", "CPU s", "trainings per s"]
    references = [name for name in list(CONTENDERS)[:2] if name in found]
    head += [f"Keras Tuner on {name.split()[1]} / this (CPU)" for name in references]
    rows = []
    for name, (seconds, cpu) in found.items():
        times = [f"{seconds:.1f}", f"{cpu:.1f}", f"{trainings / seconds:.2f}"]
        pairs = [found[reference] for reference in references]
        ratios = [f"{clock / seconds:.1f} ({work / cpu:.1f})" for clock, work in pairs]
        rows.append([CONTENDERS[name], name.split()[1], *times, *ratios])
    if rows:
        print(table(head, rows))
    if options.growth:
        head = ["trainings", "s", "CPU s", "trainings per s"]
        print(f"\n{table(head, growth(options))}")


def growth(options) -> list[list[str]]:
    """Our time on JAX, by the number of trainings."""
    rows = []
    for rules, executions in SIZES:
        options.executions = executions
        seconds, cpu = run("bpfree jax", options.rules[:rules], options)
        count = min(rules, len(options.rules)) * len(RATES) * executions
        rows.append([str(count), f"{seconds:.1f}", f"{cpu:.1f}", f"{count / seconds:.2f}"])
    return rows


def run(contender: str, rules: list[str], options) -> tuple[float, float]:
    """Seconds of a contender's search, by the clock and of the processor."""
    command = [sys.executable, __file__, "--child", contender, "--rules", *rules]
    command += ["--executions", str(options.executions), "--epochs", str(options.epochs)]
    environment = {**os.environ, "KERAS_BACKEND": contender.split()[1]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, cpu = json.loads(done.stdout.splitlines()[-1])
    print(f"{contender}: {seconds:.1f} s, {cpu:.1f} CPU s", file=sys.stderr)
    return seconds, cpu


def search(way: str, options) -> tuple[float, float]:
    """Searches in this process; the seconds by the clock, and of the processor."""
    import keras_tuner

    from bpfree import autodiff, data, tuning
    from bpfree.data.preprocessing import scaler
    from bpfree.tuning import space
    from bpfree.tuning.hypermodel import HyperModel

    digits = data.load("digits", seed=0)
    fixed = {"arch": ["64-64"], "activation": ["tanh"], "batch_norm": [False], "reg_rate": [0.0]}
    given = {"algorithm": options.rules, **fixed, "bw_init": ["ortho"], "lr": RATES}
    choices = space.choices(given, "classification", "val_loss")
    model = HyperModel(
        digits.input_shape,
        digits.classes,
        choices,
        options.epochs,
        len(digits.x_train),
        # On TensorFlow, XLA takes longer to compile networks as small as these than they to train.
        use_xla=autodiff.ALWAYS_COMPILED,
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter(), time.process_time()
        place = {"directory": folder, "project_name": "sweep"}
        place["executions_per_trial"] = options.executions
        if way == "keras_tuner":
            scale = scaler("standard")
            tuner = keras_tuner.GridSearch(model, objective="val_loss", **place)
            tuner.search(
                scale(digits.x_train),
                digits.y_train,
                validation_data=(scale(digits.x_val), digits.y_val),
                batch_size=64,
                epochs=options.epochs,
                verbose=0,
            )
        else:
            population = "off" if way == "alone" else "auto"
            tuner = tuning.GridSearch(model, population=population, verbose=0, **place)
            tuner.search(digits, epochs=options.epochs)
        return time.perf_counter() - started[0], time.process_time() - started[1]


if __name__ == "__main__":
    main()
