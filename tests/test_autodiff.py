"""bpfree.autodiff against hand derivations."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import toy
from keras import ops

from bpfree import autodiff


def variable(value, trainable=True):
    return keras.Variable(np.float32(value), trainable=trainable)


def test_gradient_of_a_scalar_function():
    x = np.float32([1, -2, 3])
    (found,) = toy.values([autodiff.gradient(lambda t: ops.sum(t**3), x)])
    np.testing.assert_allclose(found, 3 * x**2)


def test_gradient_is_zero_where_the_function_does_not_depend():
    (found,) = toy.values([autodiff.gradient(lambda t: ops.sum(ops.ones(2)), np.ones((2, 3)))])
    np.testing.assert_array_equal(found, np.zeros((2, 3)))


def test_gradient_inside_a_gradient_is_a_value():
    """∂/∂v Σ sg(∂(v x²)/∂x) v at x = 3: the inner 2 v x counts as a constant, so 2·5·3."""
    v = variable(5.0)

    def objective(x):
        inner = autodiff.gradient(lambda t: ops.sum(v * t**2), x)
        return ops.sum(ops.stop_gradient(inner) * v)

    (found,) = autodiff.gradients(objective, [v])(np.float32([3.0]))
    assert toy.values([found])[0] == pytest.approx(30.0)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_gradients_leave_state_alone_and_read_its_present_value(jit_compile):
    w, unused, counter = variable([2.0, 3.0]), variable(1.0), variable(10.0, trainable=False)

    def function(x):
        counter.assign(counter + 1)
        return ops.sum(w**2 * x) * counter

    compiled = autodiff.gradients(function, [w, unused], [counter], jit_compile)
    x = np.float32([1.0, -1.0])
    for value in (10.0, 20.0):
        counter.assign(value)
        by_w, by_unused = toy.values(compiled(x))
        np.testing.assert_allclose(by_w, 2 * np.float32([2, 3]) * x * (value + 1))
        assert by_unused == 0
        assert float(counter.value) == value
    (by_w, _) = toy.values(compiled(x, state_values=[ops.convert_to_tensor(np.float32(4.0))]))
    np.testing.assert_allclose(by_w, 2 * np.float32([2, 3]) * x * 5)
    assert float(counter.value) == 20
    w.assign([1.0, 1.0])
    np.testing.assert_allclose(toy.values(compiled(x))[0], 2 * x * 21)


def test_jvp_is_the_directional_derivative():
    x, y, dx, dy = (np.float32(v) for v in ([1, 2], [3, 5], [1, -1], [0.5, 2]))
    value, along = autodiff.jvp(lambda a, b: a**2 * b, (x, y), (dx, dy))
    np.testing.assert_allclose(toy.values([value])[0], x**2 * y)
    np.testing.assert_allclose(toy.values([along])[0], 2 * x * y * dx + x**2 * dy)


def test_jvp_is_zero_where_the_function_does_not_depend():
    _, along = autodiff.jvp(
        lambda a: ops.ones((2,)), [np.ones(3, "float32")], [np.ones(3, "float32")]
    )
    np.testing.assert_array_equal(toy.values([along])[0], np.zeros(2))


def test_isolated_drops_what_is_assigned():
    v = variable(1.0, trainable=False)
    with autodiff.isolated([v]):
        v.assign(7.0)
        assert float(ops.convert_to_numpy(v.value)) == 7
    assert float(v.value) == 1


@pytest.mark.slow
def test_another_backend_is_refused_in_a_sentence():
    run = subprocess.run(
        [sys.executable, "-c", "import bpfree.autodiff"],
        env={**os.environ, "KERAS_BACKEND": "numpy", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "bpfree runs on the Keras backends tensorflow and jax, received 'numpy'" in run.stderr
