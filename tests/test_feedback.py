"""Feedback alignment through layers of every kind, against derivatives by another route."""

import keras
import numpy as np
import pytest
import toy
from oracles.alignment import recursion
from oracles.mlp import Problem

import bpfree
from bpfree import autodiff
from bpfree.errors import UserError
from bpfree.layers.feedback import with_feedback

LAYERS = {
    "dense": (lambda: keras.layers.Dense(4), (3, 5)),
    "conv": (lambda: keras.layers.Conv2D(4, 3, strides=2, padding="same"), (2, 5, 5, 3)),
    "conv1d": (lambda: keras.layers.Conv1D(4, 3), (2, 7, 3)),
    "einsum": (
        lambda: keras.layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d"),
        (2, 3, 5),
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_forward_is_exact_and_the_way_back_is_that_of_the_other_kernel(kind):
    make, shape = LAYERS[kind]
    random = np.random.default_rng(0)
    x = random.normal(size=shape).astype("float32")
    layer, other = make(), make()
    layer.build(shape)
    other.build(shape)
    toy.randomize(layer, 1)
    toy.randomize(other, 2)
    B = toy.values([other.kernel])[0]
    weights = random.normal(size=layer(x).shape).astype("float32")
    np.testing.assert_array_equal(with_feedback(layer, x, B), layer(x))

    def through(f):
        return lambda x: keras.ops.sum(weights * f(x))

    found = autodiff.gradient(through(lambda x: with_feedback(layer, x, B)), x)
    toy.assert_close([found], [autodiff.gradient(through(other), x)])
    of_weights = [
        autodiff.gradients(lambda x, f=f: through(f)(x), layer.trainable_variables)(x)
        for f in (layer, lambda x: with_feedback(layer, x, B))
    ]
    toy.assert_close(*of_weights)


def test_batchwise_sizes_are_drawn_anew_at_every_step():
    learner = toy.learner("brsf")
    x, y, w = toy.batch()
    found = []
    for _ in range(2):
        feedback = [np.array(B) for _, B in _peek(learner)]
        weights = toy.values(learner.trainable_variables)
        found.append(toy.values(learner.gradients(x, y, w)))
        toy.assert_close(found[-1], recursion(Problem(weights, [], x, y, w), feedback))
        for K, B in zip(weights[2::2], feedback, strict=True):
            assert (np.sign(K) == np.sign(B)).all()
        kept = weights
        toy.step(learner, x, y, w)
        for variable, value in zip(learner.trainable_variables, kept, strict=True):
            variable.assign(value)
    assert np.abs(found[0][0] - found[1][0]).max() > 1e-3


def _peek(learner):
    """The pairs of kernel and B that the next step will have: looking draws nothing."""
    with autodiff.isolated(learner.variables):
        return learner.rule.pairs(learner.network)


@keras.saving.register_keras_serializable("tests")
class Skip(keras.layers.Layer):
    """h + Dense(h), a residual block."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = keras.layers.Dense(4, kernel_initializer="orthogonal")

    def build(self, input_shape):
        self.body.build(input_shape)

    def walk(self, x, call):
        return x + call(self.body, x)

    def call(self, x):
        return self.walk(x, lambda part, x: part(x))

    def compute_output_shape(self, input_shape):
        return input_shape


def test_skips_carry_the_error_as_they_are():
    """G_1 = G_2 + G_2 Bᵀ where block 2 is h + Dense(h)."""
    blocks = [keras.layers.Dense(4, kernel_initializer="orthogonal"), Skip()]
    network = bpfree.BlockNetwork(blocks, keras.layers.Dense(3, kernel_initializer="orthogonal"))
    learner = toy.learner("fa", network)
    x, y, w = toy.batch()
    K1, b1, K2, b2, K3, b3 = toy.values(learner.trainable_variables)
    B2, B3 = toy.values(learner.rule.feedback)
    h1 = x @ K1 + b1
    h2 = h1 + h1 @ K2 + b2
    outputs = h2 @ K3 + b3
    p = np.exp(outputs - outputs.max(1, keepdims=True))
    error = w[:, None] / len(w) * (p / p.sum(1, keepdims=True) - y)
    g2 = error @ B3.T
    g1 = g2 + g2 @ B2.T
    expected = [x.T @ g1, g1.sum(0), h1.T @ g2, g2.sum(0), h2.T @ error, error.sum(0)]
    toy.assert_close(learner.gradients(x, y, w), expected)


def test_alignment_is_tracked():
    from bpfree.analysis import trackers

    learner = toy.learner("fa")
    tracker = trackers.get("weight_alignment", *toy.batch()[:2])
    found = dict(tracker.measure(learner))
    K = toy.values(learner.trainable_variables)[2].ravel()
    B = toy.values(learner.rule.feedback)[0].ravel()
    assert found["block_2"] == pytest.approx(
        K @ B / np.linalg.norm(K) / np.linalg.norm(B), rel=1e-5
    )
    assert sorted(found) == ["block_2", "head"]


@pytest.mark.parametrize(
    "layer, words",
    [
        (keras.layers.Dense(4, activation="tanh"), "'tanh' built in"),
        (keras.layers.SeparableConv1D(4, 1), "hides 2 inside"),
    ],
)
def test_kernels_that_cannot_be_replaced_are_refused(layer, words):
    blocks = [keras.layers.Reshape((6, 1)), layer, keras.layers.Flatten()]
    if isinstance(layer, keras.layers.Dense):
        blocks = [layer]
    network = bpfree.BlockNetwork([keras.Sequential(blocks)], keras.layers.Dense(3))
    learner = bpfree.Learner(network, "fa")
    with pytest.raises(UserError, match=words):
        learner.build((None, toy.INPUTS))


def test_aligned_and_zero_forward_weights_are_refused():
    for rule, init in (("fa", "aligned"), ("usf", "aligned"), ("usf", "zeros"), ("fa", "zeros")):
        with pytest.raises(UserError):
            bpfree.Learner(toy.network(fw_init=init), rule)
