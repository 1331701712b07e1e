"""Forward gradients: the identities that prove them, in NumPy, by finite differences and against BP."""

import keras
import numpy as np
import pytest
import toy
from keras import ops
from oracles.feedback import true_signals
from oracles.mlp import Problem

import bpfree
from bpfree import architectures, autodiff, rules
from bpfree.errors import UserError
from bpfree.layers.auxiliary import auxiliary
from bpfree.layers.examplewise import maps
from bpfree.rules.replay import Replay
from bpfree.rules.trace import Batch

PLAIN = {"compile": {"jit_compile": False}}
"""Every operation by itself on JAX, a graph without XLA on TensorFlow: nothing to compile for long."""


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def given(rule, guesses):
    """The rule with these guesses in place of its noise."""
    rule.drawn = lambda shapes: [ops.convert_to_tensor(guess) for guess in guesses]


# -- networks with every kind of layer ---------------------------------------------------------------


def images(spec, batch_norm=True):
    """A learner of a convolutional block, one with two dense layers, one more block and a head."""
    layers = keras.layers
    norm = [layers.BatchNormalization()] if batch_norm else []
    dense = [
        layers.Dense(4),
        layers.LayerNormalization(),
        layers.Activation("tanh"),
        layers.Dense(3),
    ]
    blocks = [
        [layers.Conv2D(2, 2, strides=2, padding="same"), *norm, layers.Activation("tanh")],
        [layers.Flatten(), *dense, layers.Activation("tanh")],
        [layers.Dense(4, activation="tanh")],
    ]
    network = bpfree.BlockNetwork([keras.Sequential(b) for b in blocks], layers.Dense(3))
    network.build((None, 4, 4, 2))
    learner = bpfree.Learner(network, spec, seed=0)
    learner.compile(keras.optimizers.SGD(1.0), "categorical_crossentropy", jit_compile=False)
    learner.build((None, 4, 4, 2))
    toy.randomize(learner)
    return learner


def image_batch(examples=3):
    y = np.eye(3, dtype="float32")[np.arange(examples) % 3]
    return random(examples, 4, 4, 2, seed=1), y, np.linspace(0.5, 2, examples, dtype="float32")


@pytest.mark.parametrize(
    "space, training", [("activation", False), ("weight", False), ("avg-weight", True)]
)
def test_the_target_as_its_own_guess_is_backpropagation(space, training):
    """Kernels, biases, scales and shifts; batch statistics included where the batch has one derivative."""
    learner = images(f"fg:guess=global,space={space}")
    found = learner.gradients(*image_batch(), training=training)
    toy.assert_close(found, learner.gradients(*image_batch(), rule="bp", training=training), 3e-5)


@pytest.mark.slow
def test_of_one_example_every_space_of_weights_is_the_same():
    """Convolutions and layers on vectors, without writing out an example's gradient and with autodiff."""
    learner = images("fg:space=weight")
    once = [part[:1] for part in image_batch()]
    found = learner.gradients(*once, training=False)
    other = rules.get("fg:space=avg-weight", seed=0)
    learner.build_rule(other)
    for mine, theirs in zip(other.heads, learner.rule.heads, strict=True):
        mine.set_weights(theirs.get_weights())
    whole = learner.gradients(*once, rule=other, training=False)
    network = learner.network.trainable_variables  # the heads behind it are each rule's own
    compared = (toy.values(gradients[: len(network)]) for gradients in (found, whole))
    for variable, a, b in zip(network, *compared, strict=True):
        if variable.name == "bias":  # of a Dense layer it goes with its kernel, see `maps`
            assert abs(toy_cosine(a, b)) > 1 - 1e-5
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * max(np.abs(b).max(), 1e-2))


def toy_cosine(a, b):
    return np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2))


@pytest.mark.parametrize(
    "layer, shape",
    [
        (keras.layers.Dense(3), (2, 4)),
        (keras.layers.Dense(3), (2, 5, 4)),
        (keras.layers.Conv2D(3, (2, 3), strides=2, padding="same"), (2, 5, 5, 2)),
        (keras.layers.Conv2D(2, 2, padding="valid", use_bias=False), (2, 3, 3, 2)),
    ],
)
def test_an_examples_gradient_need_not_be_written_out(layer, shape):
    """‖U_n‖² = γ·AU, AU is what adding U_n to the weights moves the output by, and Σ_n U_n."""
    x = random(*shape)
    layer.build(shape)
    for variable in layer.trainable_variables:
        variable.assign(random(*variable.shape, seed=3))
    z = np.array(layer(x))
    g = random(*z.shape, seed=1)
    for part in maps(layer, x):
        variable, (before,) = part.variable, toy.values([part.variable])
        moved, squares, total = [], [], 0.0
        for n in range(len(x)):

            def product(value, n=n, variable=variable):
                pairs = [(v, v.value) for v in layer.variables]
                with autodiff.replaced([*pairs, (variable, value)]):
                    return ops.sum(layer(x[n : n + 1]) * g[n : n + 1])

            own = np.array(autodiff.gradient(product, variable.value))
            squares.append(np.sum(own**2))
            total = total + own
            variable.assign(before + own)
            moved.append(np.array(layer(x[n : n + 1]))[0] - z[n])
            variable.assign(before)
        along = np.array(part.along(ops.convert_to_tensor(g)))
        np.testing.assert_allclose(along, moved, rtol=0, atol=2e-5 * np.abs(moved).max())
        if part.factor is not None:
            np.testing.assert_allclose(np.array(part.factor) * g, along, rtol=1e-6)
        axes = tuple(range(1, g.ndim))
        np.testing.assert_allclose(np.sum(g * along, axis=axes), squares, rtol=2e-5)
        toy.assert_close([part.back(ops.convert_to_tensor(g))], [total], 2e-5)


# -- the derivative ----------------------------------------------------------------------------------


def replay(learner, x, y, training=False):
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    batch = Batch(
        x, y, ops.ones(len(x)), None, training, None, lambda outputs: loss.call(y, outputs)
    )
    return Replay.of(learner.network, batch, learner.variables)


def test_rate_is_the_finite_difference_and_the_product_with_the_gradient():
    learner = toy.learner("fg", **PLAIN)
    x, y, _ = toy.batch()
    losses = learner.rule.losses("global", replay(learner, x, y), 0)
    h, u = random(8, 5), random(8, 5, seed=1)
    forward = np.array(learner.rule.rate(losses, [h], [u]))
    assert forward.shape == (8,)
    difference = (np.array(losses(h + 1e-2 * u)) - np.array(losses(h - 1e-2 * u))) / 2e-2
    np.testing.assert_allclose(forward, difference, rtol=0, atol=2e-3)
    simulated = rules.get("fg:derivative=simulated").rate(losses, [ops.convert_to_tensor(h)], [u])
    np.testing.assert_allclose(forward, simulated, rtol=0, atol=1e-6)


def test_an_example_does_not_see_another_ones_direction_through_batch_statistics():
    learner = images("fg")
    x, y, _ = image_batch()
    step = replay(learner, x, y, training=True)
    first = ops.convert_to_tensor(x)
    losses = lambda x: learner.rule.losses("global", step, 0)(step.block(0, x))  # noqa: E731
    u = random(*x.shape)
    u[0] = 0
    rates = np.array(learner.rule.rate(losses, [first], [u]))
    assert rates[0] == 0 and np.abs(rates[1:]).min() > 1e-4
    coupled = Replay(step.network, step.batch, step.values, constant=False)
    np.testing.assert_allclose(step.outputs(first), coupled.outputs(first), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "spec, derivatives",
    [
        ("fg", 2),
        ("fg:guess=random", 1),
        ("fg:guess=random,joint=false", 2),
        ("fg:derivative=simulated", 0),
    ],
)
def test_derivatives_are_taken_forward(spec, derivatives, monkeypatch):
    """One for each block but the last, or one for all; none only where they are simulated by name."""
    learner = toy.learner(spec, arch="5-4-4", **PLAIN)
    counted, jvp = [], autodiff.jvp
    monkeypatch.setattr(autodiff, "jvp", lambda *arguments: counted.append(1) or jvp(*arguments))
    learner.surrogates(*toy.batch())
    assert len(counted) == derivatives


def test_simulated_is_the_same_without_batch_statistics():
    one, other = (toy.learner(spec, **PLAIN) for spec in ("fg", "fg:derivative=simulated"))
    toy.assert_close(one.gradients(*toy.batch()), other.gradients(*toy.batch()))


# -- random guesses ----------------------------------------------------------------------------------


def gradients_of_losses(learner, x, y, w):
    """∂loss_n/∂h_1 and ∂loss_n/∂h_2 of every example, unweighted."""
    posed = Problem(toy.values(learner.network.trainable_variables), [], x, y, np.ones_like(w))
    return posed, [signal * len(w) for signal in true_signals(posed)]


@pytest.mark.parametrize("joint", [True, False])
def test_noise_on_activations(joint):
    """Ĝ_n = ⟨∂loss_n, v_n⟩ v_n, with the products of all blocks added up where they are joint."""
    learner = toy.learner(f"fg:guess=random,joint={joint}", arch="5-4-4", **PLAIN)
    x, y, w = toy.batch()
    guesses = random(8, 5, seed=1), random(8, 4, seed=2)
    given(learner.rule, guesses)
    posed, true = gradients_of_losses(learner, x, y, w)
    shares = w[:, None] / len(w)
    rates = [np.sum(g * v, axis=1, keepdims=True) for g, v in zip(true, guesses, strict=False)]
    if joint:
        rates = [sum(rates)] * 2
    signals = [shares * c * v for c, v in zip(rates, guesses, strict=True)]
    expected = posed.gradients([*signals, shares * true[2]])[:6]
    toy.assert_close(learner.gradients(x, y, w)[:6], expected)
    toy.assert_close(learner.gradients(x, y, w)[6:], learner.gradients(x, y, w, rule="bp")[6:])


@pytest.mark.parametrize("space, joint", [("weight", True), ("avg-weight", False)])
def test_noise_on_weights(space, joint):
    """Ĝ_W = ⟨∂loss/∂W, v_W⟩ v_W, or Σ_W ⟨∂loss/∂W, v_W⟩ for every tensor."""
    learner = toy.learner(f"fg:guess=random,space={space},joint={joint}", arch="5-4-4", **PLAIN)
    batch = toy.batch()
    guesses = [random(*v.shape, seed=i) for i, v in enumerate(learner.trainable_variables[:4])]
    parts = iter([guesses[:2], guesses[2:]])
    learner.rule.drawn = lambda shapes: [ops.convert_to_tensor(v) for v in next(parts)]
    true = toy.values(learner.gradients(*batch, rule="bp"))
    rates = [np.sum(g * v) for g, v in zip(true, guesses, strict=False)]
    rates = [sum(rates)] * 4 if joint else rates
    expected = [c * v for c, v in zip(rates, guesses, strict=True)]
    toy.assert_close(learner.gradients(*batch), [*expected, *true[4:]])


def test_noise_has_no_bias():
    """One example many times over: the mean of as many estimates, within their standard error."""
    count = 20000
    learner = toy.learner("fg:guess=random", arch="5-4-4", **PLAIN)
    x, y = (np.repeat(part[:1], count, axis=0) for part in toy.batch()[:2])
    found, true = (toy.values(learner.gradients(x, y, rule=rule)) for rule in (None, "bp"))
    _, signals = gradients_of_losses(learner, x[:1], y[:1], np.ones(1))
    square = sum(np.sum(g**2) for g in signals[:2])
    for index in (
        1,
        3,
    ):  # biases; an entry's variance is (‖g‖² + g_i²) f'² for all 9 values perturbed
        error = np.abs(found[index] - true[index]).max()
        assert 0 < error < 5 * np.sqrt(2 * square / count)
        assert error < np.abs(true[index]).max() / 2, "and the bound is tight enough to tell"


@pytest.mark.parametrize("noise, fourth", [("gaussian", 3), ("rademacher", 1)])
def test_moments_of_the_estimate(noise, fourth):
    """E⟨g, v⟩v = g, E‖⟨g, v⟩v‖² = (d − 1 + E v⁴)‖g‖², mean square cosine 1/d; normalised E = g/d."""
    learner = toy.learner(f"fg:guess=random,noise={noise}", **PLAIN)
    count, d = 50000, 8
    g = random(d).astype("float64")
    v = np.array(learner.rule.drawn([(count, d)])[0]).astype("float64")
    estimates = (v @ g)[:, None] * v
    square = np.sum(g**2)
    bound = 5 * np.sqrt((d + 1) * square / count)
    assert np.abs(estimates.mean(0) - g).max() < bound
    squares = np.sum(estimates**2, axis=1)
    assert squares.mean() == pytest.approx((d - 1 + fourth) * square, rel=0.06)
    lengths = np.sum(v**2, axis=1)
    assert np.mean((v @ g) ** 2 / lengths / square) == pytest.approx(1 / d, rel=0.05)
    assert np.abs((estimates / lengths[:, None]).mean(0) - g / d).max() < bound / d * 2


def test_a_normalised_guess_has_no_scale_and_a_zero_one_no_effect():
    learner = toy.learner("fg:guess=random,normalise=true,joint=false", **PLAIN)
    batch, v = toy.batch(), random(8, 5)
    posed, true = gradients_of_losses(learner, *batch)
    found = []
    for factor in (1.0, -3.0, 0.0):
        given(learner.rule, [factor * v])
        found.append(learner._lesson(learner.rule, *map(ops.convert_to_tensor, batch))[0][0])
    h = posed.hidden[0]
    rate = np.sum(true[0] * v, 1) / np.sum(v**2, 1)
    expected = np.sum(batch[2] / 8 * rate * np.sum(v * h, 1))
    np.testing.assert_allclose(np.array(found), [expected, expected, 0], rtol=0, atol=1e-5)


# -- deterministic guesses ---------------------------------------------------------------------------


def test_local_target_and_guess_are_layer_wise_training():
    """The guessed blocks learn as under `lw` with the same heads, the last one from the true loss."""
    learner, layerwise = (toy.learner(spec, **PLAIN) for spec in ("localonly", "lw"))
    ours, theirs = learner.rule.heads[0], layerwise.rule.heads[0]
    for a, b in zip(theirs.weights, ours.weights, strict=True):
        a.assign(b)
    found, lw = (toy.values(each.gradients(*toy.batch())) for each in (learner, layerwise))
    toy.assert_close(found[:2], lw[:2])
    toy.assert_close(found[6:], lw[6:8])
    toy.assert_close(found[2:6], learner.gradients(*toy.batch(), rule="bp")[2:6])


def test_local_training_takes_a_batch_normalised_auxiliary_net_as_it_is():
    """`localonly` is the gradient of each block's local loss, batch statistics included."""
    learner = toy.learner("localonly:auxnet=mlp,auxwidth=4,auxnorm=true", arch="5-4-4", **PLAIN)
    x, y, _ = toy.batch()
    expected, inputs = [], ops.convert_to_tensor(x)
    for block, head in zip(learner.network.blocks, learner.rule.heads, strict=False):
        own = block.trainable_variables

        def loss(block=block, head=head, inputs=inputs):
            log_p = ops.log_softmax(head(block(inputs), training=True))
            return -ops.mean(ops.sum(y * log_p, axis=1))

        known = set(map(id, own))
        state = [*learner.network.variables, *learner.rule.variables]
        state = [variable for variable in state if id(variable) not in known]
        expected += autodiff.gradients(loss, own, state, jit_compile=False)()
        inputs = block(inputs)
    toy.assert_close(learner.gradients(x, y)[:4], expected[:4], 3e-5)


@pytest.mark.parametrize("options", ["eps=0.3", "normalise=false"])
def test_every_weight_tensor_has_a_direction_of_its_own(options):
    """Kernel and bias of a layer are projected apart, on directions that ε shortens or nothing scales."""
    learner = toy.learner(f"fg:space=weight,{options}", **PLAIN)
    x, y, w = toy.batch()
    posed, true = gradients_of_losses(learner, x, y, w)
    W, b = toy.values(learner.rule.heads[0].trainable_variables)
    h = posed.hidden[0]
    e = np.exp(h @ W + b)
    guess = (e / e.sum(1, keepdims=True) - y) @ W.T * (1 - h**2)
    product = np.sum(true[0] * (1 - h**2) * guess, 1)
    found = []
    for A in (x, np.ones((len(x), 1))):
        own = np.sum(A**2, 1)
        square = own * np.sum(guess**2, 1)
        c = own * product / (square + 0.3 if "eps" in options else 1)
        found.append(A.T @ ((w * c / len(x))[:, None] * guess))
    toy.assert_close(learner.gradients(x, y, w)[:2], [found[0], found[1][0]], 1e-4)


@pytest.mark.parametrize("spec", ["fg:guess=global", "bp"])
def test_losses_of_ones_own_meet_targets_of_any_type(spec):
    def squares(targets, outputs):
        return ops.sum(ops.square(targets - outputs), axis=-1)

    x, y, w = toy.batch()
    learner = toy.learner(spec, loss=squares, **PLAIN)
    expected = learner.gradients(x, y, w, rule="bp")
    for kind in ("int32", "float64"):
        toy.assert_close(learner.gradients(x, y.astype(kind), w), expected)


def test_dropout_draws_the_same_masks_in_the_derivative():
    learner = toy.learner("fg:guess=global", arch="5-4-4", dropout=0.5, **PLAIN)
    both = [learner.gradients(*toy.batch(), rule=rule, seed=1) for rule in (None, "bp")]
    toy.assert_close(*both)


def test_statistics_are_collected_once_a_step():
    collected = []
    for spec in ("fg", "bp"):
        learner = images(spec)
        toy.randomize(learner.network)
        learner.train_on_batch(*image_batch())
        collected.append(toy.values(learner.network.blocks[0].non_trainable_variables))
    toy.assert_close(*collected)


def test_each_block_is_guessed_by_a_net_of_its_own():
    """Random nets with the weights of the trained ones give the same guesses, block by block."""
    trained, untrained = (
        toy.learner(f"fg:guess={guess}", arch="5-4-4", **PLAIN) for guess in ("local", "fixed-ntk")
    )
    for theirs, ours in zip(trained.rule.heads, untrained.rule.random, strict=True):
        for a, b in zip(ours.weights, theirs.weights, strict=True):
            a.assign(b)
    found, expected = (toy.values(e.gradients(*toy.batch()))[:6] for e in (untrained, trained))
    assert all(np.any(gradient) for gradient in expected)
    toy.assert_close(found, expected)


def test_random_nets_are_drawn_anew_or_kept_and_never_learn():
    found = {}
    for guess in ("ntk", "fixed-ntk"):
        learner = toy.learner(f"fg:guess={guess}", optimizer=keras.optimizers.SGD(0.0), **PLAIN)
        assert len(learner.trainable_variables) == 6
        nets = toy.values(learner.rule.random[0].weights)
        found[guess] = []
        for _ in range(2):
            found[guess].append(toy.values(learner.gradients(*toy.batch()))[0])
            toy.step(learner, *toy.batch())
        toy.assert_close(learner.rule.random[0].weights, nets, 0)
    assert np.abs(found["ntk"][0] - found["ntk"][1]).max() > 1e-3
    toy.assert_close([found["fixed-ntk"][0]], [found["fixed-ntk"][1]])


def test_above_is_the_next_blocks_local_loss():
    """Of the block before the last one it is the network's, so that the guess is the target."""
    learner = toy.learner("fg:guess=above", arch="5-4-4", **PLAIN)
    found, true = (toy.values(learner.gradients(*toy.batch(), rule=r)) for r in (None, "bp"))
    toy.assert_close(found[2:8], true[2:8])
    x, y, w = toy.batch()
    posed, (signal, *_) = gradients_of_losses(learner, x, y, w)
    M, b = toy.values(learner.rule.heads[1].weights)
    h = posed.hidden[1]
    scores = h @ M + b
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    guess = ((p - y) @ M.T * (1 - h**2)) @ posed.layers[1][0].T
    c = np.sum(signal * guess, 1, keepdims=True) / np.sum(guess**2, 1, keepdims=True)
    delta = w[:, None] / len(w) * c * guess * (1 - posed.hidden[0] ** 2)
    toy.assert_close(found[:2], [x.T @ delta, delta.sum(0)])


@pytest.mark.parametrize("spec", ["fg", "fg:space=avg-weight", "fg:guess=random"])
def test_a_reconstruction_is_guessed_by_its_own_loss(spec):
    learner = toy.learner(spec, toy.network(problem_type="reconstruction"), loss="mse", **PLAIN)
    found = toy.values(learner.gradients(*toy.batch()))
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in found)


# -- auxiliary nets, architectures, names ------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, size, channels, width, weights",
    [
        ("linear", 32, 64, None, 2698),
        ("cnn", 32, 64, None, 31242),
        ("cnn", 8, 256, None, 37386),
        ("cnn", 4, 512, 16, 15882),
        ("mlp", 32, 64, None, 2375690),
    ],
)
def test_auxiliary_nets_have_the_published_number_of_weights(kind, size, channels, width, weights):
    shape = (None, size, size, channels)
    made = auxiliary(kind, shape, 10, width, batch_norm=True)
    assert made.compute_output_shape(shape) == (None, 10)
    assert sum(int(np.prod(v.shape)) for v in made.trainable_variables) == weights


@pytest.mark.parametrize("blocks, weights", [(8, 11168832), (16, 10995008)])
def test_resnet18_has_the_published_blocks(blocks, weights):
    options = {"batch_norm": True, "fw_init": "zeros", "activation": "relu"}
    made = architectures.get(f"resnet18:blocks={blocks}", (32, 32, 3), 10, **options)
    assert len(made.blocks) == blocks
    assert [shape[1:] for shape in made.hidden_shapes[:: blocks // 4]] == [
        (32, 32, 64),
        (16, 16, 128),
        (8, 8, 256),
        (4, 4, 512),
    ]
    own = [v for block in made.blocks for v in block.trainable_variables]
    assert sum(int(np.prod(v.shape)) for v in own) == weights


def test_resnet18_has_no_other_number_of_blocks():
    with pytest.raises(UserError, match="8, 9 or 16 blocks, received 7"):
        architectures.get("resnet18:blocks=7", (32, 32, 3), 10)


@pytest.mark.parametrize(
    "spec, name, options",
    [
        ("std", "bp", {}),
        (
            "localonly",
            "fg",
            {"target": "local", "guess": "local", "space": "activation", "derivative": "simulated"},
        ),
        (
            "fg-tgt-e2e-guess-localgrad-weight:auxnet=cnn",
            "fg",
            {"target": "global", "guess": "local", "space": "weight", "auxnet": "cnn"},
        ),
        (
            "fg-tgt-e2e-guess-ntk-activity",
            "fg",
            {"target": "global", "guess": "ntk", "space": "activation"},
        ),
    ],
)
def test_published_names(spec, name, options):
    rule, found = rules.parse(spec)
    assert (rule.name, found) == (name, options)


@pytest.mark.parametrize(
    "spec, words",
    [
        ("fg:target=sum", "target 'sum' is not part of 'fg': it was announced"),
        ("fg:guess=best", "guess of 'fg' is one of random, global"),
        ("fg:space=sign-weight", "the published code computes weight"),
        ("fg:space=weights", "one of activation, weight, avg-weight"),
        ("fg:auxnet=predsim", "compares examples"),
        ("fg:noise=cauchy", "gaussian, rademacher"),
        ("fg:eps=0", "at least 1e-30"),
        ("fg:target=[1,2]", "target of 'fg' is one of global, local, above, received"),
        ("fg:auxwidth=true", "a whole number from 1, received True"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(spec, words):
    with pytest.raises(UserError, match=words) as caught:
        rules.get(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dense(4, activation="tanh"),
        keras.layers.Conv2D(4, 2, activation="relu"),
        keras.layers.LayerNormalization(axis=[1, 2, 3]),
        keras.layers.BatchNormalization(axis=1),
    ],
)
def test_what_space_weight_has_no_formula_for_is_refused(layer):
    layer.build((None, 4, 4, 2))
    with pytest.raises(UserError, match=f"received '{layer.name}'.*use space=avg-weight"):
        maps(layer, np.zeros((1, 4, 4, 2), "float32"))


def test_a_layer_that_is_used_twice_is_refused_in_space_weight():
    dense = keras.layers.Dense(toy.INPUTS)
    blocks = [
        keras.Sequential([dense, keras.layers.Activation("tanh"), dense]),
        keras.layers.Dense(4),
    ]
    learner = toy.learner("fg:space=weight", bpfree.BlockNetwork(blocks, keras.layers.Dense(3)))
    with pytest.raises(UserError, match="used once, and 'dense.*' is used again"):
        learner.gradients(*toy.batch())


def test_nets_and_layers_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="cnn auxnet needs feature maps"):
        toy.learner("fg:auxnet=cnn")
    layer = keras.layers.DepthwiseConv2D(2)
    layer.build((None, 4, 4, 2))
    with pytest.raises(UserError, match="use space=avg-weight"):
        maps(layer, np.zeros((1, 4, 4, 2), "float32"))
