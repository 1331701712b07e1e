"""PEPITA: what its two passes must satisfy, whatever the weights."""

import keras
import numpy as np
import pytest
import toy

import bpfree
from bpfree.analysis import trackers
from bpfree.errors import UserError


def learner(rule="pepita", net=None, **options):
    """Without XLA: these networks are tiny."""
    return toy.learner(rule, net, compile={"jit_compile": False}, **options)


def gradients(subject, batch=None):
    return toy.values(subject.gradients(*(batch or toy.batch())))


def test_without_feedback_no_block_learns_and_the_head_does_as_under_bp():
    subject = learner("pepita:f_scale=0")
    found, bp = gradients(subject), toy.values(subject.gradients(*toy.batch(), rule="bp"))
    assert not any(np.any(g) for g in found[:-2])
    toy.assert_close(found[-2:], bp[-2:])


@pytest.mark.parametrize("output_error", ["second", "first"])
def test_without_error_nothing_learns_and_dropout_draws_the_same_masks(output_error):
    """Other masks in the second pass would leave a difference between the two."""

    def no_loss(y_true, y_pred):
        return 0.0 * keras.ops.sum(y_pred, axis=-1)

    subject = learner(f"pepita:output_error={output_error}", dropout=0.5, loss=no_loss)
    assert not any(np.any(g) for g in gradients(subject))


def test_difference_of_a_linear_layer_is_known():
    """h − h' = −e Fᵀ K_1, so K_1's gradient is −x'ᵀ w/N e Fᵀ K_1."""
    subject = learner(net=toy.network("5", activation="linear"))
    x, y, w = toy.batch()
    K = toy.values(subject.network.trainable_variables)[0]
    (F,) = toy.values(subject.rule.feedback)
    e = np.exp(toy.values([subject(x)])[0])
    e = e / e.sum(1, keepdims=True) - y
    expected = -(x + e @ F.T).T @ (w[:, None] / len(w) * (e @ F.T @ K))
    toy.assert_close(gradients(subject)[:1], [expected], 1e-4)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_feedback_against_the_weights_makes_it_backpropagation(activation):
    """Fᵀ K_1 = −s K_2ᵀ: gradient/s → BP's as s → 0, with an error that is linear in s."""
    subject = learner(net=toy.network("5", activation=activation))
    K1, _, K2, _ = toy.values(subject.network.trainable_variables)
    (F,) = subject.rule.feedback
    bp = toy.values(subject.gradients(*toy.batch(), rule="bp"))[0]
    errors = []
    for s in (0.03, 0.003):
        F.assign(-s * (K2.T @ np.linalg.pinv(K1)).T)
        found = gradients(subject)[0] / s
        errors.append(np.linalg.norm(found - bp) / np.linalg.norm(bp))
    assert errors[0] < 0.1
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.2)
    F.assign(-F)
    assert np.vdot(gradients(subject)[0], bp) < 0, "the other sign climbs"


def units_at_rest(K_in, K_out):
    """Units whose incoming, and whose outgoing, gradients are exactly 0."""
    return ~np.any(K_in, axis=0), ~np.any(K_out, axis=1)


@pytest.mark.parametrize("place", [pytest.param("before", marks=pytest.mark.slow), "after"])
def test_dropped_units_have_no_incoming_update(place):
    """A mask stands at the input of the next block, or at the end of a user's own."""
    net = toy.network("40-30", activation="linear", dropout=0.5)
    if place == "after":
        layers = keras.layers
        own = [layers.Dense(40), layers.Activation("linear"), layers.Dropout(0.5, seed=1)]
        own += [layers.Dense(30), layers.Activation("linear"), layers.Dropout(0.5, seed=2)]
        net = bpfree.BlockNetwork.from_sequential(keras.Sequential([*own, layers.Dense(3)]))
    subject = learner(net=net)
    x, y, _ = toy.batch()
    found = gradients(subject, (x[:1], y[:1]))[::2]
    for K_in, K_out in zip(found[:-1], found[1:], strict=True):
        incoming, outgoing = units_at_rest(K_in, K_out)
        np.testing.assert_array_equal(incoming, outgoing)
        assert 0.2 < incoming.mean() < 0.8


@pytest.mark.parametrize("reduction, divisor", [("mean", 36), ("sqrt", 6), ("sum", 1)])
def test_convolution_descends_like_a_dense_layer(reduction, divisor):
    """∂K = 1/N Σ_n 1/positions Σ_rc (h − h')_rc ⊗ patch'_rc, of the maps before the pool."""
    network = bpfree.architectures.get("CONV_3_3_1_1_FC_3", (6, 6, 2), 3, activation="relu", seed=0)
    subject = bpfree.Learner(network, f"pepita:f_scale=1,conv_reduction={reduction}", seed=0)
    subject.compile("sgd", "categorical_crossentropy", jit_compile=False)
    random = np.random.default_rng(0)
    x = random.normal(size=(4, 6, 6, 2)).astype("float32")
    y = np.eye(3, dtype="float32")[[0, 1, 2, 0]]
    found = toy.values(subject.gradients(x, y))[:2]
    h, outputs = toy.values(network.trace(x))
    e = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True) - y
    changed = x + (e @ toy.values(subject.rule.feedback)[0].T).reshape(x.shape)
    difference = (h - toy.values(network.trace(changed))[0]) / (4 * divisor)
    padded = np.pad(changed, [(0, 0), (1, 1), (1, 1), (0, 0)])
    kernel = np.zeros((3, 3, 2, 3))
    for i in range(3):
        for j in range(3):
            patch = padded[:, i : i + 6, j : j + 6]
            kernel[i, j] = np.einsum("nrcp,nrcq->pq", patch, difference)
    toy.assert_close(found, [kernel, difference.sum((0, 1, 2))], 1e-4)


def test_logs_are_those_of_the_first_pass():
    subject = learner("pepita:f_scale=3")
    x, y, w = toy.batch()
    expected = subject.evaluate(x, y, sample_weight=w, verbose=0)
    assert toy.step(subject, x, y, w)["loss"] == pytest.approx(expected, rel=1e-5)


def test_initial_feedback_is_the_published_one():
    subject = learner(net=bpfree.architectures.get("4", (6,), 3, seed=0))
    (F,) = toy.values(subject.rule.feedback)
    assert F.shape == (6, 3)
    assert 0.7 < np.abs(F).max() / (0.05 * np.sqrt(6 / 6)) <= 1


def test_tracker_of_the_alignment_with_the_feedback():
    subject = learner()
    found = dict(trackers.get("weight_alignment", *toy.batch()[:2]).measure(subject))
    product = np.linalg.multi_dot(toy.values(subject.network.trainable_variables[::2]))
    F = toy.values(subject.rule.feedback)[0]
    expected = np.vdot(product, F) / np.linalg.norm(product) / np.linalg.norm(F)
    assert found == {"network": pytest.approx(expected, abs=1e-6)}


@pytest.mark.slow
def test_it_learns_and_the_weights_align_against_the_feedback():
    random = np.random.default_rng(0)
    x = random.normal(size=(64, toy.INPUTS)).astype("float32")
    y = np.eye(3, dtype="float32")[(x @ random.normal(size=(toy.INPUTS, 3))).argmax(1)]
    subject = toy.learner(
        "pepita:f_scale=0.5",
        toy.network("20", activation="relu", fw_init="he"),
        optimizer=keras.optimizers.SGD(0.05),
        random_weights=False,
    )
    tracker = trackers.get("weight_alignment", x, y)
    start = dict(tracker.measure(subject))["network"]
    losses = subject.fit(x, y, epochs=40, batch_size=64, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert dict(tracker.measure(subject))["network"] < start - 0.1


@pytest.mark.parametrize(
    "options, words",
    [
        ("output_error=third", "output_error of 'pepita' is one of second, first"),
        ("conv_reduction=max", "conv_reduction of 'pepita'"),
        ("bw_init=big", "Unknown feedback initialiser 'big'"),
    ],
)
def test_mistakes_are_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        bpfree.rules.get(f"pepita:{options}")


@pytest.mark.parametrize("kind", ["residual", "norm"])
def test_weights_behind_a_blocks_activation_are_refused(kind):
    """They would never learn."""
    if kind == "residual":
        network, shape = (
            bpfree.architectures.get("resnet18:blocks=8,width=0.1", (8, 8, 1), 3),
            (8, 8, 1),
        )
    else:
        layers = [keras.layers.Dense(4), keras.layers.ReLU(), keras.layers.BatchNormalization()]
        network = bpfree.BlockNetwork([keras.Sequential(layers)], keras.layers.Dense(3))
        shape = (6,)
    with pytest.raises(UserError, match="has weights behind"):
        bpfree.Learner(network, "pepita").build((None, *shape))


def test_half_precision_around_a_skip():
    """Both passes are in float32, all the way down."""
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    found = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            network = bpfree.architectures.get("resnet18:width=0.04", (8, 8, 1), 3, seed=0)
            subject = bpfree.Learner(network, "pepita", seed=0)
            subject.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
            found.append(toy.values(subject.gradients(x, np.array([0, 1, 2, 0]))))
        finally:
            keras.config.set_dtype_policy("float32")
    toy.assert_close(found[1], found[0], 1e-3)


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="Zero forward weights"):
        learner(net=toy.network(fw_init="zeros"))
    with pytest.raises(UserError, match="rule 'pepita' has none"):
        learner(net=toy.network(fw_init="aligned"))
    built_in = keras.Sequential([keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3)])
    with pytest.raises(UserError, match="'tanh' built in"):
        learner(net=bpfree.BlockNetwork.from_sequential(built_in))
