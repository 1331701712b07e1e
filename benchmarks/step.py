"""Time of a training step, rule by rule, against backpropagation and against plain Keras.

All contenders take turns: a round times `--steps` steps of each, and a ratio is the median of the
rounds' ratios, so that a machine that slows down for a while slows all of them down alike.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import compiled
import keras
import numpy as np

from bpfree.data import preprocessing
from bpfree.data.batches import Batches, feed
from bpfree.rules.ff import ForwardForward

INPUTS = 784
PER_EXECUTION = 10
PLAIN = "plain Keras"


class ForwardForwardBlocks(ForwardForward):
    """`ff` without its classifier's pass: what the two passes of the blocks alone cost."""

    name = "ff_blocks"

    def activations(self, network, x):
        return [x]

    def classify(self, activations):
        return keras.ops.zeros((keras.ops.shape(activations[0])[0], self.classifier.units))


class Stopwatch(keras.callbacks.Callback):
    """Times an epoch, from the moment before its first batch is asked for."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self.start


def fitting(model: keras.Model, steps: int, batch_size: int) -> Callable[[], float]:
    """A function that trains one epoch with `fit` and returns the milliseconds per step."""
    x, y = compiled.batch(steps * batch_size, INPUTS)
    batches = Batches(x, y, batch_size, scale=preprocessing.scaler("zero_one"))
    stopwatch = Stopwatch()
    arguments = feed(batches, [stopwatch])

    def measure() -> float:
        model.fit(**arguments, verbose=0)
        return 1e3 * stopwatch.seconds / steps

    return measure


def stepping(model: keras.Model, steps: int, batch_size: int) -> Callable[[], float]:
    """A function that repeats the compiled step on one batch: milliseconds per step, no feeding."""
    x, y = compiled.batch(batch_size, INPUTS)
    data = tuple(map(keras.ops.convert_to_tensor, (x / np.float32(255), y)))
    if keras.backend.backend() == "jax":
        program, state = compiled.jax_step(model, data), compiled.state(model)

        def step():
            nonlocal state
            logs, state = program(state, data)
            return logs
    else:
        program = compiled.tensorflow_step(model)

        def step():
            return program(data)

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            logs = step()
        float(logs["loss"])  # waits until the last step is done
        return 1e3 * (time.perf_counter() - start) / steps

    return measure


def flops(model: keras.Model, batch_size: int) -> float:
    """Operations that JAX's compiler counts in a step; 0 on TensorFlow, which does not say."""
    if keras.backend.backend() != "jax":
        return 0.0
    data = (np.zeros((batch_size, INPUTS), "float32"), np.zeros(batch_size, "int32"))
    return compiled.jax_step(model, data).cost_analysis()["flops"]


def ratio(times: np.ndarray, reference: np.ndarray) -> str:
    """Median, least and largest ratio over the rounds."""
    ratios = times / reference
    return f"{np.median(ratios):.2f} ({ratios.min():.2f}–{ratios.max():.2f})"


def main() -> None:
    parser = compiled.arguments(__doc__)
    parser.add_argument("--width", type=int, default=1000, help="units of a hidden layer")
    parser.add_argument("--depth", type=int, default=5, help="hidden layers")
    parser.add_argument("--batch_size", type=int, default=128, help="examples per step")
    parser.add_argument("--rounds", type=int, default=7, help="after one round of warming up")
    parser.add_argument("--steps", type=int, default=50, help=f"multiple of {PER_EXECUTION}")
    parser.add_argument("--bare", action="store_true", help="time the compiled step without `fit`")
    options = parser.parse_args()
    if options.steps < 1 or options.steps % PER_EXECUTION:
        parser.error(f"--steps is {options.steps}: give a multiple of {PER_EXECUTION}.")

    size = INPUTS, options.width, options.depth
    models = {PLAIN: compiled.sequential(*size, steps_per_execution=PER_EXECUTION)}
    for rule in dict.fromkeys(["bp", *options.rules]):
        models[rule] = compiled.learner(rule, *size, steps_per_execution=PER_EXECUTION)
    counted = {name: flops(model, options.batch_size) for name, model in models.items()}
    timing = stepping if options.bare else fitting
    contenders = [timing(model, options.steps, options.batch_size) for model in models.values()]
    for name, contender in zip(models, contenders, strict=True):
        print(f"{name}: {contender():.1f} ms per step, compiling included", file=sys.stderr)
    rounds = [[contender() for contender in contenders] for _ in range(options.rounds)]
    times = dict(zip(models, np.transpose(rounds), strict=True))

    way = "bare step" if options.bare else f"fit, {PER_EXECUTION} steps per execution"
    print(compiled.surroundings())
    print(
        f"{INPUTS}-{options.width}x{options.depth}-{compiled.OUTPUTS}, tanh, Adam, "
        f"batch {options.batch_size}; {way}; {options.rounds} rounds of {options.steps} steps"
    )
    head = ["rule", "ms per step", "time / bp", "time / plain Keras", "FLOPs / bp"]
    rows = [
        [
            name,
            f"{np.median(taken):.2f}",
            ratio(taken, times["bp"]),
            ratio(taken, times[PLAIN]),
            f"{counted[name] / counted['bp']:.3f}" if counted["bp"] else "–",
        ]
        for name, taken in times.items()
    ]
    print(compiled.table(head, rows))


if __name__ == "__main__":
    main()
