"""Every example's own gradient of a layer's weights, without writing it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import ops

from bpfree.errors import UserError


@dataclass(frozen=True)
class LinearMap:
    """How a layer's output depends on some of its weights, example by example: z_n = A_n W + rest.

    The gradient of example n with respect to W, from γ_n = ∂ℓ_n/∂z_n, is U_n = A_nᵀ γ_n. It need not be
    written out: what it moves the output by is A_n U_n, and ‖U_n‖² = ⟨γ_n, A_n U_n⟩.

    Attributes:
        variables: W.
        along: γ (N, …) ↦ A_n A_nᵀ γ_n (N, …), what W ← W + U_n moves example n's output by.
        back: γ ↦ Σ_n A_nᵀ γ_n, one tensor per variable.
    """

    variables: list
    along: Callable
    back: Callable


def maps(layer: keras.layers.Layer, x) -> list[LinearMap]:
    """The maps of a layer's trainable weights at the input x (N, …), float32.

    One per weight tensor; a Dense layer's kernel and bias on vectors are one, since both have the same
    coefficients there: U_n = γ_n [x_n, 1]ᵀ, so that any ⟨T_n, U_n⟩/‖U_n‖² is ⟨δ_n, γ_n⟩/‖γ_n‖².

    Args:
        layer: Dense, Conv2D (one group), BatchNormalization or LayerNormalization, or one without
            trainable weights.
        x: its input; of a normalisation the normalised values, before scale and shift.

    Raises:
        UserError: for any other layer.
    """
    x = ops.cast(x, "float32")
    scale, shift = getattr(layer, "gamma", None), getattr(layer, "beta", None)
    if isinstance(layer, keras.layers.Dense):
        if len(x.shape) == 2:
            return [_joint(layer, x)]
        return [_product(layer.kernel, x), *_shift(layer.bias)]
    if isinstance(layer, keras.layers.Conv2D) and layer.groups == 1:
        patches = ops.image.extract_patches(
            *(x, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)
        )
        return [_product(layer.kernel, patches), *_shift(layer.bias)]
    if isinstance(layer, (keras.layers.BatchNormalization, keras.layers.LayerNormalization)):
        return [*([_scale(scale, x)] if scale is not None else []), *_shift(shift)]
    if layer.trainable_variables:
        raise UserError(
            f"Space weight of 'fg' knows dense, convolutional and normalisation layers, received "
            f"{layer.name!r} ({type(layer).__name__}): use space=avg-weight or space=activation."
        )
    return []


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
        return [ops.reshape(ops.einsum("nsp,nsq->pq", rows, _rows(g)), kernel.shape)]

    return LinearMap([kernel], along, back)


def _joint(layer, x) -> LinearMap:
    """z = [x, 1] W for kernel and bias of a Dense layer on vectors."""
    bias = [] if layer.bias is None else [layer.bias]

    def along(g):
        return (ops.sum(ops.square(x), axis=1, keepdims=True) + len(bias)) * g

    def back(g):
        return [ops.matmul(ops.transpose(x), g), *(ops.sum(g, axis=0) for _ in bias)]

    return LinearMap([layer.kernel, *bias], along, back)


def _scale(variable, x) -> LinearMap:
    """z_s = x_s ∘ W at every position."""

    def along(g):
        total = ops.sum(_rows(x * g), axis=1)
        return x * ops.reshape(total, (-1, *[1] * (len(g.shape) - 2), g.shape[-1]))

    return LinearMap([variable], along, lambda g: [ops.sum(_rows(x * g), axis=(0, 1))])


def _shift(variable) -> list[LinearMap]:
    """z_s = W + … at every position."""
    if variable is None:
        return []

    def along(g):
        total = ops.sum(_rows(g), axis=1)
        return ops.ones_like(g) * ops.reshape(total, (-1, *[1] * (len(g.shape) - 2), g.shape[-1]))

    return [LinearMap([variable], along, lambda g: [ops.sum(_rows(g), axis=(0, 1))])]
