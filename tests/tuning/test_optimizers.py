"""Optimizers and schedules against the formulas of their papers."""

import math

import keras
import keras_tuner
import numpy as np
import pytest
from formula import hypermodel

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


@pytest.mark.parametrize(("decay", "left"), [(0.0, 2.0), (0.5, 1.9)])
def test_adamw_decays_by_what_was_asked_for(decay, left):
    """Without a gradient Adam stands still; W − lr λ W = 2 − 0.1 · 0.5 · 2."""
    weight = keras.Variable([2.0])
    optimizer = optimizers.get("adamw", 0.1, "constant", EPOCHS, STEPS, decay)
    optimizer.build([weight])
    optimizer.apply([keras.ops.zeros(1)], [weight])
    assert float(keras.ops.convert_to_numpy(weight)[0]) == pytest.approx(left)


def test_weight_decay_is_adamw_s_own_and_the_others_gradient_s():
    """A constant of AdamW's program, and a variable of the others'."""
    found = {}
    for name in ("adam", "adamw"):
        model = hypermodel(algorithm=["bp"], lr=[0.1], optimizer=[name], weight_decay=[0.3, 0.2])
        hp = keras_tuner.HyperParameters()
        model.declare_hyperparameters(hp)
        learner = model.build(hp)
        programs = [model.program({**hp.values, "weight_decay": decay}) for decay in (0.3, 0.2)]
        found[name] = (
            learner.weight_decay,
            learner.optimizer.weight_decay,
            programs[0] == programs[1],
        )
    assert found == {"adam": (0.3, None, True), "adamw": (None, 0.3, False)}


@pytest.mark.parametrize(("epochs", "per_block", "length"), [(9, 3, 3), (9, 0, 3), (11, 0, 5)])
def test_a_part_s_schedule_ends_with_the_last_one(epochs, per_block, length):
    """Two blocks and the head; eleven epochs are 3 + 3 + 5."""
    given = {"algorithm": ["ll"], "arch": ["8-8"], "lr": [0.1], "batch_size": [3]}
    given |= {
        "schedule": ["sequential"],
        "lr_schedule": ["cosine"],
        "epochs_per_block": [per_block],
    }
    model = hypermodel(epochs, **given)  # on nine examples
    hp = keras_tuner.HyperParameters()
    model.declare_hyperparameters(hp)
    config = model.build(hp).optimizer.get_config()
    assert config["learning_rate"]["config"]["decay_steps"] == length * 3


@pytest.mark.parametrize("schedule", ["cosine", "multistep"])
def test_a_longer_last_part_would_learn_at_a_rate_of_zero(schedule):
    given = {"algorithm": ["ll"], "arch": ["8-8"], "lr": [0.1], "epochs_per_block": [2]}
    given |= {"schedule": ["sequential"], "lr_schedule": ["constant", schedule]}
    with pytest.raises(UserError, match=f"a {schedule} schedule .* give 6 epochs, or a constant"):
        hypermodel(9, **given)
    hypermodel(6, **given)
    hypermodel(9, **{**given, "lr_schedule": ["constant", "multistep:1-2"]})


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
