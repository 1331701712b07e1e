"""What the benchmarks share: a model of the compared network, and its training step as a program."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

import bpfree
from bpfree import architectures, rules

OUTPUTS = 10
LOSS = "sparse_categorical_crossentropy"


def learner(rule: str, inputs: int, width: int, depth: int, **compiling) -> bpfree.Learner:
    """A built and compiled learner: inputs-width×depth-10, tanh, trained by Adam."""
    network = architectures.get(f"{width}x{depth}", (inputs,), OUTPUTS, seed=1)
    model = bpfree.Learner(network, rule, seed=1)
    return _ready(model, inputs, loss=LOSS, **compiling)


def sequential(inputs: int, width: int, depth: int, **compiling) -> keras.Sequential:
    """The same network in plain Keras, trained by backpropagation."""
    hidden = [keras.layers.Dense(width, activation="tanh") for _ in range(depth)]
    model = keras.Sequential([*hidden, keras.layers.Dense(OUTPUTS)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return _ready(model, inputs, loss=loss, **compiling)


def _ready(model, inputs: int, **compiling):
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=True, **compiling)
    model.build((None, inputs))
    model.optimizer.build(model.trainable_variables)
    return model


def batch(examples: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Random bytes and labels: what they are changes neither time nor memory."""
    random = np.random.default_rng(1)
    x = random.integers(0, 256, (examples, inputs), np.uint8)
    return x, random.integers(0, OUTPUTS, examples, np.int32)


def state(model: keras.Model) -> tuple[list, ...]:
    """What Keras's training step takes and returns on JAX."""
    parts = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    return tuple([variable.value for variable in part] for part in parts)


def jax_step(model: keras.Model, data: tuple):
    """The training step compiled ahead for this batch; it overwrites the state it is given."""
    import jax

    return jax.jit(model.train_step, donate_argnums=0).lower(state(model), data).compile()


def tensorflow_step(model: keras.Model) -> Callable[[tuple], Any]:
    """The training step as a function that XLA compiles when it is first called."""
    import tensorflow as tf

    return tf.function(model.train_step, jit_compile=True, autograph=False)


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser of what all benchmarks understand."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    every = [*rules.names(), "dfa:recompute=true"]
    parser.add_argument("--rules", nargs="+", default=every, help="names or spec strings")
    return parser


def surroundings() -> str:
    """The backend, its version and its device."""
    if keras.backend.backend() == "jax":
        import jax as backend

        device = backend.devices()[0].device_kind
    else:
        import tensorflow as backend

        device = "GPU" if backend.config.list_physical_devices("GPU") else "CPU"
    return f"Keras {keras.__version__}, {backend.__name__} {backend.__version__}, {device}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned for reading as plain text."""
    rows = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in rows
    ]
    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:]), ""])
    return "\n".join([lines[0], rule, *lines[1:]])
