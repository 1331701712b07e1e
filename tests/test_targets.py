"""Target propagation against golden vectors, and what theory says of orthogonal weights."""

import json
from contextlib import nullcontext
from functools import partial

import keras
import numpy as np
import pytest
import toy
from conftest import ROOT
from oracles.targets import off_diagonal

import bpfree
from bpfree import inverses, penalties
from bpfree.errors import UserError
from bpfree.layers.increments import inverse_of
from bpfree.tuning.optimizers import Uncorrected

CASES = ("square_generic", "square_orthogonal", "square_orthogonal_linear")


@pytest.fixture(scope="module")
def golden() -> dict:
    path = ROOT.parent / "shared" / "references" / "gait_reference.json"
    if not path.is_file():
        pytest.skip(f"no golden vectors at {path}")
    return json.loads(path.read_text())


@pytest.fixture(params=["float32", "float64"])
def floats(request, backend):
    """Single and double precision."""
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    wide = nullcontext()
    if backend == "jax" and request.param == "float64":
        import jax

        wide = jax.enable_x64(True)
    with wide:
        yield request.param
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def gradients(rule, network, x, y, loss="mse", eager=True) -> list[np.ndarray]:
    """The rule's gradients on the network as it is."""
    learner = bpfree.Learner(network, rule, seed=0)
    learner.compile("sgd", loss=loss, jit_compile=not eager)
    learner.build(x.shape)
    return toy.values(learner.gradients(x, y))


def invertible(arch, inputs, outputs, weights=None, **options):
    network = bpfree.architectures.get(arch, (inputs,), outputs, seed=1, **options)
    if weights is not None:
        for variable, value in zip(network.trainable_variables, weights, strict=True):
            variable.assign(value)
    return network


def orthogonal(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def data(n, inputs, outputs, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, inputs)).astype("float32")
    return x, np.eye(outputs, dtype="float32")[random.integers(0, outputs, n)]


def cosines(a, b):
    return [
        float(np.sum(p * q) / np.linalg.norm(p) / np.linalg.norm(q))
        for p, q in zip(a[::2], b[::2], strict=True)
    ]


@pytest.mark.parametrize("rule", ["tp", "itp", "gait", "gait:gamma=1e-3"])
@pytest.mark.parametrize("case", CASES)
def test_golden_vectors(case, rule, floats, golden):
    """Increments are minus the gradient; with two classes, mse is half the squared error."""
    if rule == "gait:gamma=1e-3" and case != "square_generic":
        pytest.skip("once is enough")
    given, name = golden[case], rule.partition(":")[0]
    weights = [part for pair in zip(given["W"], given["b"], strict=True) for part in pair]
    activation = "linear" if given["linear"] else "lrelu"
    network = invertible("square:2", 5, 2, weights, activation=activation)
    x, y = (np.array(given[part], floats) for part in "xy")
    np.testing.assert_allclose(network.trace(x)[1], given["forward"][2], atol=1e-6)
    found = gradients(rule, network, x, y)
    pairs = zip(given[f"{name}_dW"], given[f"{name}_db"], strict=True)
    expected = [-np.array(part) for pair in pairs for part in pair]
    toy.assert_close(found, expected, {"float32": 1e-6, "float64": 1e-9}[floats])


def test_regulariser(floats, golden):
    given = golden["regulariser"]
    W = keras.ops.convert_to_tensor(np.array(given["W"], floats))
    tolerance = {"float32": 1e-6, "float64": 1e-13}[floats]
    assert float(penalties.off_diagonal(W)) == pytest.approx(given["loss"], rel=tolerance)
    slope = bpfree.autodiff.gradient(penalties.off_diagonal, W)
    toy.assert_close([slope], [given["grad"]], tolerance)


def test_adam_without_bias_correction(golden):
    given = golden["adam"]
    W = keras.Variable(given["W0"])
    rate = Uncorrected(given["lr"], given["beta1"], given["beta2"])
    optimizer = keras.optimizers.Adam(rate, given["beta1"], given["beta2"], epsilon=given["eps"])
    start, expected = np.array(given["W0"]), given["W_after"]
    for u, after in zip(given["directions"], expected, strict=True):
        optimizer.apply([-keras.ops.convert_to_tensor(u)], [W])
        toy.assert_close([W - start], [after - start], 1e-5)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(rate))
    assert again.get_config() == rate.get_config()


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize("unit_norm", [False, True])
def test_regulariser_s_gradient_is_that_of_its_value(shape, unit_norm):
    W = np.random.default_rng(0).normal(size=shape)

    def value(W):
        lengths = np.sum(W**2, axis=int(shape[0] <= shape[1]))
        return off_diagonal(W) + unit_norm * np.sum((lengths - 1) ** 2)

    found = bpfree.autodiff.gradient(
        lambda W: penalties.off_diagonal(W, unit_norm), keras.ops.convert_to_tensor(W, "float32")
    )
    expected = np.zeros(shape)
    for index in np.ndindex(shape):
        step = np.zeros(shape)
        step[index] = 1e-5
        expected[index] = (value(W + step) - value(W - step)) / 2e-5
    toy.assert_close([found], [expected], 1e-5)


def test_regulariser_enters_the_gradient_and_reg_but_not_the_loss():
    x, y = data(4, 6, 3)
    network = toy.network("5-4")
    toy.randomize(network)
    plain = gradients("gait", network, x, y)
    learner = bpfree.Learner(network, "gait:ortho_reg=0.3", seed=0)
    learner.compile(keras.optimizers.SGD(0.0), loss="mse", run_eagerly=True)
    learner.build(x.shape)
    kernels = [np.float64(v) for v in toy.values(network.trainable_variables)[::2]]
    logs = toy.step(learner, x, y)
    assert logs["reg"] == pytest.approx(0.3 * sum(map(off_diagonal, kernels)), rel=1e-5)
    assert logs["loss"] == pytest.approx(
        learner.evaluate(x, y, verbose=0, return_dict=True)["loss"], rel=1e-6
    )
    found = gradients("gait:ortho_reg=0.3", network, x, y)
    for got, without, K in zip(found[::2], plain[::2], kernels, strict=True):
        G = K @ K.T if len(K) <= K.shape[1] else K.T @ K
        apart = G - np.diag(np.diag(G))
        slope = 4 * (apart @ K if len(K) <= K.shape[1] else K @ apart)
        toy.assert_close([got - without], [0.3 * slope], 1e-4)
    toy.assert_close(found[1::2], plain[1::2])


def test_gait_is_backpropagation_on_wide_orthogonal_networks_and_only_there():
    """Five layers in float32; the first layer's weights may be any."""
    x, y = data(20, 64, 10)
    network = invertible("square:4", 64, 10)
    network.blocks[0].layers[0].kernel.assign(0.1 * np.random.default_rng(2).normal(size=(64, 64)))
    bp = gradients("bp", network, x, y)
    toy.assert_close(gradients("gait", network, x, y), bp, 1e-5)
    second = network.blocks[1].layers[0].kernel
    second.assign(0.125 * np.random.default_rng(3).normal(size=(64, 64)))
    found = cosines(gradients("gait", network, x, y), gradients("bp", network, x, y))
    assert found[0] < 0.9 and min(found[1:]) > 0.99999


def test_all_rules_are_the_same_on_linear_orthogonal_networks():
    x, y = data(7, 12, 3)
    network = invertible("square:3", 12, 3, activation="linear")
    bp = gradients("bp", network, x, y)
    for rule in ("tp", "itp", "gait"):
        toy.assert_close(gradients(rule, network, x, y), bp, 1e-5)


@pytest.mark.parametrize("unequal", [False, True])
def test_scaled_rows(unequal):
    """K = c Q: the error below is 1/c² of backpropagation's; rows of lengths r_i: 1/r_i² of each unit's."""
    x, y = data(7, 8, 3)
    network = invertible("square:1", 8, 3)
    r = np.linspace(0.5, 2, 8) if unequal else np.full(8, 2.0)
    network.head.layers[0].kernel.assign(r[:, None] * orthogonal(8, 1))
    bp, gait = gradients("bp", network, x, y), gradients("gait", network, x, y)
    toy.assert_close(gait[:2], [bp[0] / r**2, bp[1] / r**2], 1e-5)
    toy.assert_close(gait[2:], bp[2:])


@pytest.mark.parametrize(
    "rule", ["gait", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("bp", "tp", "itp"))]
)
def test_auxiliary_units_of_a_tower_learn_nothing(rule):
    x, y = data(7, 12, 3)
    found = gradients(rule, invertible("tower:12-8-6", 12, 3), x, y, eager=True)
    for index, read in enumerate((8, 6, 3)):
        for part in found[2 * index : 2 * index + 2]:
            assert not np.any(part[..., read:]) and np.all(np.any(part[..., :read], axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "swish"])
def test_gait_is_backpropagation_in_perceptrons_with_semi_orthogonal_weights(activation):
    x, y = data(7, 6, 3)
    options = {"activation": activation, "batch_norm": activation == "tanh"}
    network = bpfree.architectures.get("12-8-8-9", (6,), 3, seed=0, **options)
    loss = "categorical_crossentropy"
    toy.assert_close(
        gradients("gait", network, x, y, loss), gradients("bp", network, x, y, loss), 1e-5
    )


def test_dropout_s_masks_are_those_of_the_forward_pass():
    """Units that were dropped have no error, so GAIT is backpropagation there, too."""
    x, y = data(7, 6, 3)
    found = []
    for rule in ("gait", "bp"):
        network = bpfree.architectures.get("8-8", (6,), 3, seed=0, dropout=0.5)
        found.append(gradients(rule, network, x, y))
    toy.assert_close(*found, 1e-5)


def test_targets_that_cross_the_kink():
    """A unit at 0.0001 with a target far below: slope 10 beyond 0, on the way there 1."""
    z, d = np.float32([[1e-4, -1e-5, 2.0]]), np.float32([[1.0, -1.0, 0.5]])
    back = lambda y: np.where(y < 0, 10 * y, y)  # noqa: E731
    for gamma in (1.0, 0.01):
        h = np.float64(np.where(z < 0, 0.1 * z, z))
        expected = (back(h) - back(h - gamma * np.float64(d))) / gamma
        found = np.array(inverse_of("leaky")(z, d, gamma))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(inverse_of("leaky")(z, d, 0.0), d * [[1, 10, 1]], rtol=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "elu", "lrelu"])
def test_inverse_activations_by_their_differences(activation):
    f, g = {
        "tanh": (np.tanh, np.arctanh),
        "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda h: np.log(h / (1 - h))),
        "elu": (lambda z: np.where(z > 0, z, np.expm1(z)), None),
        "lrelu": (lambda z: np.where(z > 0, z, 0.2 * z), lambda h: np.where(h > 0, h, 5 * h)),
    }[activation]
    g = g or (lambda h: np.where(h > 0, h, np.log1p(np.minimum(h, 0))))
    random = np.random.default_rng(0)
    z, d = random.normal(size=(2, 50)).astype("float32")
    h = f(z.astype("float64"))
    for gamma in (0.05, 1e-3):
        found = np.array(inverse_of(activation)(z, d, gamma))
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = (g(h) - g(h - gamma * d)) / gamma
        inside = np.isfinite(expected)
        np.testing.assert_allclose(found[inside], expected[inside], rtol=2e-5)
    beyond = np.array(inverse_of(activation)(z, np.float32(50), 1.0))
    assert np.isfinite(beyond).all() and (beyond > 0).all()


@pytest.mark.parametrize("method", inverses.METHODS)
@pytest.mark.parametrize("shape", [(6, 6), (7, 4), (4, 7)])
def test_inverses(method, shape):
    random = np.random.default_rng(0)
    W = random.normal(size=shape)
    delta = random.normal(size=(5, shape[1])).astype("float32")
    inverse = inverses.METHODS[method](1e-6)
    inverse.build(shape)
    for change in (0.0, 1e-3, 1.0):
        W = (W + change * random.normal(size=shape)).astype("float32")
        inverse.refresh(keras.ops.convert_to_tensor(W))
        found = inverse.through(keras.ops.convert_to_tensor(delta), keras.ops.convert_to_tensor(W))
        toy.assert_close([found], [delta @ np.linalg.pinv(np.float64(W))], 1e-4)
    assert 0 <= float(inverse.residual) < 1e-3


def test_newton_schulz_follows_within_its_tolerance():
    """Warm steps end as soon as the residual is small enough, and say how small it is at most."""
    W = orthogonal(20, 0)
    inverse = inverses.NewtonSchulz(1e-3)
    inverse.build(W.shape)
    for seed in range(5):
        W = W + 0.002 * np.random.default_rng(seed).normal(size=W.shape)
        inverse.refresh(keras.ops.convert_to_tensor(W, "float32"))
        error = np.linalg.norm(np.eye(20) - W @ np.array(inverse.kept)) / np.sqrt(20)
        assert error <= float(inverse.residual) + 1e-6 <= 1e-3 + 1e-6
    assert error > 1e-6, "no iteration was spent on digits that nobody asked for"


def test_float16_trains():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        subject = bpfree.Learner(invertible("square:1", 6, 3), "gait", seed=0)
        subject.compile("sgd", loss="mse", run_eagerly=True)
        x, y = data(8, 6, 3)
        found = subject.gradients(x, y)
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(np.isfinite(g).all() and np.any(g) for g in toy.values(found))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: bpfree.Learner(toy.network(activation="relu"), "tp"), "'relu' has none"),
        (lambda: bpfree.Learner(toy.network(activation="swish"), "itp"), "'swish' has none"),
        (lambda: bpfree.Learner(toy.network(activation="relu"), "gait:gamma=.1"), "'relu' has"),
        (lambda: bpfree.rules.get("gait:propagate=limit,gamma=0.1"), "the limit has none"),
        (lambda: bpfree.rules.get("itp:gamma=2"), "lies in"),
        (lambda: bpfree.rules.get("itp:propagate=up"), "is one of limit, finite, compounded"),
        (lambda: bpfree.rules.get("tp:inverse=magic"), "Unknown inverse 'magic'"),
        (lambda: bpfree.rules.get("tp:ortho_reg=-1"), "at least 0"),
        (lambda: bpfree.architectures.get("square:x", (6,), 3), "Malformed"),
        (lambda: bpfree.architectures.get("tower:4-6", (6,), 3), "order the widths"),
        (lambda: bpfree.architectures.get("tower:8-6", (6,), 3), "first layer has 8"),
        (lambda: bpfree.architectures.get("square:1", (2,), 3), "output has 3"),
        (lambda: bpfree.architectures.get("square:1", (6,), 3, fw_init="aligned"), "aligned"),
    ],
)
def test_mistakes_are_one_sentence(make, words):
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_layers_without_an_inverse_are_refused_by_name():
    network = bpfree.architectures.get("CONV_4_3_1_1_CONV_4_3_1_1_FC_3", (6, 6, 1), 3)
    with pytest.raises(UserError, match="Conv2D"):
        bpfree.Learner(network, "gait").build((None, 6, 6, 1))


def test_a_user_s_own_layers():
    model = keras.Sequential(
        [keras.layers.Dense(6), keras.layers.LeakyReLU(0.1), keras.layers.Dense(6)]
        + [keras.layers.LeakyReLU(0.1), keras.layers.Dense(3)]
    )
    model.build((None, 6))
    network = bpfree.BlockNetwork.from_sequential(model)
    assert np.isfinite(gradients("tp", network, *data(4, 6, 3))[0]).all()


def tanh(z):
    """Not Keras's."""
    return 2 * keras.ops.tanh(z)


@pytest.mark.parametrize("rule", ["tp", "itp", "gait:gamma=0.1"])
@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Activation(partial(keras.activations.leaky_relu, negative_slope=0.1)),
        keras.layers.Activation(keras.layers.LeakyReLU(negative_slope=0.1)),
        keras.layers.Activation(tanh),
        keras.layers.Lambda(keras.ops.tanh),
    ],
)
def test_what_has_no_known_inverse_is_refused(rule, layer):
    """Whatever its name is."""
    blocks = [keras.layers.Dense(4), keras.Sequential([keras.layers.Dense(4), layer])]
    with pytest.raises(UserError, match="through the inverse of"):
        toy.learner(rule, bpfree.BlockNetwork(blocks, keras.layers.Dense(3)))


@pytest.mark.parametrize("trainable", [True, False])
def test_a_built_in_activation_is_refused_whatever_it_is(trainable):
    built_in = keras.layers.Dense(4, activation=keras.layers.LeakyReLU(), trainable=trainable)
    with pytest.raises(UserError, match="with their activation in a layer of its own"):
        toy.learner(
            "gait",
            bpfree.BlockNetwork([keras.layers.Dense(4), built_in], keras.layers.Dense(3)),
        )


def test_an_elu_layer_is_inverted_like_the_function():
    found = []
    for activation in (keras.layers.ELU(), keras.layers.Activation("elu")):
        second = keras.Sequential([keras.layers.Dense(4), activation])
        network = bpfree.BlockNetwork([keras.layers.Dense(4), second], keras.layers.Dense(3))
        learner = toy.learner("tp", network, compile={"jit_compile": False})
        found.append(toy.values(learner.gradients(*toy.batch())))
    toy.assert_close(*found)


def test_dense_layers_on_sequences_are_refused():
    blocks = [keras.layers.Dense(4), keras.layers.Dense(4)]
    network = bpfree.BlockNetwork(
        blocks, keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    )
    network.build((None, 2, 5))
    learner = bpfree.Learner(network, "gait", seed=0)
    learner.compile("sgd", "mse", jit_compile=False)
    with pytest.raises(UserError, match="dense layers on vectors, and .* is given the shape"):
        learner.gradients(np.zeros((4, 2, 5), "float32"), np.zeros((4, 3), "float32"))


@pytest.mark.parametrize("shape", [(16, 16), (16, 8), (8, 16)])
def test_newton_schulz_on_a_matrix_without_full_rank_stays_where_it_starts(shape):
    """It has no limit there that rounding does not leave: the start is a multiple of A's transpose."""
    random = np.random.default_rng(0)
    W = random.normal(size=(shape[0], 4)) @ random.normal(size=(4, shape[1]))
    W = W.astype("float32")
    inverse = inverses.NewtonSchulz()
    inverse.build(shape)
    inverse.refresh(keras.ops.convert_to_tensor(W))
    A = W if shape[0] == shape[1] else W @ W.T if shape[0] < shape[1] else W.T @ W
    start = A.T / (np.abs(A).sum(0).max() * np.abs(A).sum(1).max())
    assert float(inverse.residual.value) == 1
    np.testing.assert_allclose(toy.values([inverse.kept])[0], start, rtol=1e-4, atol=1e-9)
