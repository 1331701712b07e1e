"""Every example's own gradient of a layer's weights, without writing it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from bpfree.errors import UserError
from bpfree.precision import full

_NORMS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)


@dataclass(frozen=True)
class LinearMap:
    """How a layer's output depends on one of its weights, example by example: z_n = A_n W + rest.

    The gradient of example n with respect to W, from γ_n = ∂ℓ_n/∂z_n, is U_n = A_nᵀ γ_n. It need not be
    written out: what it moves the output by is A_n U_n, and ‖U_n‖² = ⟨γ_n, A_n U_n⟩.

    Attributes:
        variable: W.
        along: γ (N, …) ↦ A_n A_nᵀ γ_n (N, …), what W ← W + U_n moves example n's output by.
        back: γ ↦ Σ_n A_nᵀ γ_n.
        factor: (N, 1), what A_n A_nᵀ multiplies every γ_n by; None where it is no multiple of the identity.
    """

    variable: Any
    along: Callable
    back: Callable
    factor: Any = None


def maps(layer: keras.layers.Layer, x) -> list[LinearMap]:
    """The maps of a layer's trainable weights at the input x (N, …), one per weight tensor.

    Args:
        layer: Dense or Conv2D (one group) without an activation of its own, BatchNormalization or
            LayerNormalization of the last axis, or one without trainable weights.
        x: its input; of a normalisation the normalised values, before scale and shift.

    Raises:
        UserError: for any other layer.
    """
    x = full(x)
    if not layer.trainable_variables:
        return []
    if isinstance(layer, _NORMS) and layer.axis in (-1, [-1], len(x.shape) - 1, [len(x.shape) - 1]):
        return [*([] if layer.gamma is None else [_scale(layer.gamma, x)]), *_shift(layer.beta)]
    if getattr(layer, "activation", None) in (None, keras.activations.linear):
        if isinstance(layer, keras.layers.Dense) and len(x.shape) == 2:
            return _on_vectors(layer, x)
        if isinstance(layer, keras.layers.Dense):
            return [_product(layer.kernel, x), *_shift(layer.bias)]
        if isinstance(layer, keras.layers.Conv2D) and layer.groups == 1:
            patches = ops.image.extract_patches(
                *(x, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)
            )
            return [_product(layer.kernel, patches), *_shift(layer.bias)]
    raise UserError(
        f"Space weight of 'fg' knows dense and convolutional layers, their activation in a layer of its own, "
        f"and normalisation of the last axis, received {layer.name!r} ({type(layer).__name__}): use "
        "space=avg-weight or space=activation."
    )


def _rows(values):
    """(N, …, C) as (N, positions, C)."""
    return ops.reshape(values, (ops.shape(values)[0], -1, values.shape[-1]))


def _product(kernel, x) -> LinearMap:
    """z_s = x_s W at every position s."""
    rows = _rows(x)

    def along(g):
        # The order of the products, and so whether U_n ever exists, is einsum's choice.
        return ops.reshape(ops.einsum("nsp,ntp,ntq->nsq", rows, rows, _rows(g)), ops.shape(g))

    def back(g):
        return ops.reshape(ops.einsum("nsp,nsq->pq", rows, _rows(g)), kernel.shape)

    return LinearMap(kernel, along, back)


def _on_vectors(layer, x) -> list[LinearMap]:
    """z = x W + b: A Aᵀ is ‖x_n‖² for W and 1 for b."""
    square = ops.sum(ops.square(x), axis=1, keepdims=True)
    found = [
        LinearMap(
            layer.kernel, lambda g: square * g, lambda g: ops.matmul(ops.transpose(x), g), square
        )
    ]
    if layer.bias is not None:
        sums = lambda g: ops.sum(g, axis=0)  # noqa: E731
        found.append(LinearMap(layer.bias, lambda g: g, sums, ops.ones_like(square)))
    return found


def _scale(variable, x) -> LinearMap:
    """z_s = x_s ∘ W at every position."""

    def along(g):
        total = ops.sum(_rows(x * g), axis=1)
        return x * ops.reshape(total, (-1, *[1] * (len(g.shape) - 2), g.shape[-1]))

    return LinearMap(variable, along, lambda g: ops.sum(_rows(x * g), axis=(0, 1)))


def _shift(variable) -> list[LinearMap]:
    """z_s = W + … at every position."""
    if variable is None:
        return []

    def along(g):
        total = ops.sum(_rows(g), axis=1)
        return ops.ones_like(g) * ops.reshape(total, (-1, *[1] * (len(g.shape) - 2), g.shape[-1]))

    return [LinearMap(variable, along, lambda g: ops.sum(_rows(g), axis=(0, 1)))]
