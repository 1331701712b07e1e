"""Learner: what it logs, what it accepts, and its gradients; rules are held to the contract elsewhere."""

import json
from itertools import product

import keras
import numpy as np
import pytest
import toy
from keras import ops
from oracles import ORACLES
from oracles.mlp import Problem

import bpfree
from bpfree.errors import UserError
from bpfree.layers.dropout import Dropout
from bpfree.rules.rule import zero


def problem(learner, x, y, w):
    feedback = toy.values(getattr(learner.rule, "feedback", []))
    return Problem(toy.values(learner.trainable_variables), feedback, x, y, w)


@pytest.fixture(scope="module", params=["dfa", "drtp"])
def regularized(request):
    """A learner whose blocks bring regularisers of their own: of a kernel and of an activity.

    A block under drtp has its gradient taken within the lesson, and there its regulariser's too.
    """
    keras.utils.set_random_seed(0)
    blocks = [
        keras.layers.Dense(5, "tanh", kernel_regularizer=keras.regularizers.L2(0.1)),
        keras.layers.Dense(4, "tanh", activity_regularizer=keras.regularizers.L2(0.3)),
    ]
    net = bpfree.BlockNetwork(blocks, keras.layers.Dense(3))
    return toy.learner(request.param, net)


def test_regularisers_are_logged_apart_and_enter_the_gradient(regularized):
    """reg = 0.1 Σ K_1² + 0.3/N Σ h_2²; Keras divides an activity's regulariser by N."""
    learner = regularized
    toy.randomize(learner)
    x, y, w = toy.batch()
    truth = problem(learner, x, y, w)
    K1 = truth.layers[0][0]
    reg = 0.1 * np.sum(K1**2) + 0.3 * np.sum(truth.hidden[1] ** 2) / len(x)
    evaluated = learner.evaluate(x, y, sample_weight=w, verbose=0, return_dict=True)
    assert evaluated["loss"] == pytest.approx(truth.loss(), rel=1e-5)
    assert evaluated["reg"] == pytest.approx(reg, rel=1e-5)
    before = toy.values(learner.trainable_variables)
    gradients = toy.values(learner.gradients(x, y, w))
    expected = ORACLES[learner.rule.name](truth)
    expected[0] = expected[0] + 0.2 * K1
    delta = 0.6 / len(x) * truth.hidden[1] * (1 - truth.hidden[1] ** 2)
    expected[2] = expected[2] + truth.hidden[0].T @ delta
    expected[3] = expected[3] + delta.sum(0)
    logs = toy.step(learner, x, y, w)
    assert logs["loss"] == pytest.approx(truth.loss(), rel=1e-5)
    assert logs["reg"] == pytest.approx(reg, rel=1e-5)
    after = toy.values(learner.trainable_variables)
    toy.assert_close([b - a for b, a in zip(before, after, strict=True)], expected, 2e-5)
    toy.assert_close(gradients, expected)


def test_reg_does_not_linger_in_evaluation_after_training(regularized):
    """On TensorFlow a loss of the training program must not leak into the next."""
    x, y, w = toy.batch()
    toy.step(regularized, x, y, w)
    truth = problem(regularized, x, y, w)
    reg = 0.1 * np.sum(truth.layers[0][0] ** 2) + 0.3 * np.sum(truth.hidden[1] ** 2) / len(x)
    found = regularized.evaluate(x, y, verbose=0, return_dict=True)["reg"]
    assert found == pytest.approx(reg, rel=1e-5)


class AddsToTheLoss(keras.layers.Layer):
    """0.3/N Σ h², as an activity regulariser would."""

    def call(self, h):
        self.add_loss(0.3 * ops.mean(ops.sum(ops.square(h), axis=-1)))
        return h


def adding(kind: str) -> bpfree.BlockNetwork:
    """A 6-5-4-3 perceptron whose second block brings 0.3/N Σ h_2², or nothing."""
    layers = keras.layers
    dense = layers.Dense(4)
    after = {
        "nothing": [layers.Identity()],
        "activity": [layers.ActivityRegularization(l2=0.3)],
        "add_loss": [AddsToTheLoss()],
    }
    blocks = [
        keras.Sequential([layers.Dense(5), layers.Activation("tanh")]),
        keras.Sequential([dense, layers.Activation("tanh"), *after[kind]]),
    ]
    return bpfree.BlockNetwork(blocks, layers.Dense(3))


QUICK = [("dtp", "add_loss"), ("fg", "activity")]
RULES = ("bp", "dtp", "fa", "ff", "fg", "gait", "ll", "pepita", "sp")
SLOW = [case for case in product(RULES, ("activity", "add_loss")) if case not in QUICK]


@pytest.mark.parametrize(
    ("rule", "kind"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_what_layers_add_to_the_loss_is_learned_once_under_any_rule(rule, kind):
    """∂/∂K_2 = h_1ᵀ δ with δ = 0.6/N h_2 (1 − h_2²), and further down where the rule does not cut."""
    x, y, w = toy.batch()
    plain, learner = (toy.learner(rule, adding(k)) for k in ("nothing", kind))
    before = toy.values(learner.trainable_variables)
    h1 = np.tanh(x @ before[0] + before[1])
    h2 = np.tanh(h1 @ before[2] + before[3])
    usual = toy.values(plain.gradients(x, y, w, seed=1))
    gradients = toy.values(learner.gradients(x, y, w, seed=1))
    delta = 0.6 / len(x) * h2 * (1 - h2**2)
    below = (delta @ before[2].T) * (1 - h1**2) * (not learner.rule.cut)
    added = [x.T @ below, below.sum(0), h1.T @ delta, delta.sum(0)]
    found = [g - u for g, u in zip(gradients, usual, strict=True)]
    toy.assert_close(found[:4], added, 1e-4)
    assert all(np.abs(rest).max() < 1e-6 for rest in found[4:])
    expected = toy.values(learner.gradients(x, y, w))
    logs = toy.step(learner, x, y, w)
    assert logs["reg"] == pytest.approx(0.3 * np.sum(h2**2) / len(x), rel=1e-5)
    moved = [b - a for b, a in zip(before, toy.values(learner.trainable_variables), strict=True)]
    toy.assert_close(moved, expected, 1e-4)


@pytest.mark.parametrize("made", [[], [1.0, 1.0, 1.0], [np.ones(2), 1.0]])
def test_surrogates_are_one_scalar_per_block(made):
    class Wrong(bpfree.rules.Rule):
        name = "wrong"

        def surrogates(self, trace):
            return [ops.convert_to_tensor(value) for value in made]

    try:
        with pytest.raises(UserError, match="one scalar for each of the 2 blocks"):
            toy.learner(Wrong()).surrogates(*toy.batch())
    finally:
        del bpfree.rules.rule.REGISTRY["wrong"]


METRICS = {
    "categorical_crossentropy": [
        "categorical_crossentropy",
        "CategoricalCrossentropy",
        keras.metrics.categorical_crossentropy,
        keras.metrics.CategoricalCrossentropy,
        keras.metrics.CategoricalCrossentropy(name="object"),
        {"class_name": "CategoricalCrossentropy", "config": {}},
    ],
    "binary_crossentropy": [
        *("binary_crossentropy", "BinaryCrossentropy", "bce", "BCE"),
        keras.metrics.binary_crossentropy,
    ],
    "sparse_categorical_crossentropy": [
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        keras.metrics.sparse_categorical_crossentropy,
    ],
    "categorical_focal_crossentropy": [keras.metrics.categorical_focal_crossentropy],
    "binary_focal_crossentropy": [keras.metrics.binary_focal_crossentropy],
}
"""The same metric in many words, by the loss that it is; losses are tested against closed forms."""


@pytest.mark.parametrize(
    ("loss", "metric"), [(loss, metric) for loss, named in METRICS.items() for metric in named]
)
def test_metrics_that_would_expect_probabilities_take_scores(loss, metric):
    x, y, _ = toy.batch()
    y = y.argmax(1) if loss.startswith("sparse") else y
    logs = toy.learner("dfa", loss=loss, compile={"metrics": [metric]}).evaluate(
        x, y, verbose=0, return_dict=True
    )
    name = metric if isinstance(metric, str) else getattr(metric, "name", loss)
    assert logs[name] == pytest.approx(logs["loss"], rel=1e-5)


def test_one_output_s_class_is_its_sign():
    x, _, _ = toy.batch(40)
    net = bpfree.architectures.get("5-4", (6,), 1, seed=0)
    learner = toy.learner("dfa", net, "binary_crossentropy", compile={"metrics": ["accuracy"]})
    scores = learner.predict(x, verbose=0)
    y = (np.arange(40) % 2).reshape(-1, 1)
    assert np.any((scores > 0) != (scores > 0.5))
    found = learner.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    assert found == pytest.approx(np.mean((scores > 0) == y))


@pytest.mark.parametrize("metric", ["accuracy", "Accuracy", "binary_accuracy", "BinaryAccuracy"])
def test_one_output_s_class_is_its_sign_before_the_network_is_built(metric):
    x, _, _ = toy.batch(40)
    head = keras.Sequential([keras.layers.Dropout(0.1), keras.layers.Dense(1)])
    net = bpfree.BlockNetwork([keras.layers.Dense(4, "tanh")], head)
    learner = bpfree.Learner(net, "dfa", seed=0)
    learner.compile("sgd", "binary_crossentropy", metrics=[metric])
    scores = learner.predict(x, verbose=0)
    y = (np.arange(40) % 2).reshape(-1, 1)
    assert np.any((scores > 0) != (scores > 0.5))
    found = learner.evaluate(x, y, verbose=0, return_dict=True)[metric]
    assert found == pytest.approx(np.mean((scores > 0) == y))


def test_what_layers_add_is_of_the_units_that_the_rule_keeps():
    """A rule that takes 0.3/N Σ h_2² away again leaves nothing, if both passes draw the same masks."""

    class Opposed(bpfree.rules.Rule):
        name = "opposed"

        def lesson(self, network, batch):
            trace = self.trace(network, batch)
            squares = ops.sum(ops.square(trace.activations[1]), axis=-1)
            rest = zero(network.trainable_variables)
            return [rest, -0.3 * batch.mean(squares), 0.0], trace.outputs

    x, y, _ = toy.batch()
    layers = keras.layers
    blocks = [
        layers.Dense(5, "tanh"),
        keras.Sequential([Dropout(0.5, 1), layers.Dense(4), AddsToTheLoss()]),
    ]
    try:
        learner = toy.learner(Opposed(), bpfree.BlockNetwork(blocks, layers.Dense(3)))
        before = toy.values(learner.trainable_variables)
        for gradient in toy.values(learner.gradients(x, y)):
            assert np.abs(gradient).max() < 1e-6
        assert toy.step(learner, x, y)["reg"] > 0
    finally:
        del bpfree.rules.rule.REGISTRY["opposed"]
    toy.assert_close(toy.values(learner.trainable_variables), before, 1e-6)


def test_without_regularisers_no_reg_is_logged():
    assert set(toy.step(toy.learner("dfa"), *toy.batch())) == {"loss"}


@pytest.fixture(scope="module")
def dfa():
    return toy.learner("dfa", dropout=0.3, compile={"weighted_metrics": ["accuracy"]})


def test_predict_gives_scores(dfa):
    x, y, w = toy.batch()
    trained = [v for v in dfa.trainable_variables]
    expected = Problem(toy.values(trained), [], x, y, w).outputs
    np.testing.assert_allclose(dfa.predict(x, verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(toy.values([dfa(x)])[0], expected, atol=1e-5)
    accuracy = dfa.evaluate(x, y, sample_weight=w, verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx(np.sum(w * (expected.argmax(1) == y.argmax(1))) / np.sum(w))


def test_class_weights_are_sample_weights():
    x, y, _ = toy.batch()
    labels, classes = y.argmax(1), {0: 0.5, 1: 2.0, 2: 1.0}
    after = []
    for weights in (
        {"class_weight": classes},
        {"sample_weight": np.float32([classes[label] for label in labels])},
    ):
        learner = toy.learner("dfa", loss="sparse_categorical_crossentropy")
        learner.fit(x, labels, batch_size=8, verbose=0, shuffle=False, **weights)
        after.append(toy.values(learner.trainable_variables))
    toy.assert_close(*after, 1e-6)


def test_the_last_batch_may_be_smaller():
    """Two steps, on 8 and on 3 examples, are two lone steps."""
    x, y, w = toy.batch(11)
    whole, parts = toy.learner("sdfa"), toy.learner("sdfa")
    whole.fit(x, y, sample_weight=w, batch_size=8, shuffle=False, verbose=0)
    for part in (slice(8), slice(8, None)):
        parts.train_on_batch(x[part], y[part], sample_weight=w[part])
    toy.assert_close(whole.trainable_variables, parts.trainable_variables, 1e-6)


@pytest.mark.parametrize("rule", ["dfa", "drtp", "dfa:recompute=true"])
def test_a_step_leaves_its_batch_statistics_behind(rule):
    """moving mean ← 0.99 · 0 + 0.01 · mean_n (x K_1), once, also where a block's gradient is taken within
    the lesson and where there is a second forward pass."""
    x, y, w = toy.batch()
    learner = toy.learner(rule, batch_norm=True)
    mean = (x @ toy.values(learner.trainable_variables)[0]).mean(0)
    toy.step(learner, x, y, w)
    (found,) = (v for v in learner.network.blocks[0].variables if v.name == "moving_mean")
    np.testing.assert_allclose(toy.values([found])[0], 0.01 * mean, rtol=1e-4)


def test_labels_train_like_one_hot_targets():
    x, y, w = toy.batch()
    expected = toy.learner("ll").gradients(x, y, w)
    learner = toy.learner("ll", loss="sparse_categorical_crossentropy")
    for labels in (y.argmax(1), y.argmax(1)[:, None].astype("uint8")):
        toy.assert_close(learner.gradients(x, labels, w), expected, 1e-6)


def test_gradients_draw_masks_from_a_given_seed(dfa):
    batch = toy.batch()
    first, again, other = (toy.values(dfa.gradients(*batch, seed=s)) for s in (1, 1, 2))
    toy.assert_close(first, again, 0)
    assert np.abs(first[2] - other[2]).max() > 1e-4
    assert np.abs(first[2] - toy.values(dfa.gradients(*batch))[2]).max() > 1e-4


def test_gradients_without_training_leave_dropout_out(dfa):
    batch = toy.batch()
    toy.assert_close(dfa.gradients(*batch, training=False), ORACLES["dfa"](problem(dfa, *batch)))


def test_gradients_of_a_rule_of_one_s_own(dfa):
    """An instance keeps its own feedback, is built once, and belongs to nobody."""
    batch = toy.batch()
    variables = len(dfa.variables)
    rule = bpfree.rules.get("dfa", seed=77)
    found = dfa.gradients(*batch, rule=rule, training=False)
    expected = ORACLES["dfa"](
        Problem(toy.values(dfa.trainable_variables), toy.values(rule.feedback), *batch)
    )
    toy.assert_close(found, expected)
    toy.assert_close(dfa.gradients(*batch, rule=rule, training=False), expected)
    assert len(dfa.variables) == variables


def test_surrogates_are_one_per_block_and_the_head_s():
    learner = toy.learner("ll")
    x, y, w = toy.batch()
    truth = problem(learner, x, y, w)
    expected = []
    for h, F in zip(truth.hidden, truth.feedback, strict=True):
        scores = h @ F
        log = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        expected.append(-np.sum(w[:, None] * y * log) / len(w))
    assert learner.surrogates(x, y, w) == pytest.approx([*expected, truth.loss()], rel=1e-5)


SIGNALS = {
    "dfa": lambda truth: truth.error(),
    "dfa:recompute=true,signal_scale=0.5": lambda truth: 0.5 * truth.error(),
    "sdfa:signal_scale=2.0": lambda truth: 2 * np.sign(truth.example_error()) * truth.shares,
    "drtp": lambda truth: -truth.y * truth.shares,
}
"""What is projected to every block, (N, D)."""


@pytest.mark.parametrize("spec", SIGNALS)
def test_surrogates_of_a_projected_signal_are_its_products_with_the_activations(spec):
    learner = toy.learner(spec)
    truth = problem(learner, *toy.batch())
    signal = SIGNALS[spec](truth)
    products = [np.sum(signal @ F.T * h) for h, F in zip(truth.hidden, truth.feedback, strict=True)]
    found = learner.surrogates(*toy.batch())
    assert found == pytest.approx([*products, truth.loss()], rel=1e-5, abs=1e-6)


def test_signal_scale_is_a_weight():
    """A sweep may vary it within one program."""
    learner = toy.learner("dfa")
    batch = toy.batch()
    before = toy.values(learner.gradients(*batch))
    learner.rule.scale.assign(3.0)
    after = toy.values(learner.gradients(*batch))
    toy.assert_close(after, [3 * g for g in before[:4]] + before[4:])


def test_recompute_moves_statistics_once_and_draws_one_mask():
    """With BN and dropout, two forward passes leave what one does: weights, statistics, seeds."""
    after = []
    for spec in ("dfa", "dfa:recompute=true"):
        learner = toy.learner(spec, dropout=0.4, batch_norm=True)
        for _ in range(2):
            toy.step(learner, *toy.batch())
        after.append(toy.values(learner.variables))
    toy.assert_close(*after, 1e-6)


def test_a_rule_may_update_weights_of_its_own_first_and_predict_by_itself():
    """`before_step` counts in a weight: once a step, never in `gradients`; `predict` is the rule's."""

    class Counting(bpfree.rules.parse("dfa")[0]):
        def build(self, network, input_shape, outputs):
            super().build(network, input_shape, outputs)
            self.count = self.add_weight(name="count", initializer="zeros", trainable=False)

        def before_step(self, network, batch):
            self.count.assign(self.count + 1)

        def predict(self, network, x):
            return -network(x)

    learner = toy.learner(Counting())
    start = float(learner.rule.count.value)
    x, y, w = toy.batch()
    learner.gradients(x, y, w)
    assert float(learner.rule.count.value) == start
    for _ in range(2):
        toy.step(learner, x, y, w)
    assert float(learner.rule.count.value) == start + 2
    outputs = problem(learner, x, y, w).outputs
    np.testing.assert_allclose(learner.predict(x, verbose=0), -outputs, atol=1e-4)


def test_build_takes_a_pair_of_shapes_and_any_batch_size():
    for shape in ((None, 6), (64, 6), [[64, 6], [64]]):
        hidden, head = keras.layers.Dense(4, "tanh"), keras.layers.Dense(3)
        learner = bpfree.Learner(bpfree.BlockNetwork([hidden], head), "dfa", seed=0)
        learner.build(shape)
        assert learner.predict(toy.batch(5)[0], verbose=0).shape == (5, 3)


def test_fit_builds_what_is_not_built(tmp_path):
    learner = bpfree.Learner(toy.network(), "dfa", seed=0)
    learner.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy")
    x, y, _ = toy.batch()
    toy.step(learner, x, y)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), learner.predict(x, verbose=0))
    json.dumps(learner.get_build_config())  # as Keras Tuner's own searches do


def test_seed_of_the_learner_is_the_rule_s():
    learner = bpfree.Learner(toy.network(), bpfree.rules.get("dfa", seed=5), seed=1)
    assert (learner.seed, learner.rule.seed) == (1, 5)
    keras.utils.set_random_seed(3)
    first = bpfree.Learner(toy.network(), "dfa").seed
    keras.utils.set_random_seed(3)
    assert bpfree.Learner(toy.network(), "dfa").seed == first


def test_reconstruction_of_images():
    """Targets of any shape are compared value by value, by local losses too."""
    x = np.random.default_rng(0).uniform(size=(8, 6)).astype("float32")
    net = bpfree.architectures.get("5-4", (6,), 6, problem_type="reconstruction", seed=0)
    learner = toy.learner("mse", net, loss="mse")
    feedback = toy.values(learner.rule.feedback)
    weights = toy.values(learner.trainable_variables)
    truth = Problem(weights, feedback, x, x, np.ones(8), "mse")
    toy.assert_close(learner.gradients(x, x), ORACLES["ll"](truth, loss="mse"))


def test_learners_refuse_what_they_cannot_compile():
    learner = bpfree.Learner(toy.network(), "dfa")
    with pytest.raises(UserError, match="one loss, received None"):
        learner.compile("sgd")


@pytest.mark.parametrize(
    "layer",
    [keras.layers.LSTM(4), keras.layers.SeparableConv1D(4, 3)],
    ids=["recurrent", "separable"],
)
def test_weight_decay_reaches_every_kernel_of_a_layer(layer):
    """It adds λ K to the gradient of every weight here that is no bias."""
    parts = [keras.Input((3, 2)), layer, keras.layers.Flatten(), keras.layers.Dense(3)]
    network = bpfree.BlockNetwork.from_sequential(keras.Sequential(parts))
    learner = bpfree.Learner(network, "bp", weight_decay=0.0, seed=0)
    learner.build((None, 3, 2))
    toy.randomize(learner)
    learner.compile("sgd", "categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype("float32")
    batch = x, np.eye(3, dtype="float32")[[0, 1, 2, 0]]
    plain = toy.values(learner.gradients(*batch))
    learner.decay.assign(0.3)
    variables = learner.trainable_variables
    terms = [
        0 if v.name == "bias" else 0.3 * k
        for v, k in zip(variables, toy.values(variables), strict=True)
    ]
    expected = [g + term for g, term in zip(plain, terms, strict=True)]
    toy.assert_close(learner.gradients(*batch), expected)
