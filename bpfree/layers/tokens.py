"""Layers of a vision transformer that Keras lacks."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from bpfree.seeds import derive


@keras.saving.register_keras_serializable("bpfree")
class Positions(keras.layers.Layer):
    """Adds a learned position to every token (N, T, C).

    Args:
        seed: of the initial positions, N(0, 0.02²).

    Source: Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, equation 1.
    """

    def __init__(self, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed

    def build(self, input_shape):
        self.positions = self.add_weight(
            name="positions",
            shape=input_shape[1:],
            initializer=keras.initializers.RandomNormal(stddev=0.02, seed=self.seed),
        )

    def call(self, x):
        return x + self.positions

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable("bpfree")
class SelfAttention(keras.layers.Layer):
    """Multi-head attention of tokens (N, T, C) with themselves, from four Dense layers.

    Keras's MultiHeadAttention would start its query, key and value kernels from one seed, all alike.

    Args:
        heads: number of heads, which divides C.
        size: C.
        seed: from which every kernel derives its own.
        use_bias: whether the four layers have one.
        kernel_initializer: of their kernels, a Keras initialiser; its own seed is not used.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.
    """

    def __init__(
        self,
        heads: int,
        size: int,
        seed: int,
        use_bias: bool = True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.heads, self.size, self.seed, self.use_bias = heads, size, seed, use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.query, self.key, self.value, self.output_projection = (
            keras.layers.Dense(
                size,
                use_bias=use_bias,
                kernel_initializer=_seeded(self.kernel_initializer, derive(seed, role)),
                name=role,
            )
            for role in ("query", "key", "value", "output")
        )

    def build(self, input_shape):
        for layer in (self.query, self.key, self.value, self.output_projection):
            layer.build(input_shape)

    def walk(self, x, call: Callable):
        """Runs every layer by `call(layer, x)`, see `bpfree.network.walk`."""
        tokens = x.shape[1]
        parts = (self.heads, self.size // self.heads)
        query, key, value = (
            ops.reshape(call(layer, x), (-1, tokens, *parts))
            for layer in (self.query, self.key, self.value)
        )
        seen = ops.dot_product_attention(query, key, value)
        return call(self.output_projection, ops.reshape(seen, (-1, tokens, self.size)))

    def call(self, x):
        return self.walk(x, lambda layer, x: layer(x))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {"heads": self.heads, "size": self.size, "seed": self.seed, "use_bias": self.use_bias}
        kernel = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), **own, "kernel_initializer": kernel}


def _seeded(initializer, seed: int):
    """An initialiser of the same kind with this seed, if it draws at all."""
    config = initializer.get_config()
    return type(initializer).from_config({**config, "seed": seed} if "seed" in config else config)
