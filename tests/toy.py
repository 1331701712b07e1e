"""The small network, batch and learner that the core's tests share."""

from __future__ import annotations

import keras
import numpy as np

import bpfree

INPUTS, WIDTHS, OUTPUTS, EXAMPLES = 6, "5-4", 3, 8


def batch(examples: int = EXAMPLES, seed: int = 0):
    """Inputs (N, 6), one-hot targets (N, 3) and weights (N,), some of them 0, all float32."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(examples, INPUTS)).astype("float32")
    y = np.eye(OUTPUTS, dtype="float32")[random.integers(0, OUTPUTS, examples)]
    w = random.uniform(0.2, 2.0, examples).astype("float32")
    w[1::4] = 0
    return x, y, w


def network(arch: str = WIDTHS, seed: int = 0, **options):
    """A 6-5-4-3 perceptron with tanh units, unless the options say otherwise."""
    return bpfree.architectures.get(arch, (INPUTS,), OUTPUTS, **{"seed": seed, **options})


def learner(
    rule,
    net=None,
    loss="categorical_crossentropy",
    optimizer=None,
    weight_decay=None,
    seed: int = 0,
    compile: dict | None = None,
    random_weights: bool = True,
    **options,
):
    """A built and compiled learner with random weights, biases included."""
    made = bpfree.Learner(
        net or network(seed=seed, **options), rule, weight_decay=weight_decay, seed=seed
    )
    made.build((None, INPUTS))
    if random_weights:
        randomize(made, seed)
    made.compile(optimizer or keras.optimizers.SGD(1.0), loss=loss, **(compile or {}))
    return made


def randomize(model, seed: int = 0, scale: float = 0.6) -> None:
    """Draws all trainable weights anew, from NumPy, so that both backends have the same."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(scale * random.normal(size=variable.shape))


def values(variables) -> list[np.ndarray]:
    """Copies of the variables' (or tensors') values."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def step(model, x, y, w=None) -> dict[str, float]:
    """One training step by `fit` on the whole batch; its logs."""
    history = model.fit(x, y, sample_weight=w, batch_size=len(x), shuffle=False, verbose=0)
    return {name: float(column[-1]) for name, column in history.history.items()}


def assert_close(actual, expected, tolerance: float = 1e-5) -> None:
    """Lists of arrays agree, each to `tolerance` of its largest entry."""
    assert len(actual) == len(expected)
    for index, (a, b) in enumerate(zip(values(actual), values(expected), strict=True)):
        limit = tolerance * max(np.abs(b).max(), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=limit, err_msg=f"entry {index}")
