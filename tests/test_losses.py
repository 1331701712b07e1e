"""Compiled losses: converted to scores, or refused in a sentence."""

import keras
import numpy as np
import pytest
import toy

from bpfree import losses, rules
from bpfree.errors import UserError

Y = np.eye(3)[[0, 2, 1, 1, 0, 2]]
"""One-hot targets (N, D) with N the number of inputs, so that x may be the identity matrix."""


def softmax(o):
    e = np.exp(o - o.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def sigmoid(o):
    return 1 / (1 + np.exp(-o))


def cross_entropy(o, t):
    return -(t * np.log(softmax(o))).sum(1)


def huber(o, t):
    d = np.abs(o - t)
    return np.where(d <= 1, d**2 / 2, d - 0.5).mean(1)


def focal(o, t):
    p = softmax(o)
    return -(0.25 * (1 - p) ** 2 * t * np.log(p)).sum(1)


SMOOTH = Y * 0.8 + 0.2 / 3
CASES = {
    "sparse": ("sparse_categorical_crossentropy", Y.argmax(1), lambda o: cross_entropy(o, Y)),
    "sparse column": (
        keras.losses.SparseCategoricalCrossentropy(),
        Y.argmax(1)[:, None],
        lambda o: cross_entropy(o, Y),
    ),
    "categorical": (keras.losses.categorical_crossentropy, Y, lambda o: cross_entropy(o, Y)),
    "smoothed": (
        keras.losses.CategoricalCrossentropy(label_smoothing=0.2),
        Y,
        lambda o: cross_entropy(o, SMOOTH),
    ),
    "binary": (
        "binary_crossentropy",
        Y,
        lambda o: -(Y * np.log(sigmoid(o)) + (1 - Y) * np.log(1 - sigmoid(o))).mean(1),
    ),
    "focal": ("categorical_focal_crossentropy", Y, lambda o: focal(o, Y)),
    "mse": ("mse", Y, lambda o: ((o - Y) ** 2).mean(1)),
    "huber": (keras.losses.Huber(), 4 * Y, lambda o: huber(o, 4 * Y)),
    "own": (lambda t, o: keras.ops.sum((o - t) ** 4, -1), Y, lambda o: ((o - Y) ** 4).sum(1)),
}
"""A loss as a user names it, its targets, and what it is of the scores (N, D), per example."""


class ByExample(rules.parse("dfa")[0]):
    """Sends each example's own error."""

    def signal(self, trace):
        return trace.example_error


ERRORS = {
    "dfa": lambda error, share: share * error,
    "sdfa": lambda error, share: share * np.sign(error),
    ByExample: lambda error, share: error,
}
"""What a rule makes of ∂loss_n/∂outputs_n (N, D) and w_n/N (N, 1)."""


@pytest.mark.parametrize(
    "case, rule",
    [
        *((case, "dfa") for case in CASES),
        *((case, rule) for case in ("smoothed", "huber") for rule in ("sdfa", ByExample)),
    ],
)
def test_error_is_the_derivative_of_the_loss(case, rule):
    """With x = I, linear units and F = I the first kernel's gradient *is* the rule's error."""
    loss, y, closed_form = CASES[case]
    net = toy.network("3", activation="linear")
    learner = toy.learner(rule if isinstance(rule, str) else rule(), net, loss=loss)
    learner.rule.feedback[0].assign(np.eye(3))
    x = np.eye(toy.INPUTS, dtype="float32")
    w = np.float32([1, 0.5, 2, 0, 1, 3])
    outputs = toy.values([learner(x)])[0].astype("float64")
    h = 1e-5
    error = np.zeros_like(outputs)
    for d in range(3):
        shift = h * np.eye(3)[d]
        error[:, d] = (closed_form(outputs + shift) - closed_form(outputs - shift)) / (2 * h)
    expected = ERRORS[rule](error, w[:, None] / len(w))
    found = toy.values(learner.gradients(x, y, w))[0]
    np.testing.assert_allclose(found, expected, atol=2e-6 * max(1, np.abs(expected).max()))
    logged = learner.evaluate(x, y, sample_weight=w, verbose=0)
    assert logged == pytest.approx(np.mean(w * closed_form(outputs)), rel=1e-5)


@pytest.mark.parametrize(
    "identifier",
    [
        "categorical_crossentropy",
        "sparse_categorical_crossentropy",
        "binary_crossentropy",
        "CategoricalCrossentropy",
        "categorical_focal_crossentropy",
        keras.losses.categorical_crossentropy,
        keras.losses.CategoricalCrossentropy(),
        keras.losses.CategoricalCrossentropy,
        keras.losses.BinaryFocalCrossentropy(from_logits=True),
        keras.saving.serialize_keras_object(keras.losses.CategoricalCrossentropy()),
    ],
)
def test_losses_take_logits(identifier):
    assert losses.get(identifier).from_logits is True


def test_conversion_keeps_the_other_options():
    loss = losses.get(
        keras.losses.CategoricalCrossentropy(
            label_smoothing=0.1, reduction="mean_with_sample_weight", name="mine"
        )
    )
    assert (loss.label_smoothing, loss.reduction, loss.name) == (
        0.1,
        "mean_with_sample_weight",
        "mine",
    )


def test_other_losses_are_left_as_they_are():
    loss = keras.losses.Huber(delta=2.0)
    assert losses.get(loss) is loss
    assert isinstance(losses.get("mse"), keras.losses.MeanSquaredError)


@keras.saving.register_keras_serializable("tests")
def fourth_power(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 4, axis=-1)


def test_an_own_function_survives_saving(tmp_path):
    learner = toy.learner("dfa", loss=fourth_power)
    x, y, _ = toy.batch()
    toy.step(learner, x, y)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    assert loaded.evaluate(x, y, verbose=0) == learner.evaluate(x, y, verbose=0)


def test_a_loss_that_has_summed_up_the_examples_is_refused():
    """Its weights would be those of the batch, and its gradients as many times too large."""
    x, y, _ = toy.batch()
    learner = toy.learner("dfa", loss=lambda t, o: keras.ops.sum((t - o) ** 2))
    with pytest.raises(UserError, match="one value per example, received a scalar"):
        learner.gradients(x, y)


@pytest.mark.parametrize(
    "identifier, message",
    [
        ("kl_divergence", "KLDivergence needs probabilities"),
        (keras.losses.KLDivergence(), "KLDivergence needs probabilities"),
        ("poisson", "Poisson needs probabilities"),
        (keras.losses.Dice(), "Dice needs probabilities"),
        (keras.losses.Tversky(), "Tversky needs probabilities"),
        (type("Mine", (keras.losses.Poisson,), {})(), "Poisson needs probabilities"),
        (keras.losses.CategoricalGeneralizedCrossEntropy(), "Entropy needs probabilities"),
        ("circle", "Circle needs embeddings"),
        (keras.losses.MeanSquaredError(reduction="sum"), "reduction='sum': use"),
        (keras.losses.MeanSquaredError(reduction=None), "reduction='?[Nn]one'?: use"),
        ("categorical_crosentropy", "Unknown loss 'categorical_crosentropy'"),
        (None, "received None"),
        (["mse", "mse"], "with one loss"),
        ({"a": "mse"}, "with one loss"),
    ],
)
def test_refusals(identifier, message):
    with pytest.raises(UserError, match=message) as caught:
        losses.get(identifier)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
