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
from bpfree.layers.residual import Residual
from bpfree.layers.tokens import Positions, SelfAttention


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


@keras.saving.register_keras_serializable("test_network")
class Matrix(layers.Layer):
    """A user's own layer with a weight matrix, or with a layer inside that has one."""

    def __init__(self, inner=None):
        super().__init__()
        self.parts = {"inner": inner}

    def build(self, shape):
        if self.parts["inner"] is None:
            self.w = self.add_weight(name="w", shape=(shape[-1], 4))

    def call(self, x):
        inner = self.parts["inner"]
        return x @ self.w if inner is None else inner(x)


def functional(*parts, size=4):
    x = inputs = keras.Input((size,))
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


COMPOSITES = {
    "functional": lambda: functional(layers.Dense(4, "tanh")),
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(4)),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(4)),
    "SpectralNormalization": lambda: layers.SpectralNormalization(layers.Dense(4)),
    "Residual": lambda: Residual([layers.Dense(4)], activation="tanh"),
    "SelfAttention": lambda: SelfAttention(2, 4, 0),
    "a weight": Matrix,
    "a layer": lambda: Matrix(layers.Dense(4)),
}


@pytest.mark.parametrize("kind", COMPOSITES)
def test_a_composite_layer_with_a_kernel_is_a_block_of_its_own(kind):
    ranks = {"TimeDistributed": 2, "Bidirectional": 2, "SelfAttention": 2}
    shape = (3, 4)[-ranks.get(kind, 1) :]
    composite = COMPOSITES[kind]()
    model = sequential(
        layers.Dense(4),
        layers.Activation("tanh"),
        composite,
        layers.Flatten(),
        layers.Dense(2),
        shape=shape,
    )
    network = BlockNetwork.from_sequential(model)
    assert [len(block.layers) for block in network.blocks] == [2, 2]
    assert network.blocks[1].layers[0] is composite
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype("float32")
    toy.assert_close([network(x)], [model(x)])


def test_layers_without_a_kernel_join_a_block_whatever_is_in_them():
    words = Matrix(layers.Embedding(7, 4))
    parts = [
        words,
        layers.TimeDistributed(layers.PReLU()),
        Positions(0),
        layers.LayerNormalization(),
    ]
    model = sequential(*parts, layers.LSTM(4), layers.Dense(2), shape=(3,))
    (block,) = BlockNetwork.from_sequential(model).blocks
    assert block.layers == [*parts, model.layers[4]]


def test_a_sequential_within_counts_as_its_layers():
    feet = keras.Sequential([keras.Sequential([layers.Dense(5, "tanh")]), layers.Dropout(0.1)])
    last = keras.Sequential([layers.Dense(4, "tanh"), layers.Dense(3, activation="softmax")])
    model = sequential(feet, last, shape=(6,))
    network = BlockNetwork.from_sequential(model)
    assert kinds(network) == [["Dense", "Dropout"], ["Dense"], ["Dense"]]
    x = toy.batch()[0]
    toy.assert_close([softmax(toy.values([network(x)])[0])], [model(x)])


def test_a_head_with_a_softmax_built_in_is_a_copy():
    model = sequential(layers.Dense(4), layers.Dense(3, activation="softmax"), shape=(6,))
    network = BlockNetwork.from_sequential(model)
    assert network.blocks[0] is model.layers[0]
    network.head.bias.assign([1, 2, 3])
    np.testing.assert_array_equal(toy.values([model.layers[1].bias])[0], [0, 0, 0])


@pytest.mark.parametrize(
    "last, name",
    [
        ([layers.Dense(3), layers.ReLU()], "relu"),
        ([layers.Dense(3), layers.LeakyReLU()], "leaky_relu"),
        ([layers.Dense(3), layers.ELU()], "elu"),
        ([layers.Dense(3), layers.PReLU()], "prelu"),
        ([layers.Dense(3, activation=layers.LeakyReLU())], "leaky_relu"),
        ([keras.Sequential([layers.Dense(3), layers.ReLU()])], "relu"),
        ([functional(layers.Dense(3, "softmax"))], "softmax"),
        ([layers.SpectralNormalization(layers.Dense(3, "softmax"))], "softmax"),
        ([Residual([layers.Dense(4)], activation="relu")], "relu"),
    ],
)
def test_other_output_activations_are_refused(last, name):
    with pytest.raises(UserError, match=f"received activation '{name}'") as caught:
        BlockNetwork.from_sequential(sequential(layers.Dense(4), *last, shape=(6,)))
    assert "\n" not in str(caught.value)


MASKING = {
    "embedding": lambda: (layers.Embedding(7, 4, mask_zero=True),),
    "nested": lambda: (keras.Sequential([layers.Embedding(7, 4, mask_zero=True)]),),
    "inside": lambda: (functional(layers.Embedding(7, 4, mask_zero=True), size=3),),
    "masking": lambda: (layers.Embedding(7, 4), layers.Masking()),
}


@pytest.mark.parametrize("kind", MASKING)
def test_a_mask_that_leaves_a_block_is_refused(kind):
    model = sequential(
        *MASKING[kind](),
        layers.LSTM(4, return_sequences=True),
        layers.LSTM(4),
        layers.Dense(2),
        shape=(3,),
    )
    with pytest.raises(UserError, match="masks do not pass the cut") as caught:
        BlockNetwork.from_sequential(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["embedding", "nested", "masking"])
def test_a_mask_that_ends_within_its_block_is_kept(kind):
    model = sequential(*MASKING[kind](), layers.LSTM(4), layers.Dense(2), shape=(3,))
    network = BlockNetwork.from_sequential(model)
    x = np.array([[1, 2, 0], [3, 0, 0]])
    toy.assert_close([network.trace(x, cut=True)[-1]], [model(x)])


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
