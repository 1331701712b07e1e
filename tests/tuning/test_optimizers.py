"""Optimizers and schedules against the formulas of their papers."""

import math

import keras
import numpy as np
import pytest

from bpfree.errors import UserError
from bpfree.tuning import optimizers

LR, EPOCHS, STEPS = 0.5, 20, 7


def rate(schedule, step, epochs=EPOCHS):
    """The learning rate of the step with this index, from 0."""
    optimizer = optimizers.get("sgd", LR, schedule, epochs, STEPS)
    optimizer.iterations.assign(step)
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


@pytest.mark.parametrize("step", [0, 1, 35, 70, 139, 140, 200])
def test_cosine_falls_to_zero(step):
    """Loshchilov & Hutter 2017, equation 5, one period over the whole run."""
    done = min(step / (EPOCHS * STEPS), 1)
    expected = LR * (1 + math.cos(math.pi * done)) / 2
    assert rate("cosine", step) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("schedule", "ends"),
    [("multistep", [10, 15]), ("multistep:3-5-18", [3, 5, 18]), ("multistep:4", [4])],
)
@pytest.mark.parametrize("epoch", [0, 2, 3, 4, 5, 9, 10, 14, 15, 17, 18, 19])
def test_multistep_divides_by_ten_after_the_named_epochs(schedule, ends, epoch):
    # Well inside an epoch; its very first step is below.
    expected = LR * 0.1 ** np.sum(np.array(ends) <= epoch)
    assert rate(schedule, epoch * STEPS + 3) == pytest.approx(expected, rel=1e-6)


def test_multistep_changes_exactly_between_two_epochs():
    """All steps of epochs 0 … 9 have the first rate, all steps of epoch 10 the second."""
    assert rate("multistep", 10 * STEPS - 1) == pytest.approx(LR)
    assert rate("multistep", 10 * STEPS) == pytest.approx(LR / 10)
    assert rate("multistep", 15 * STEPS - 1) == pytest.approx(LR / 10)
    assert rate("multistep", 15 * STEPS) == pytest.approx(LR / 100)


def descend(optimizer, gradients):
    """Where a variable that starts at 1 is after each of the gradients."""
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    places = []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor([gradient], "float32")])
        places.append(float(keras.ops.convert_to_numpy(variable)[0]))
    return places


GRADIENTS = [1.0, -0.5, 0.25, 2.0]


@pytest.mark.parametrize(("name", "nesterov"), [("momentum", False), ("nag", True)])
def test_momentum_is_nine_tenths(name, nesterov):
    lr, momentum, place, velocity, expected = 0.1, 0.9, 1.0, 0.0, []
    for gradient in GRADIENTS:
        velocity = momentum * velocity - lr * gradient
        place += momentum * velocity - lr * gradient if nesterov else velocity
        expected.append(place)
    found = descend(optimizers.get(name, lr, "constant", 1, 1), GRADIENTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_sgd_has_no_momentum():
    expected = 1.0 - 0.1 * np.cumsum(GRADIENTS)
    found = descend(optimizers.get("sgd", 0.1, "constant", 1, 1), GRADIENTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_builds_with_the_given_rate(name):
    optimizer = optimizers.get(name, 0.02, "constant", 1, 1)
    assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(0.02)
    kind = type(optimizer).__name__.lower()
    assert kind == ("sgd" if name in ("momentum", "nag") else name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("adm", 0.1, "constant"), ["'adm'", "'adam'"]),
        (("xyzzy", 0.1, "constant"), ["'xyzzy'", "adam", "nag"]),
        (("adam", 0.1, "cosin"), ["'cosin'", "cosine", "multistep"]),
        (("adam", 0.1, "multistep:"), ["multistep:"]),
        (("adam", 0.1, "multistep:5-"), ["multistep:5-"]),
        (("adam", 0.1, "multistep:0"), ["multistep:0", "epochs from 1"]),
        (("adam", 0.1, "multistep:100-50"), ["multistep:100-50", "must rise"]),
        (("adam", 0.1, "multistep:5-5"), ["multistep:5-5", "must rise"]),
        (("adam", 0.0, "constant"), ["positive", "0.0"]),
        (("adam", -1.0, "constant"), ["positive", "-1.0"]),
        (("adam", float("nan"), "constant"), ["positive", "nan"]),
    ],
)
def test_refusals_say_what_to_do(arguments, words):
    with pytest.raises(UserError) as refused:
        optimizers.get(*arguments, EPOCHS, STEPS)
    assert all(word in str(refused.value) for word in words)
    assert "\n" not in str(refused.value)
