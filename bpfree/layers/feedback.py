"""A layer with another kernel on the way back: feedback alignment's one ingredient."""

from __future__ import annotations

import keras
from keras import ops

from bpfree import autodiff
from bpfree.errors import UserError


def with_feedback(layer: keras.layers.Layer, x, kernel, training: bool = False):
    """The layer's output, whose gradient reaches x through `kernel` instead of the layer's own.

        y = f(sg x; K, b) + f(x; B, sg b) − sg f(x; B, sg b)

    The value is exactly f(x; K, b); K and b learn from the first term, and ∂y/∂x is that of f(x; B).

    Args:
        layer: linear in its weight `kernel`, see `owns_kernel`.
        x: its input.
        kernel: B, in the shape of K. Nothing flows into it.
        training: passed on to the layer.
    """
    forward = layer(ops.stop_gradient(x), training=training)
    stopped = [(v, ops.stop_gradient(v.value)) for v in layer.variables if v is not layer.kernel]
    kernel = ops.cast(ops.stop_gradient(kernel), layer.kernel.dtype)
    with autodiff.replaced([*stopped, (layer.kernel, kernel)]):
        back = layer(x, training=training)
    return forward + (back - ops.stop_gradient(back))


def owns_kernel(layer: keras.layers.Layer) -> bool:
    """Whether the layer is linear in a weight `kernel`, to which another may stand in on the way back.

    Raises:
        UserError: if it hides kernels that cannot be replaced: deeper inside, or behind an activation.
    """
    hidden = [v for v in layer.trainable_variables if "kernel" in v.name]
    if not hidden:
        return False
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", "linear")
    if not isinstance(getattr(layer, "kernel", None), keras.Variable) or len(hidden) > 1:
        raise UserError(
            f"Feedback alignment replaces the kernel of single layers, and {layer.name!r} "
            f"({type(layer).__name__}) hides {len(hidden)} inside: use another architecture or rule."
        )
    if name != "linear":
        raise UserError(
            f"Feedback alignment needs the activation in a layer of its own, and {layer.name!r} has "
            f"{name!r} built in: add a keras.layers.Activation after it."
        )
    return True
