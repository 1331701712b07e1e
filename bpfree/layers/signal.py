"""LearningSignal: a class label as an input for the network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import ops

from bpfree.precision import width
from bpfree.seeds import derive


@keras.saving.register_keras_serializable("bpfree")
class LearningSignal(keras.layers.Layer):
    """`relu(LayerNorm(y S))` in the shape of an input: the embedding of one-hot labels (N, D).

    Args:
        shape: of one example, without the batch.
        seed: of S.

    Source: Kohan, Rietman & Siegelmann 2023, https://arxiv.org/abs/2204.01723, section 3.1.
    """

    def __init__(self, shape: Sequence[int], seed: int, **kwargs):
        super().__init__(**{**kwargs, "autocast": False, "dtype": width()})
        self.shape = tuple(shape)
        self.seed = seed
        self.embedding = keras.layers.Dense(
            math.prod(self.shape),
            use_bias=False,
            kernel_initializer=keras.initializers.GlorotUniform(seed=derive(seed, "embedding")),
            trainable=self.trainable,
            dtype=width(),
        )
        self.norm = keras.layers.LayerNormalization(
            epsilon=1e-5, trainable=self.trainable, dtype=width()
        )

    def build(self, input_shape):
        self.embedding.build(input_shape)
        self.norm.build((None, math.prod(self.shape)))

    def call(self, labels):
        signal = ops.relu(self.norm(self.embedding(labels)))
        return ops.reshape(signal, (-1, *self.shape))

    def get_config(self):
        return {**super().get_config(), "shape": self.shape, "seed": self.seed}
