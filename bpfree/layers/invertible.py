"""Layers of invertible networks: a square dense layer, and the units beyond those that go on."""

from __future__ import annotations

import keras


@keras.saving.register_keras_serializable("bpfree")
class InvertibleDense(keras.layers.Dense):
    """`y = x[:, :n] W + b` with a square W (n, n): the first n of at least n inputs, as many outputs.

    The further inputs are auxiliary units: they project nowhere, and keep what a layer with fewer
    outputs than inputs would lose. Takes the arguments of `keras.layers.Dense`.

    Source: Ahmad, van Gerven & Ambrogioni 2020, https://arxiv.org/abs/2006.06438, sections 2 and 3.
    """

    def build(self, input_shape):
        super().build((*input_shape[:-1], self.units))
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def call(self, inputs, training=None):
        return super().call(inputs[..., : self.units], training=training)


@keras.saving.register_keras_serializable("bpfree")
class FirstUnits(keras.layers.Layer):
    """`x[:, :n]`: the first n units, as the outputs of a layer that has more.

    Args:
        units: n ≥ 1.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def call(self, inputs):
        return inputs[..., : self.units]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}
