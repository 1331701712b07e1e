"""Activation functions that Keras lacks."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("bpfree")
def step(x):
    """Heaviside step, 1 where x > 0 and else 0, with the derivative of σ(4x), at most 1.

    The true derivative is 0 almost everywhere; the pseudo-derivative 4 σ(4x)(1 − σ(4x)) is local to
    the unit, so rules that need no backward pass may use it.

    Args:
        x: float tensor of any shape.

    Source: pseudo-derivatives as in Bengio, Léonard & Courville 2013 (straight-through estimators),
    https://arxiv.org/abs/1308.3432, section 4.
    """
    smooth = ops.sigmoid(4 * x)
    return smooth + ops.stop_gradient(ops.cast(x > 0, x.dtype) - smooth)


@keras.saving.register_keras_serializable("bpfree")
def leaky(x):
    """Leaky ReLU of slope 0.1: x where x ≥ 0, else x/10; its derivative at 0 is 1.

    Keras's own has slope 0.2, and PyTorch's 0.01.

    Args:
        x: float tensor of any shape.

    Source: Ahmad, van Gerven & Ambrogioni 2020, https://arxiv.org/abs/2006.06438.
    """
    return ops.where(x < 0, 0.1 * x, x)


ACTIVATIONS = {
    "tanh": "tanh",
    "relu": "relu",
    "swish": "silu",
    "lrelu": "leaky_relu",
    "sigmoid": "sigmoid",
    "elu": "elu",
    "step": step,
    "linear": "linear",
}
"""The activations' names on the command line, and what Keras calls them; `lrelu` has slope 0.2, but in
invertible networks 0.1, see `leaky`."""
