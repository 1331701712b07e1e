"""What an increment of a unit's activity is before its activation: inverses for targets."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from bpfree.layers.activations import ACTIVATIONS, leaky

EDGE = 1e-6
"""How near to the ends of its range an activity is taken to be at most: f⁻¹ has no value there."""


def inverse_of(activation) -> Callable | None:
    """The inverse of an activation f, or None if it has none here.

    Args:
        activation: a name on the command line, a function, or a layer that applies one.

    Returns:
        A function `(h, d, gamma)` of activities h and what they are to be lowered by, d, that returns
        `[f⁻¹(h) − f⁻¹(h − γ d)] / γ`, or for γ = 0 the limit `d / f'(f⁻¹(h))`: without the rounding
        error that the difference of two large numbers would have.
    """
    if isinstance(activation, keras.layers.LeakyReLU) and activation.negative_slope > 0:
        return _leaky(activation.negative_slope)
    activation = getattr(activation, "activation", activation)
    activation = getattr(activation, "__name__", activation)
    return INVERTIBLE.get(ACTIVATIONS.get(activation, activation))


def _linear(h, d, gamma):
    return d


def _leaky(slope: float) -> Callable:
    """d/f' on one branch; across the kink, (h/f'_h − y/f'_y)/γ with y = h − γ d."""

    def increment(h, d, gamma):
        here, there = (ops.where(y < 0, 1 / slope, 1.0) for y in (h, h - gamma * d))
        if not gamma:
            return d * here
        return d * there + ops.where(here == there, 0.0, h / gamma * (here - there))

    return increment


def _tanh(h, d, gamma):
    """artanh h − artanh y = artanh((h − y)/(1 − h y))."""
    h, d = _inside(h, d, gamma, EDGE - 1, 1 - EDGE)
    ratio = d / (1 - h * (h - gamma * d))
    return ops.arctanh(gamma * ratio) / gamma if gamma else ratio


def _sigmoid(h, d, gamma):
    """logit h − logit y = log(1 + (h − y)/(y (1 − h)))."""
    h, d = _inside(h, d, gamma, EDGE, 1 - EDGE)
    return _logarithm(d / ((h - gamma * d) * (1 - h)), gamma)


def _elu(h, d, gamma):
    """Below 0, log(1 + h) − log(1 + y) = log(1 + (h − y)/(1 + y)); above it, h − y."""
    h, d = _inside(h, d, gamma, EDGE - 1, None)
    y = h - gamma * d
    below = _logarithm(d / (1 + y), gamma)
    if not gamma:
        return ops.where(h < 0, below, d)
    across = (_elu_inverse(h) - _elu_inverse(y)) / gamma
    one_side = ops.where(h < 0, below, d)
    return ops.where((h < 0) == (y < 0), one_side, across)


def _elu_inverse(h):
    return ops.where(h < 0, ops.log1p(ops.minimum(h, 0.0)), h)


def _logarithm(ratio, gamma):
    return ops.log1p(gamma * ratio) / gamma if gamma else ratio


def _inside(h, d, gamma, least: float, most: float | None):
    """h within the range, and d such that h − γ d is, too."""
    for bound, nearest in ((least, ops.maximum), (most, ops.minimum)):
        if bound is not None:
            h = nearest(h, bound)
            y = h - gamma * d
            d = ops.where(nearest(y, bound) == y, d, (h - bound) / gamma) if gamma else d
    return h, d


INVERTIBLE = {
    "linear": _linear,
    leaky.__name__: _leaky(0.1),
    "leaky_relu": _leaky(0.2),
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "elu": _elu,
}
"""By the activation function's name; `leaky_relu` is Keras's, of slope 0.2."""
