"""What an increment of a unit's activity is before its activation: inverses for targets."""

from __future__ import annotations

import math
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
        A function `(z, d, gamma)` of pre-activations z and of d, what h = f(z) is to be lowered by, that
        returns `[z − f⁻¹(h − γ d)] / γ`, or for γ = 0 the limit `d / f'(z)`: without the rounding error
        that the difference of two large numbers would have.
    """
    if isinstance(activation, keras.layers.LeakyReLU) and activation.negative_slope > 0:
        return _leaky(activation.negative_slope)
    if isinstance(activation, keras.layers.ELU) and activation.alpha == 1:
        activation = keras.activations.elu
    function = getattr(activation, "activation", activation)
    if isinstance(function, str):
        named = {known.__name__: inverse for known, inverse in INVERTIBLE.items()}
        return named.get(ACTIVATIONS.get(function, function))
    return INVERTIBLE.get(function)


def _linear(z, d, gamma):
    return d


def _leaky(slope: float) -> Callable:
    """d/f' on one branch; across the kink, (h/f'_h − y/f'_y)/γ with y = h − γ d."""

    def increment(z, d, gamma):
        h = ops.where(z < 0, slope * z, z)
        here, there = (ops.where(y < 0, 1 / slope, ops.ones_like(y)) for y in (h, h - gamma * d))
        if not gamma:
            return d * here
        return d * there + ops.where(here == there, 0.0, h / gamma * (here - there))

    return increment


def _tanh(z, h, d, gamma):
    """artanh h − artanh y = artanh((h − y)/(1 − h y)), with 1 − h² = 1/cosh² z."""
    ratio = d / (1 / ops.square(ops.cosh(z)) + gamma * h * d)
    if not gamma:
        return ratio
    far = ops.abs(gamma * ratio) > 0.9
    near = ops.arctanh(ops.where(far, 0.0, gamma * ratio))
    return ops.where(far, z - ops.arctanh(h - gamma * d), near) / gamma


def _sigmoid(z, h, d, gamma):
    """logit h − logit y = log(1 + (h − y)/(y (1 − h))), with 1 − h = σ(−z)."""
    return _logarithm(d / ((h - gamma * d) * ops.sigmoid(-z)), gamma)


def _elu(z, h, d, gamma):
    """Below 0, log(1 + h) − log(1 + y) = log(1 + (h − y)/(1 + y)), with 1 + h = exp z; above, h − y."""
    y = h - gamma * d
    below = _logarithm(d / (ops.exp(ops.minimum(z, 0.0)) - gamma * d), gamma)
    one_side = ops.where(h < 0, below, d)
    if not gamma:
        return one_side
    across = (z - ops.where(y < 0, ops.log1p(y), y)) / gamma
    return ops.where((h < 0) == (y < 0), one_side, across)


def _logarithm(ratio, gamma):
    return ops.log1p(gamma * ratio) / gamma if gamma else ratio


def _curved(f: Callable, of: Callable, least: float, most: float, low: float, high: float):
    """The same of a function whose range is limited: `of(z, h, d, gamma)` within it, else the edge.

    Args:
        least, most: what an activity and a target are at least and at most.
        low, high: f⁻¹ of these.
    """

    def increment(z, d, gamma):
        z = ops.clip(z, low, high)
        h = f(z)
        found = of(z, h, d, gamma)
        if not gamma:
            return found
        y = h - gamma * d
        found = ops.where(y < least, (z - low) / gamma, found)
        return ops.where(y > most, (z - high) / gamma, found)

    return increment


_ARTANH, _LOGIT = math.atanh(1 - EDGE), math.log((1 - EDGE) / EDGE)

INVERTIBLE = {
    keras.activations.linear: _linear,
    leaky: _leaky(0.1),
    keras.activations.leaky_relu: _leaky(0.2),
    keras.activations.tanh: _curved(ops.tanh, _tanh, EDGE - 1, 1 - EDGE, -_ARTANH, _ARTANH),
    keras.activations.sigmoid: _curved(ops.sigmoid, _sigmoid, EDGE, 1 - EDGE, -_LOGIT, _LOGIT),
    keras.activations.elu: _curved(ops.elu, _elu, EDGE - 1, math.inf, math.log(EDGE), math.inf),
}
"""By the activation function: another one of the same name may be another function."""
