"""Residual: a skip around a few layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras


@keras.saving.register_keras_serializable("bpfree")
class Residual(keras.layers.Layer):
    """`act(body(x) + shortcut(x))`, as one block: gradients cut at its input are cut for both ways.

    Args:
        body: layers, one after the other.
        shortcut: likewise; none for the identity.
        activation: a Keras activation, the last step.

    Source: He, Zhang, Ren & Sun 2016, https://arxiv.org/abs/1512.03385, section 3.2.
    """

    def __init__(
        self,
        body: Sequence[keras.layers.Layer],
        shortcut: Sequence[keras.layers.Layer] = (),
        activation="linear",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.body = list(body)
        self.shortcut = list(shortcut)
        self.activation = keras.layers.Activation(activation)

    def build(self, input_shape):
        for way in (self.body, self.shortcut):
            shape = input_shape
            for layer in way:
                if not layer.built:
                    layer.build(shape)
                shape = layer.compute_output_shape(shape)

    def walk(self, x, call: Callable):
        """Runs every layer by `call(layer, x)`, see `bpfree.network.walk`."""
        through, around = x, x
        for layer in self.body:
            through = call(layer, through)
        for layer in self.shortcut:
            around = call(layer, around)
        return call(self.activation, through + around)

    def call(self, x, training=False):
        return self.walk(x, lambda layer, x: layer(x, training=training))

    def compute_output_shape(self, input_shape):
        for layer in self.body:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "body": [serialize(layer) for layer in self.body],
            "shortcut": [serialize(layer) for layer in self.shortcut],
            "activation": keras.activations.serialize(self.activation.activation),
        }

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        for way in ("body", "shortcut"):
            config[way] = [deserialize(layer) for layer in config[way]]
        return cls(**config)
