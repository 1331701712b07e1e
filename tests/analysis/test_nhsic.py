"""nHSIC against its definition in float64 NumPy, with explicit inverses and distances by loops."""

import keras
import numpy as np
import pytest
import toy
from keras import ops

from bpfree import analysis, autodiff
from bpfree.analysis import trackers
from bpfree.hsic import gaussian_kernel, linear_kernel, nhsic, nhsic_of_kernels

SIGMA, EPSILON = 5.0, 1e-5


def kernel(x, sigma=SIGMA):
    x = np.asarray(x, "float64").reshape(len(x), -1)
    scale = 2 * sigma**2 * x.shape[1]
    return np.array([[np.exp(-sum((a - b) ** 2) / scale) for b in x] for a in x])


def shares(k, epsilon=EPSILON, sides=2):
    """K̃ (K̃ + ε m I)⁻¹, centred on both sides or, as the reference code does, on one."""
    m = len(k)
    h = np.eye(m) - np.ones((m, m)) / m
    centred = h @ k @ h if sides == 2 else k @ h
    return centred @ np.linalg.inv(centred + epsilon * m * np.eye(m))


def expected(x, z, sides=2, sigma=SIGMA, epsilon=EPSILON):
    return np.trace(
        shares(kernel(x, sigma), epsilon, sides) @ shares(kernel(z, sigma), epsilon, sides)
    )


@pytest.fixture(scope="module")
def views():
    """64 examples: inputs, labels of 10 classes, and activations that derive from the inputs."""
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 100))
    y = np.eye(10)[random.integers(0, 10, 64)]
    z = np.tanh(0.2 * x @ random.normal(size=(100, 30)))
    return {"X": x, "Y": y, "Z": z}


# Computed apart from this project, in double precision, and rounded.
PUBLISHED = {"XX": 58.32, "ZZ": 31.87, "YY": 8.55, "XZ": 38.23, "YZ": 5.56}


@pytest.mark.parametrize("pair", PUBLISHED)
def test_value_is_that_of_the_definition(views, pair):
    first, second = (views[name] for name in pair)
    value = expected(first, second)
    assert value == pytest.approx(PUBLISHED[pair], abs=0.005)
    assert float(nhsic(first, second)) == pytest.approx(value, rel=1e-4)
    assert float(nhsic(second, first)) == pytest.approx(value, rel=1e-4)


def test_centring_on_one_side_gives_the_same(views):
    one, two = (expected(views["X"], views["Z"], sides) for sides in (1, 2))
    assert one == pytest.approx(two, rel=1e-9)


def test_width_and_epsilon_are_arguments(views):
    options = {"sigma": 2.0, "epsilon": 1e-3}
    value = expected(views["X"], views["Z"], **options)
    assert float(nhsic(views["X"], views["Z"], **options)) == pytest.approx(value, rel=1e-4)
    assert value != pytest.approx(expected(views["X"], views["Z"]), rel=0.01)


def test_images_are_flattened_and_scaled_by_all_their_numbers(views):
    images = views["X"].reshape(64, 5, 5, 4)
    np.testing.assert_allclose(gaussian_kernel(images), kernel(views["X"]), atol=1e-6)
    np.testing.assert_allclose(
        linear_kernel(images), views["X"] @ views["X"].T, rtol=1e-5, atol=1e-4
    )


def test_kernels_of_choice(views):
    z, y = views["Z"], views["Y"]
    value = np.trace(shares(kernel(z)) @ shares(y @ y.T))
    assert float(nhsic_of_kernels(gaussian_kernel(z), linear_kernel(y))) == pytest.approx(
        value, rel=1e-4
    )


def test_examples_far_from_the_origin_lose_no_precision(views):
    far = views["X"] + 300.0
    assert float(nhsic(far, views["Y"])) == pytest.approx(expected(far, views["Y"]), rel=1e-3)


def test_half_precision_is_computed_in_single(views):
    half = views["Z"].astype("float16")
    value = nhsic(ops.convert_to_tensor(half), views["Y"].astype("float16"))
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert float(value) == pytest.approx(expected(half, views["Y"]), rel=1e-4)


def gradient(x, y, jit_compile):
    """Of nHSIC(X²; Y) with respect to X."""
    variable = keras.Variable(x, dtype="float32")
    function = autodiff.gradients(
        lambda targets: nhsic(ops.square(variable), targets), [variable], [], jit_compile
    )
    (result,) = function(ops.convert_to_tensor(y, dtype="float32"))
    return ops.convert_to_numpy(result)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_is_that_of_finite_differences(jit_compile):
    random = np.random.default_rng(1)
    x = 3 * random.normal(size=(12, 4))
    y = np.eye(3)[random.integers(0, 3, 12)]
    x[5] = x[2]  # a distance of zero
    found = gradient(x, y, jit_compile)
    assert np.isfinite(found).all()
    for place in [(0, 0), (2, 1), (5, 3), (11, 2)]:
        step = np.zeros_like(x)
        step[place] = 1e-4
        change = expected((x + step) ** 2, y) - expected((x - step) ** 2, y)
        limit = 5e-3 * float(np.abs(found).max())
        assert found[place] == pytest.approx(change / 2e-4, abs=limit)


def test_examples_that_hardly_differ_are_told_apart():
    x = 1e-3 * np.random.default_rng(0).normal(size=(32, 30)) + 1.0
    value = expected(x, x)
    assert float(nhsic(x, x)) == pytest.approx(value, rel=1e-2) and value < 1e-4


def test_gradient_is_finite_where_all_examples_coincide():
    found = gradient(np.ones((8, 3)), np.eye(2)[[0, 1] * 4], jit_compile=True)
    np.testing.assert_allclose(found, 0.0, atol=1e-6)


def test_analysis_offers_the_function():
    assert analysis.nhsic is nhsic and analysis.gaussian_kernel is gaussian_kernel


# -- the tracker ------------------------------------------------------------------------------------


def activations(learner, x):
    """Of the toy network of tanh units, by NumPy."""
    first, first_bias, second, second_bias, *_ = toy.values(learner.trainable_variables)
    h = np.tanh(x @ first + first_bias)
    return {"block_1": h, "block_2": np.tanh(h @ second + second_bias)}


@pytest.mark.parametrize("examples", [pytest.param(40, marks=pytest.mark.once), 300])
def test_columns_are_means_over_whole_batches(examples):
    x, y, _ = toy.batch(examples)
    learner = toy.learner("dfa")
    found = trackers.get("nhsic", x, y).columns(learner)
    batches = [slice(0, 40)] if examples == 40 else [slice(0, 128), slice(128, 256)]
    for place, h in activations(learner, x).items():
        for name, view in (("nhsic_x", x), ("nhsic_y", y)):
            value = np.mean([expected(view[rows], h[rows]) for rows in batches])
            # The same oracle for both backends, so they agree as well.
            assert found.pop(f"{name}/{place}") == pytest.approx(value, rel=1e-4)
    assert not found


def test_labels_are_taken_as_one_hot():
    x, y, _ = toy.batch(40)
    learner = toy.learner("dfa")
    expected = trackers.get("nhsic", x, y).columns(learner)
    labels = y.argmax(1)
    assert trackers.get("nhsic", x, labels).columns(learner) == expected
    assert trackers.get("nhsic", x, labels[:, None]).columns(learner) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e3])
def test_what_float32_cannot_tell_is_missing(value):
    x, y, _ = toy.batch(40)
    learner = toy.learner("bp", activation="linear")
    learner.network.blocks[1].trainable_variables[0].assign(np.full((5, 4), value))
    found = trackers.get("nhsic", x, y).columns(learner)
    assert np.isnan([found["nhsic_x/block_2"], found["nhsic_y/block_2"]]).all()
    assert np.isfinite([found["nhsic_x/block_1"], found["nhsic_y/block_1"]]).all()


COLUMNS = [f"nhsic_{view}/block_{block}" for block in (1, 2) for view in "xy"]
COLUMNS += ["linear_probe/block_1", "linear_probe/block_2"]


def looking(x, y):
    return [trackers.get(name, x, y) for name in ("nhsic", "linear_probe")]


@pytest.mark.parametrize("rule", ["bp", "dfa", "ff", "sp"])
def test_rules_have_the_columns(rule):
    x, y, _ = toy.batch(40)
    learner = toy.learner(rule)
    found = {}
    for tracker in looking(x, y):
        found |= tracker.columns(learner)
    assert list(found) == COLUMNS
    assert np.isfinite(list(found.values())).all()


@pytest.mark.parametrize("rule", [pytest.param("bp", marks=pytest.mark.once), "dfa"])
def test_looking_changes_nothing_and_sees_every_epoch(rule):
    x, y, _ = toy.batch(40)
    plain, looked_at = (toy.learner(rule, dropout=0.4, batch_norm=True) for _ in range(2))
    options = {"batch_size": 20, "epochs": 2, "shuffle": False, "verbose": 0}
    history = looked_at.fit(x, y, callbacks=looking(x, y), **options).history
    expected = plain.fit(x, y, **options).history
    assert list(history) == [*expected, *COLUMNS]
    assert {name: history[name] for name in expected} == expected
    for a, b in zip(toy.values(looked_at.variables), toy.values(plain.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    first, second = history["nhsic_x/block_1"]
    assert first != second and np.isfinite([first, second]).all()


@pytest.mark.once  # JAX has float64 only where it is told to at its start
@pytest.mark.parametrize("setting", ["set_floatx", "set_dtype_policy"])
def test_in_double_precision(views, setting):
    """Of float32 views too, which a network of that type may hand over."""
    getattr(keras.config, setting)("float64")
    try:
        value = nhsic(views["X"], views["Z"])
        mixed = nhsic(views["X"], ops.cast(views["Y"], "float32"))
        kernels = nhsic_of_kernels(kernel(views["X"]), kernel(views["Z"]))
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert float(value) == pytest.approx(expected(views["X"], views["Z"]), rel=1e-9)
    assert float(mixed) == pytest.approx(expected(views["X"], views["Y"]), rel=1e-9)
    assert float(kernels) == pytest.approx(expected(views["X"], views["Z"]), rel=1e-9)
