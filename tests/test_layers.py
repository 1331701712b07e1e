"""Layers and activations that Keras lacks."""

import keras
import numpy as np
import pytest
import toy
from keras import ops

from bpfree import autodiff
from bpfree.errors import UserError
from bpfree.layers import Dropout, RandomProjection, step
from bpfree.layers.tokens import SelfAttention


def test_step_is_zero_or_one():
    x = np.float32([-3, -1e-6, 0, 1e-6, 0.3, 40])
    np.testing.assert_array_equal(toy.values([step(x)])[0], [0, 0, 0, 1, 1, 1])
    random = np.random.default_rng(0).normal(size=1000).astype("float32")
    assert set(toy.values([step(random)])[0]) == {0.0, 1.0}


def test_step_has_the_derivative_of_a_sigmoid_of_slope_four():
    x = np.linspace(-2, 2, 41).astype("float32")
    (slope,) = toy.values([autodiff.gradient(lambda t: ops.sum(step(t)), x)])
    s = 1 / (1 + np.exp(-4 * x))
    np.testing.assert_allclose(slope, 4 * s * (1 - s), atol=1e-6)
    assert slope.max() == pytest.approx(1.0)


def accuracy_of_step_units(rule):
    """Trained on the exclusive or of two signs, of which random units say next to nothing."""
    x = np.random.default_rng(1).uniform(-1, 1, (512, 6)).astype("float32")
    y = np.eye(3, dtype="float32")[(x[:, 0] * x[:, 1] > 0).astype(int)]
    learner = toy.learner(
        rule,
        arch="64",
        activation="step",
        optimizer=keras.optimizers.Adam(0.03),
        random_weights=False,
    )
    (hidden,) = toy.values(learner.network.trace(x, training=False)[:1])
    assert set(np.unique(hidden)) == {0.0, 1.0}
    learner.fit(x, y, batch_size=32, epochs=15, shuffle=False, verbose=0)
    return np.mean(toy.values([learner(x)])[0].argmax(1) == y.argmax(1))


@pytest.mark.parametrize("rule", ["dfa", "drtp", "ll"])
def test_rules_train_units_whose_true_derivative_is_zero(rule):
    """Over four seeds and both backends it was 0.83 at least, and the control's 0.67 at most."""
    assert accuracy_of_step_units(rule) > 0.78


def test_step_units_learn_nothing_without_a_rule():
    """The control of the test above."""
    assert accuracy_of_step_units("shallow") < 0.72


def test_dropout_keeps_the_mean_and_scales_the_rest():
    layer = Dropout(0.3, seed=1)
    x = np.full((200, 200), 2.0, "float32")
    y = toy.values([layer(x, training=True)])[0]
    assert set(np.unique(y)) == {0.0, np.float32(2 / 0.7)}
    # 40 000 draws: three standard errors of the share and, times 2 / 0.7, of the mean.
    error = 3 * np.sqrt(0.3 * 0.7 / x.size)
    assert np.mean(y == 0) == pytest.approx(0.3, abs=error)
    assert y.mean() == pytest.approx(2.0, abs=2 / 0.7 * error)
    again = toy.values([layer(x, training=True)])[0]
    assert np.mean((again == 0) == (y == 0)) == pytest.approx(0.3**2 + 0.7**2, abs=3 * 0.0025)


def test_dropout_is_the_identity_when_not_training():
    layer = Dropout(0.5, seed=1)
    x = np.ones((4, 3), "float32")
    np.testing.assert_array_equal(toy.values([layer(x)])[0], x)


def test_dropout_draws_from_its_seed():
    x = np.ones((8, 8), "float32")
    first, again, other = (
        toy.values([Dropout(0.5, seed=s)(x, training=True)])[0] for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_dropout_rate_is_a_weight_that_works_in_a_compiled_program():
    """Assigned after compiling, it takes effect; that nothing is traced again, the contract tests."""
    learner = toy.learner("bp", arch="4", dropout=0.5, optimizer=keras.optimizers.SGD(0.0))
    (rate,) = [v for v in learner.non_trainable_variables if v.name == "rate"]
    x, y, _ = toy.batch(256)
    whole = learner.evaluate(x, y, verbose=0)
    for value, change in ((0.5, 0.01), (0.9, 0.05), (0.0, 0.0)):
        rate.assign(value)
        loss = toy.step(learner, x, y)["loss"]
        if change:
            assert loss > whole + change
        else:
            assert loss == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2])
def test_dropout_refuses_a_rate_that_is_no_probability(rate):
    with pytest.raises(UserError, match=rf"\[0, 1\), received {rate}"):
        Dropout(rate)


VARIANCES = {
    "lecun": lambda n, d: 1 / n,
    "glorot": lambda n, d: 2 / (n + d),
    "he": lambda n, d: 2 / n,
}


@pytest.mark.parametrize("bw_init", VARIANCES)
def test_feedback_variance(bw_init):
    layer = RandomProjection(50, bw_init, seed=0)
    layer.build((None, 400))
    (F,) = toy.values(layer.weights)
    assert F.shape == (400, 50)
    # 20 000 truncated normal draws: the variance's relative standard error is below 1 %.
    assert F.var() == pytest.approx(VARIANCES[bw_init](400, 50), rel=0.04)
    assert abs(F.mean()) < 4 * F.std() / np.sqrt(F.size)


def test_feedback_of_orthonormal_columns_and_uniform_bounds():
    layer = RandomProjection(5, "ortho", seed=0)
    layer.build((None, 3, 4))
    (F,) = toy.values(layer.weights)
    np.testing.assert_allclose(F.T @ F, np.eye(5), atol=1e-6)
    layer = RandomProjection(50, "uniform", seed=0)
    layer.build((None, 400))
    (F,) = toy.values(layer.weights)
    assert 0.049 < np.abs(F).max() <= 1 / 20
    assert F.var() == pytest.approx(1 / 1200, rel=0.04)


def test_projection_there_and_back():
    layer = RandomProjection(3, seed=0)
    random = np.random.default_rng(0)
    h = random.normal(size=(4, 2, 5)).astype("float16")
    signal = random.normal(size=(4, 3)).astype("float32")
    p, b = toy.values([layer(h), layer.back(signal, h)])
    (F,) = toy.values(layer.weights)
    assert p.dtype == b.dtype == "float32"
    np.testing.assert_allclose(p, h.reshape(4, 10).astype("float32") @ F, atol=1e-5)
    np.testing.assert_allclose(b, (signal @ F.T).reshape(4, 2, 5), atol=1e-5)
    assert layer.trainable_variables == []


def test_unknown_feedback_initialiser():
    with pytest.raises(UserError, match="'orto': choose one of ortho, lecun"):
        RandomProjection(3, "orto")


@pytest.mark.parametrize("made", [{}, {"use_bias": False, "kernel_initializer": "he_normal"}])
def test_attention_of_tokens(made):
    layer = SelfAttention(2, 6, seed=0, **made)
    x = np.random.default_rng(0).normal(size=(3, 5, 6)).astype("float32")
    layer.build(x.shape)
    weights = {v.path.split("/")[-2]: v for v in layer.variables if v.name == "kernel"}
    assert len(layer.variables) == (4 if made else 8)
    Q, K, V, last = (np.array(weights[role]) for role in ("query", "key", "value", "output"))
    heads = []
    for h in (slice(0, 3), slice(3, 6)):
        q, k, v = (x @ M[:, h] for M in (Q, K, V))
        e = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(3))
        heads.append(e / e.sum(-1, keepdims=True) @ v)
    np.testing.assert_allclose(layer(x), np.concatenate(heads, -1) @ last, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        Dropout(0.3, seed=4),
        RandomProjection(3, "he", seed=5),
        SelfAttention(2, 4, seed=6, use_bias=False, kernel_initializer="he_normal"),
    ],
)
def test_configuration_survives(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
