"""BlockNetwork: trace, saving, and a user's own Sequential cut into blocks."""

import keras
import numpy as np
import pytest
import toy
from keras import layers
from oracles.mlp import Problem, softmax

import bpfree
from bpfree import BlockNetwork, autodiff
from bpfree.errors import UserError


def test_trace_holds_every_activation():
    net = toy.network()
    toy.randomize(net)
    x, y, w = toy.batch()
    problem = Problem(toy.values(net.trainable_variables), [], x, y, w)
    toy.assert_close(net.trace(x), [*problem.hidden, problem.outputs])
    toy.assert_close([net(x)], [problem.outputs])
    assert net.hidden_shapes == [(None, 5), (None, 4)]
    assert net.compute_output_shape((None, 6)) == (None, 3)


@pytest.mark.parametrize("cut", [True, False])
def test_cut_stops_gradients_between_blocks(cut):
    net = toy.network()
    x = toy.batch()[0]
    found = toy.values(
        autodiff.gradients(
            lambda x: keras.ops.sum(net.trace(x, cut=cut)[-1] ** 2), net.trainable_variables
        )(x)
    )
    assert [bool(np.abs(g).max() > 0) for g in found] == [not cut] * 4 + [True] * 2


def test_outputs_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        *hidden, outputs = toy.network().trace(toy.batch()[0])
    finally:
        keras.config.set_dtype_policy("float32")
    dtypes = [keras.backend.standardize_dtype(h.dtype) for h in (*hidden, outputs)]
    assert dtypes == ["float16", "float16", "float32"]


def test_configuration_survives():
    net = toy.network(dropout=0.2, batch_norm=True, activation="step", fw_init="he")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(net))
    assert (again.problem_type, again.activation, again.fw_init) == ("classification", "step", "he")
    assert [len(b.layers) for b in again.blocks] == [len(b.layers) for b in net.blocks]
    again.set_weights(net.get_weights())
    x = toy.batch()[0]
    np.testing.assert_array_equal(toy.values([again(x)])[0], toy.values([net(x)])[0])


def sequential(*parts, shape=(8, 8, 1)):
    return keras.Sequential([keras.Input(shape), *parts])


def images(n=5):
    return np.random.default_rng(0).normal(size=(n, 8, 8, 1)).astype("float32")


def kinds(network):
    return [
        [type(la).__name__ for la in getattr(block, "layers", [block])]
        for block in (*network.blocks, network.head)
    ]


def test_a_sequential_is_cut_before_every_layer_with_a_kernel():
    model = sequential(
        layers.Rescaling(0.5),
        layers.Conv2D(4, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.MaxPooling2D(),
        layers.SeparableConv2D(4, 3),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dropout(0.2),
        layers.Dense(10, activation="softmax"),
    )
    network = BlockNetwork.from_sequential(model)
    assert kinds(network) == [
        ["Rescaling", "Conv2D", "BatchNormalization", "MaxPooling2D"],
        ["SeparableConv2D", "ReLU", "Flatten", "Dropout"],
        ["Dense"],
    ]
    assert network.hidden_shapes == [(None, 3, 3, 4), (None, 4)]
    x = images()
    probabilities = toy.values([model(x)])[0]
    np.testing.assert_allclose(softmax(toy.values([network(x)])[0]), probabilities, atol=1e-6)
    network.blocks[0].layers[1].bias.assign([1, 2, 3, 4])
    assert np.abs(toy.values([model(x)])[0] - probabilities).max() > 1e-3, "weights are shared"


@pytest.mark.parametrize(
    "last, squash",
    [
        ([layers.Dense(3), layers.Softmax()], softmax),
        ([layers.Dense(3), layers.Activation("sigmoid")], lambda o: 1 / (1 + np.exp(-o))),
        ([layers.Dense(3, activation="sigmoid")], lambda o: 1 / (1 + np.exp(-o))),
        ([layers.Dense(3, activation="linear")], lambda o: o),
    ],
)
def test_output_activation_is_taken_off(last, squash):
    model = sequential(layers.Flatten(), layers.Dense(4, activation="tanh"), *last)
    network = BlockNetwork.from_sequential(model)
    assert network.activation == "tanh"
    x = images()
    np.testing.assert_allclose(squash(toy.values([network(x)])[0]), model(x), atol=1e-6)


def test_a_sequential_without_input_is_built_by_the_learner():
    model = keras.Sequential([layers.Dense(4, activation="tanh"), layers.Dense(3, "softmax")])
    learner = bpfree.Learner(BlockNetwork.from_sequential(model), "dfa", seed=0)
    learner.build((None, 6))
    learner.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy")
    x, y, w = toy.batch()
    before = learner.evaluate(x, y, verbose=0)
    toy.step(learner, x, y)
    assert learner.evaluate(x, y, verbose=0) < before


def test_a_cut_sequential_learns_and_survives_saving(tmp_path):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, "tanh"), layers.Dense(4, "tanh"), layers.Dense(3)]
    )
    learner = toy.learner("dfa", BlockNetwork.from_sequential(model))
    x, y, w = toy.batch()
    expected = toy.learner("dfa").gradients(x, y, w)
    toy.assert_close(learner.gradients(x, y, w), expected, 1e-6)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(toy.values([loaded(x)])[0], toy.values([learner(x)])[0])


@pytest.mark.parametrize(
    "model, message",
    [
        (sequential(layers.Flatten(), layers.Dense(3)), "received 1 in"),
        (sequential(layers.Flatten()), "received 0 in"),
        (
            sequential(layers.Flatten(), layers.Dense(4), layers.Dense(3, activation="relu")),
            "received activation 'relu'",
        ),
        (keras.Model(*[keras.Input((3,))] * 2), "received a Functional"),
    ],
)
def test_refusals(model, message):
    with pytest.raises(UserError, match=message) as caught:
        BlockNetwork.from_sequential(model)
    assert "\n" not in str(caught.value)
