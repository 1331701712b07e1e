"""Differentiation on TensorFlow and JAX.

With `bpfree.tuning.population` and `bpfree.costs.backend` the only code that names a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

Tensor = Any

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    raise ImportError(
        f"bpfree runs on the Keras backends tensorflow and jax, received {BACKEND!r}: "
        "set KERAS_BACKEND to one of them."
    )

ALWAYS_COMPILED = BACKEND == "jax"
"""Whether steps make sense only when compiled: JAX's alternative is one call per operation."""


def gradient(function: Callable[[Any], Tensor], at: Any) -> Any:
    """The gradient ∂ function(at) / ∂ at of a scalar function of one tensor, or of a list of them.

    Args:
        function: maps a tensor, or a list, to a scalar.
        at: the point, a float tensor of any shape, or a list. Nothing flows into what it was computed from.

    Returns:
        A tensor of the shape of `at`, or a list; zeros where the function does not depend on it.
    """
    at = keras.tree.map_structure(keras.ops.stop_gradient, at)
    if BACKEND == "jax":
        return jax.grad(function)(at)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(at)
        value = function(at)
    return tape.gradient(value, at, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def gradients(
    function: Callable[..., Tensor],
    variables: Sequence[keras.Variable],
    state: Sequence[keras.Variable] = (),
    jit_compile: bool = True,
) -> Callable[..., list[Tensor]]:
    """Compiles ∂ function(*arguments) / ∂ variables, which leaves every variable as it was.

    Args:
        function: computes a scalar from tensors, reading the variables.
        variables: those to differentiate by.
        state: every other variable that the function reads or assigns (statistics, seeds, feedback):
            what it assigns to them is dropped.
        jit_compile: whether XLA compiles it.

    Returns:
        A function `(*arguments, state_values=None)` that returns one gradient per variable, zeros where
        the function does not depend on it; `state_values` may stand in for the state's present values.
    """
    if BACKEND == "jax":
        return _jax_gradients(function, variables, state, jit_compile)
    return _tensorflow_gradients(function, variables, state, jit_compile)


def gradients_here(
    function: Callable[[], tuple[Tensor, Any]],
    variables: Sequence[keras.Variable],
    state: Sequence[keras.Variable],
    scale: Tensor,
) -> tuple[Tensor, Any, list[Tensor]]:
    """∂ function() / ∂ variables, as a part of the computation that is going on.

    Args:
        function: returns a scalar, and a structure of tensors.
        variables: those to differentiate by.
        state: every other variable that the function reads or assigns; what it assigns to them stays.
        scale: the scalar is multiplied by it on the way, and the gradients divided, so that numbers in
            half precision are neither too small nor too large.

    Returns:
        The scalar, the structure, and one gradient per variable, zeros where nothing depends on it.
    """
    scalar, structure, pull = pullback(function, variables, state)
    return scalar, structure, [gradient / scale for gradient in pull(scale)]


def pullback(
    function: Callable[[], tuple[Tensor, Any]],
    variables: Sequence[keras.Variable],
    state: Sequence[keras.Variable],
) -> tuple[Tensor, Any, Callable[[Tensor], list[Tensor]]]:
    """function(), and how a gradient by its tensor becomes gradients by the variables, when it is known.

    Args:
        function: returns a tensor y, and a structure of tensors.
        variables: those to differentiate by.
        state: every other variable that the function reads or assigns; what it assigns to them stays.

    Returns:
        y, the structure, and a function to be called once, `d -> [Σ_i d_i ∂y_i / ∂ variable]` of d in
        the shape and type of y: one gradient per variable, zeros where y does not depend on it.
    """
    take = _jax_pullback if BACKEND == "jax" else _tensorflow_pullback
    return take(function, variables, state)


def attached(variables: Sequence[keras.Variable], gradients: Sequence[Tensor]) -> Tensor:
    """0, with these gradients by these variables, whose values it does not read.

    `Σ sg(g)·W` has them too, but XLA would copy every W: its update in place would have to wait.
    """

    @keras.ops.custom_gradient
    def nothing(values, gradients):
        def backward(upstream):
            zeros = [keras.ops.zeros_like(gradient) for gradient in gradients]
            return [upstream * gradient for gradient in gradients], zeros

        return keras.ops.zeros(()), backward

    return nothing([keras.ops.convert_to_tensor(v) for v in variables], list(gradients))


def jvp(
    function: Callable[..., Any], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Any, Any]:
    """Forward mode: the value of the function and its directional derivative along the tangents.

    Args:
        function: a function of as many tensors as there are primals.
        primals: the point.
        tangents: the direction, of the primals' shapes and types.

    Returns:
        `(function(*primals), Σ_i ∂function/∂primal_i · tangent_i)`, in one forward pass.
    """
    if BACKEND == "jax":
        return jax.jvp(function, tuple(primals), tuple(tangents))
    primals = [tf.convert_to_tensor(primal) for primal in primals]
    with tf.autodiff.ForwardAccumulator(primals, list(tangents)) as accumulator:
        value = function(*primals)
    return value, accumulator.jvp(value, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def forget_programs() -> None:
    """Frees what the backend keeps of programs that ran, where it can be told to: on JAX.

    TensorFlow keeps what XLA compiled as long as the process lives.
    """
    if BACKEND == "jax":
        jax.clear_caches()


def isolated(
    variables: Sequence[keras.Variable], collect_losses: bool = False
) -> keras.StatelessScope:
    """A scope in which the variables keep their present values outside, whatever is assigned inside.

    Its `losses` are what layers add to the loss inside, if they are to be collected.
    """
    return _scope(((variable, variable.value) for variable in variables), collect_losses)


def replaced(values: Sequence[tuple[keras.Variable, Tensor]]) -> keras.StatelessScope:
    """A scope in which the variables have these values; gradients flow into the values."""
    return _scope(values)


def _scope(mapping, collect_losses: bool = False) -> keras.StatelessScope:
    return keras.StatelessScope(
        state_mapping=list(mapping), collect_losses=collect_losses, initialize_variables=False
    )


def _jax_gradients(function, variables, state, jit_compile):
    def value(values, state_values, arguments):
        mapping = [*zip(variables, values, strict=True), *zip(state, state_values, strict=True)]
        with _scope(mapping):
            return function(*arguments)

    compiled = jax.grad(value)
    if jit_compile:
        compiled = jax.jit(compiled)

    def call(*arguments, state_values=None):
        if state_values is None:
            state_values = [variable.value for variable in state]
        return compiled([variable.value for variable in variables], state_values, arguments)

    return call


def _jax_pullback(function, variables, state):
    here = [jax.lax.stop_gradient(variable.value) for variable in state]

    def value(values):
        mapping = [*zip(variables, values, strict=True), *zip(state, here, strict=True)]
        with _scope(mapping) as scope:
            before = [scope.get_current_value(variable) for variable in state]
            output, structure = function()
        # Only what the function assigned: handing the rest back would stop gradients outside.
        after = [
            None if (new := scope.get_current_value(variable)) is old else new
            for variable, old in zip(state, before, strict=True)
        ]
        return output, (structure, after)

    values = [jax.lax.stop_gradient(variable.value) for variable in variables]
    output, pull, (structure, after) = jax.vjp(value, values, has_aux=True)
    for variable, new in zip(state, after, strict=True):
        if new is not None:
            variable.assign(new)
    return output, structure, lambda upstream: pull(upstream)[0]


def _tensorflow_pullback(function, variables, state):
    values = [variable.value for variable in variables]
    with tf.GradientTape() as tape:
        tape.watch(values)
        output, structure = function()

    def pull(upstream):
        zero = tf.UnconnectedGradients.ZERO
        return tape.gradient(output, values, upstream, unconnected_gradients=zero)

    return output, structure, pull


def _tensorflow_gradients(function, variables, state, jit_compile):
    @tf.function(jit_compile=jit_compile, reduce_retracing=True, autograph=False)
    def compiled(arguments, state_values):
        with tf.GradientTape() as tape:
            # Keras's regularisers look the variables themselves up in the scope, too.
            mapping = [(variable, variable.value) for variable in variables]
            mapping += zip(state, state_values, strict=True)
            with _scope(mapping):
                value = function(*arguments)
        return tape.gradient(
            value,
            [variable.value for variable in variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    def call(*arguments, state_values=None):
        if state_values is None:
            state_values = [tf.convert_to_tensor(variable.value) for variable in state]
        return compiled(arguments, state_values)

    return call
